"""The gates of an audit as trials of Ray Tune, on engines that all of them share."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from services.audit.baseline import lend_baseline
from services.audit.checkpoints import Candidate
from services.audit.outcomes import write_error, write_outcome
from services.gate.evidence import BASELINE, MODEL
from services.gate.gate import Gate, Look, conclude
from services.sweep.engines import Borrowed
from services.sweep.report import load_landscapes
from visage_core.errors import InputError
from visage_core.policy import Policy
from visage_core.reach import lost_rule
from visage_core.spec import LandscapeSpec

# Of a process that dies, or a machine; what a user can mend is told at once.
MOST_FAILURES = 2
# So little of the machine that has the models that there is room for any number: engines have its cores.
SHARE_OF_NODE = 0.0001
SCRATCH = ".tune"  # with a dot, for what is no result
Sizes = dict[Candidate, list[int]]  # how many prompts each set has


@dataclass(frozen=True)
class Trial:
    """What a process of Tune needs to drive the gate of a checkpoint. `sizes` has all the candidates, those
    first that are to be measured first; names of files in the policy are relative to `place`. `name` is the
    audit's own among all that share the engines; the rest is as in services.gate.gate.Gate."""

    policy: Policy
    baseline: str | None
    out: Path
    engines: Borrowed
    sizes: Sizes
    place: Path
    resolve: Callable[[LandscapeSpec], LandscapeSpec]
    name: str
    priority: int
    owner: str
    trace: str | None

    def __call__(self, config: dict[str, Any]) -> None:
        """Report each look. Where the checkpoint cannot be measured, write why."""
        os.chdir(self.place)  # Tune has gone elsewhere
        number, candidate = next(
            (number, one) for number, one in enumerate(self.sizes) if one.name == config["checkpoint"]
        )
        try:
            for look, lost in self._looks(candidate, number):
                tune.report(
                    {
                        "look": look.number,
                        "verdict": look.decision.verdict,
                        "responses": look.responses,
                        "planned": look.planned,
                        "certain": look.last,
                        "hopeless": lost is not None,
                    }
                )
        except InputError as error:
            write_error(self.out, candidate, self.policy, self.baseline, error)

    def _looks(self, candidate: Candidate, number: int) -> Iterator[tuple[Look, str | None]]:
        """Each look, and the rule that cannot hold any more. What the last one says is written before."""
        folder, sizes = candidate.folder(self.out), self.sizes[candidate]
        models = {MODEL: candidate.model}
        if self.policy.needs_baseline:
            assert self.baseline is not None
            models[BASELINE] = self.baseline
            lend_baseline(self.policy, self.out, folder, 1)
        gate = Gate(
            self.policy,
            models,
            folder,
            self.engines,
            resolve=self.resolve,
            name=f"{self.name}-{candidate.name}",
            priority=self.priority,
            owner=self.owner,
            order=number,
            trace=self.trace,
        )
        for look in gate:
            lost = None
            if not look.last:
                rule = lost_rule(self.policy, load_landscapes(folder / MODEL), sizes)
                lost = None if rule is None else str(rule)
            if look.last or lost is not None:
                conclude(self.policy, models, folder, look)
                write_outcome(self.out, candidate, self.policy, self.baseline, sizes, look, lost)
            yield look, lost
            if self.policy.needs_baseline:
                lend_baseline(self.policy, self.out, folder, look.number + 1)


@dataclass(frozen=True)
class Listener:
    """Who runs trials: `told` hears how many more are done with, again and again, and they end once
    `cancelled` says so."""

    told: Callable[[int], object]
    cancelled: Callable[[], bool]


# By the audits' names: Tune copies and stores what it is given, and who listens is this process'.
_listeners: dict[str, Listener] = {}
_registering = threading.Lock()


@dataclass
class Enough(tune.Stopper):  # type: ignore[misc]
    """Ends a trial once its verdict is certain, or cannot be a pass any more, and all when the audit ends."""

    audit: str

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return bool(result.get("certain") or result.get("hopeless"))

    def stop_all(self) -> bool:
        """Whether the audit was cancelled."""
        return _listeners[self.audit].cancelled()


@dataclass
class _Count(tune.Callback):  # type: ignore[misc]
    """Tells how many checkpoints are done with."""

    audit: str

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        _listeners[self.audit].told(0)

    def on_trial_complete(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        _listeners[self.audit].told(1)

    def on_trial_error(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        _listeners[self.audit].told(1)


def run_trials(
    trial: Trial, candidates: list[Candidate], max_concurrent: int, listener: Listener
) -> dict[Candidate, Exception]:
    """Measure candidates, so many at the same time; gives those whose processes failed again and again. Once
    it is cancelled it returns within seconds, and no process of it works any more."""
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for who called
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the leaderboard
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def measured(config: dict[str, Any]) -> None:  # Tune wants a function
        trial(config)

    # Where the models and the folder are. It takes no CPU: it only drives, and the engines have the cores.
    here = tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": SHARE_OF_NODE}])
    names = [one.name for one in candidates]
    # Of Tune's own files none is needed again, unless to see why one failed: what is finished is in the
    # gates' folders. Its state is written in place, so that what a kill leaves of it may be no JSON.
    shutil.rmtree(trial.out / SCRATCH, ignore_errors=True)
    # Tune knows functions by their names, in all of a process, and takes in one at a time.
    known_as = f"audit-{trial.name}"
    with _registering:
        tune.register_trainable(known_as, tune.with_resources(measured, here))
    tuner = tune.Tuner(
        known_as,
        param_space={"checkpoint": tune.grid_search(names)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=max_concurrent,
            # Imports, and the browser that draws figures, take seconds: the next trial has the same process.
            reuse_actors=True,
            # A trial that never reported is known by its folder alone.
            trial_dirname_creator=lambda one: str(names.index(one.config["checkpoint"])),
        ),
        run_config=tune.RunConfig(
            name=SCRATCH,
            storage_path=str(trial.out),
            verbose=0,
            stop=Enough(trial.name),
            callbacks=[_Count(trial.name)],
            failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
        ),
    )
    _listeners[trial.name] = listener
    try:
        ended = tuner.fit()
    finally:
        del _listeners[trial.name]
    if listener.cancelled():
        _withdraw(trial)
    failed = {candidates[int(Path(one.path).name)]: one.error for one in ended if one.error is not None}
    if not failed or listener.cancelled():
        shutil.rmtree(trial.out / SCRATCH, ignore_errors=True)
    return failed


def _withdraw(trial: Trial) -> None:
    """Take an audit's jobs from the pool: their processes were ended before they could."""
    pool = trial.engines.pool()
    with suppress(RayError):
        jobs = ray.get(pool.state.remote(), timeout=60)["jobs"]
        ours = [one for one in jobs if one.startswith(f"{trial.name}-")]
        ray.get([pool.withdraw.remote(one) for one in ours], timeout=60)
