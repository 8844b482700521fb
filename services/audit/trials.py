"""The gates of an audit as trials of Ray Tune, on engines that all of them share."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune

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

# Of a process that dies, or a machine; what a user can mend is told at once.
MOST_FAILURES = 2
# So little of the machine that has the models that there is room for any number: engines have its cores.
SHARE_OF_NODE = 0.0001
Sizes = dict[Candidate, list[int]]  # how many prompts each set has


@dataclass(frozen=True)
class Trial:
    """What a process of Tune needs to drive the gate of a checkpoint. `sizes` has all the candidates, those
    first that are to be measured first; names of files in the policy are relative to `place`."""

    policy: Policy
    baseline: str | None
    out: Path
    engines: Borrowed
    sizes: Sizes
    place: Path

    def __call__(self, config: dict[str, Any]) -> None:
        """Report each look. Where the checkpoint cannot be measured, write why."""
        os.chdir(self.place)  # Tune has gone elsewhere
        number, candidate = next(
            (number, one) for number, one in enumerate(self.sizes) if one.name == config["checkpoint"]
        )
        try:
            for look, lost in self._looks(candidate, priority=-number):
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

    def _looks(self, candidate: Candidate, priority: int) -> Iterator[tuple[Look, str | None]]:
        """Each look, and the rule that cannot hold any more. What the last one says is written before."""
        folder, sizes = candidate.folder(self.out), self.sizes[candidate]
        models = {MODEL: candidate.model}
        if self.policy.needs_baseline:
            assert self.baseline is not None
            models[BASELINE] = self.baseline
            lend_baseline(self.policy, self.out, folder, 1)
        gate = Gate(
            self.policy, models, folder, self.engines, name=f"audit-{candidate.name}", priority=priority
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


class Enough(tune.Stopper):  # type: ignore[misc]
    """Ends a trial once its verdict is certain, or cannot be a pass any more."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return bool(result.get("certain") or result.get("hopeless"))

    def stop_all(self) -> bool:
        """Never: each checkpoint is for itself."""
        return False


class _Count(tune.Callback):  # type: ignore[misc]
    """Tells that a checkpoint is done with. Tune stores it; who listens is this process'."""

    told: ClassVar[Callable[[], object]]

    def on_trial_complete(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        _Count.told()

    def on_trial_error(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        _Count.told()


def run_trials(
    trial: Trial, candidates: list[Candidate], max_concurrent: int, told: Callable[[], object]
) -> dict[Candidate, Exception]:
    """Measure candidates, so many at the same time; gives those whose processes failed again and again.
    `told` hears of each that is done with."""
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for who called
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the leaderboard
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    _Count.told = told

    def measured(config: dict[str, Any]) -> None:  # Tune wants a function
        trial(config)

    # Where the models and the folder are. It takes no CPU: it only drives, and the engines have the cores.
    here = tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": SHARE_OF_NODE}])
    # Of Tune's own files none is needed again: what is finished is in the gates' folders. Its state is
    # written in place, so that what a kill leaves of it may be no JSON.
    shutil.rmtree(trial.out / "tune", ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(measured, here),
        param_space={"checkpoint": tune.grid_search([one.name for one in candidates])},
        # Imports, and the browser that draws figures, take seconds: the next trial has the same process.
        tune_config=tune.TuneConfig(max_concurrent_trials=max_concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(trial.out),
            verbose=0,
            stop=Enough(),
            callbacks=[_Count()],
            failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
        ),
    )
    by_name = {one.name: one for one in candidates}
    failed = {by_name[one.config["checkpoint"]]: one.error for one in tuner.fit() if one.error is not None}
    if not failed:
        shutil.rmtree(trial.out / "tune", ignore_errors=True)
    return failed
