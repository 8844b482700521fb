"""A search from its spec to the direction that it finds, and again from where it stopped."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from services.search.spec import SearchSpec
from services.sweep.cluster import this_node
from services.sweep.coordinator import Progress
from services.sweep.engines import Borrowed, Engines
from services.sweep.plan import make_plan
from services.sweep.report import load_landscapes
from services.sweep.run import Run, open_engines
from visage_core.checkpoints import Checkpoint
from visage_core.errors import InputError
from visage_core.landscape import MEASURES, Landscape
from visage_core.metrics import Basin
from visage_core.results import Results
from visage_core.selection import layer_of
from visage_core.spec import LandscapeSpec, differences

SEARCH_VERSION = 1
# How a direction is ranked that does not leave the basin: after all that do, by how close it comes.
NOT_LOST = 1_000.0
# Called with what is measured, how many candidates are, and how far the landscape under way is.
Told = Callable[[str, int, Progress | None], object]
Norms = dict[str, float]  # of each tensor of the model


class SearchError(InputError):
    """A search that cannot be made."""


def search(
    spec: SearchSpec, out: Path, address: str = "local", told: Told = lambda *_: None
) -> dict[str, Any]:
    """Look for the direction with the smallest radius; gives the document that it writes to search.json.

    What is finished is kept in `out`: the same call goes on from there. `told` hears what is being done, and
    how many candidates are measured. Raises an InputError.
    """
    _require_tune(spec)
    out = out.resolve()
    here = spec.landscape.resources.workers if address == "local" else 0
    plan = make_plan(spec.along(spec.beside_it), here)
    _begin(spec, Results(out))
    base = Checkpoint.open(Path(plan.model.path))
    norms = {name: float(torch.linalg.vector_norm(base.weights[name].double())) for name in base.tensors}
    with open_engines(spec.landscape, address) as engines:
        about = "random directions"
        beside = measure(plan.spec, out / "random", engines, "random", partial(told, about, 0))
        told("candidates", 0, None)
        trials = _run_trials(spec, norms, out, engines, told)
        best = trials[0]
        about = "the direction that was found, with all prompts"
        confirmed = candidate(spec, best["config"], norms, prompts=None)
        found = measure(confirmed, out / "found", engines, "found", partial(told, about, spec.trials))
    document = {
        "search_version": SEARCH_VERSION,
        "spec": spec.model_dump(mode="json"),
        "inputs": plan.inputs,
        "random": _radii(beside, norms),
        "found": _radii(found, norms) | {"direction": spec.direction(best["config"])},
        "trials": trials,
    }
    Results(out).write_json("search.json", document)
    return document


def candidate(spec: SearchSpec, config: dict[str, Any], norms: Norms, prompts: int | None) -> LandscapeSpec:
    """The landscape of a point of the search space. Where few tensors move, it goes so much farther along
    them that the weights are as far from the model as in the others."""
    direction = spec.direction(config)
    near = spec.along(direction, prompts)
    return spec.along(direction, prompts, reach=math.ceil(round(1 / share(near, norms), 6)))


def share(spec: LandscapeSpec, norms: Norms) -> float:
    """How far from the model coordinate 1 is, as a share of the norm of all its weights."""
    moved = spec.axis.direction.selection.of(norms)
    return math.hypot(*(norms[name] for name in moved)) / math.hypot(*norms.values())


def measure(
    spec: LandscapeSpec,
    out: Path,
    engines: Engines | Borrowed,
    name: str,
    told: Callable[[Progress], object] = lambda _: None,
) -> Landscape:
    """Measure an adaptive landscape to its end."""
    plan = make_plan(spec, workers_here=0)
    for progress in Run(plan.on_node(this_node()), out, engines, name=name, owner=name):
        told(progress)
    return load_landscapes(out)[0]


def outcome(landscape: Landscape, norms: Norms) -> dict[str, Any]:
    """What a candidate comes to: its radius, None where the basin does not end within the range, and a rank
    by which lower is worse for the model."""
    [one], [basin] = landscape.surfaces, landscape.basins
    far = share(landscape.spec, norms)
    if basin is None:
        return {"radius": 0.0, "rank": 0.0}
    assert isinstance(basin, Basin)
    if basin.open:
        return {"radius": None, "rank": NOT_LOST - float(max(one.rate[0][0], one.rate[0][-1]))}
    return {"radius": far * basin.radius, "rank": far * basin.radius}


def _radii(landscape: Landscape, norms: Norms) -> dict[str, Any]:
    """The radius of each direction, and their mean with its interval, as shares of the weights' norm."""
    far = share(landscape.spec, norms)
    score = landscape.score(MEASURES["basin_radius"])
    return {
        "radius": {"value": far * score.value, "low": far * score.low, "high": far * score.high},
        "directions": [
            {
                "seed": one.seed,
                "radius": far * radius,
                "open": basin is not None and basin.open,
            }
            for one, radius, basin in zip(
                landscape.surfaces, score.by_direction, landscape.basins, strict=True
            )
        ],
    }


@dataclass(frozen=True)
class _Trial:
    """What a process of Tune needs to measure a candidate."""

    spec: SearchSpec
    norms: Norms
    out: Path
    engines: Borrowed

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        # By its content: a trial that is begun again goes on from its points.
        name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
        spec = candidate(self.spec, config, self.norms, self.spec.prompts)
        landscape = measure(spec, self.out / "trials" / name, self.engines, f"trial-{name}")
        return outcome(landscape, self.norms)


class _Count(tune.Callback):  # type: ignore[misc]
    """Tells how many candidates are measured. Tune stores it for a restart; who listens is this process'."""

    told: ClassVar[Told]

    def on_trial_complete(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        _Count.told("candidates", sum(one.status == "TERMINATED" for one in trials), None)


def _run_trials(
    spec: SearchSpec, norms: Norms, out: Path, engines: Engines, told: Told
) -> list[dict[str, Any]]:
    """Let Ray Tune choose and measure the candidates; gives them, the worst for the model first."""
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for who called
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trial = _Trial(spec, norms, out, Borrowed(engines.pool(), engines.server()))
    _Count.told = told

    def measured(config: dict[str, Any]) -> dict[str, Any]:  # Tune wants a function
        return trial(config)

    # The engines have the cores; Tune takes no trial that needs nothing at all.
    trainable = tune.with_resources(measured, {"memory": 1})
    space = _space(spec, norms)
    place = str(out / "tune")
    if tune.Tuner.can_restore(place):
        tuner = tune.Tuner.restore(place, trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space if spec.algorithm == "random" else None,
            tune_config=tune.TuneConfig(
                metric="rank",
                mode="min",
                num_samples=spec.trials,
                search_alg=_algorithm(spec, space),
                # One lies ready while the others are measured.
                max_concurrent_trials=spec.landscape.resources.workers + 1,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(out),
                verbose=0,
                callbacks=[_Count()],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )
    results = tuner.fit()
    if results.errors:
        raise SearchError(
            "search",
            f"a candidate failed: {str(results.errors[0]).strip().splitlines()[-1]}",
            "See its log in tune/",
        )
    names = ("radius", "rank")
    trials = [{"config": one.config} | {name: one.metrics[name] for name in names} for one in results]
    # Tune's own order is another after a restart.
    return sorted(trials, key=lambda trial: (trial["rank"], json.dumps(trial["config"], sort_keys=True)))


def _space(spec: SearchSpec, norms: Norms) -> dict[str, Any]:
    """The search space, as Tune has it."""
    if spec.space == "seeds":
        return {"seed": tune.randint(spec.beside, 2**31)}
    if spec.space == "layers":
        layers = 1 + max((layer_of(name) or 0 for name in norms), default=0)
        return {"first": tune.randint(0, layers), "more": tune.randint(0, max(1, layers // 2))}
    return {f"w{number}": tune.uniform(-1, 1) for number in range(spec.dimension)}


def _algorithm(spec: SearchSpec, space: dict[str, Any]) -> Any:
    """What chooses the next candidate, as Tune has it."""
    if spec.algorithm == "random":
        return BasicVariantGenerator(random_state=spec.seed)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    sampler = samplers.CmaEsSampler if spec.algorithm == "cmaes" else samplers.TPESampler
    return OptunaSearch(space, metric="rank", mode="min", sampler=sampler(seed=spec.seed))


def _begin(spec: SearchSpec, results: Results) -> None:
    """Make a folder this search's. Raises SearchError where it is another's."""
    document = spec.model_dump(mode="json")
    before = results.read_json("search-spec.json")
    if before is not None and (changes := differences(before, document)):
        raise SearchError(
            "out", f"{results.folder} holds another search: {'; '.join(changes)}", "Use another folder"
        )
    results.write_json("search-spec.json", document)


def _require_tune(spec: SearchSpec) -> None:
    wanted = (
        [] if spec.algorithm == "random" else ["optuna", *(["cmaes"] if spec.algorithm == "cmaes" else [])]
    )
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise SearchError(
            "algorithm", f"{' and '.join(missing)} is not installed", "pip install 'visage[search]'"
        )
