"""`visage audit`: many checkpoints under one policy, and how they stand beside each other."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from services.audit.checkpoints import AuditError, Candidate, named, whole_name
from services.audit.checks import sizes_of
from services.audit.leaderboard import write_leaderboard
from services.audit.outcomes import is_as_measured, is_settled, read_outcome, write_error
from services.audit.trials import Listener, Sizes, Trial, run_trials
from services.audit.watch import Watcher
from services.gate.evidence import BASELINE
from services.gate.gate import part_of, require_pins
from services.gate.infrastructure import is_infrastructure
from services.gate.models import named as model_named
from services.sweep.cluster import this_node
from services.sweep.coordinator import LEASE_SECONDS, WORKING, alone_in
from services.sweep.engines import Engines
from services.sweep.estimate import Work
from services.sweep.inputs import INPUTS, ChangedError, require_fresh, require_unchanged
from services.sweep.plan import Plan, check, inputs_of, make_plan
from services.sweep.run import Run, open_engines
from visage_core.errors import InputError
from visage_core.policy import Policy
from visage_core.results import Results
from visage_core.spec import LandscapeSpec, ModelJudgeSpec, differences

POLL_SECONDS = 5.0
# Engines that died are started anew so often.
LIVES = 3
AUDIT = "audit.json"
Told = Callable[[int, int], object]  # so many checkpoints are done with, of so many


class TrialError(InputError):
    """A checkpoint whose trial failed again and again, for no reason of its own."""


class AuditCancelled(Exception):  # noqa: N818
    """The audit was ended before it was done."""


@dataclass
class Audit:
    """An audit of a policy, in a folder. `max_concurrent` checkpoints are measured at the same time, one more
    than there are workers unless given. The same audit goes on after whatever ended it.

    It starts engines of its own at `address`, or works on `engines` that others use too. There `name` is its
    own, and `resolve`, `priority`, `owner` and `trace` are as in services.gate.gate.Gate. `told` hears of
    each checkpoint that is done with, and from time to time; `planned`, what is about to be measured.
    `doing` says what is measured now, or what that waits for.
    """

    policy: Policy
    baseline: str | None
    out: Path
    address: str = "local"
    max_concurrent: int | None = None
    told: Told = lambda *_: None
    planned: Callable[[Work], object] | None = None
    engines: Engines | None = None
    resolve: Callable[[LandscapeSpec], LandscapeSpec] = lambda spec: spec
    name: str = "audit"
    priority: int = 0
    owner: str = ""
    trace: str | None = None
    _run: Run | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.out = self.out.resolve()
        self.baseline = None if self.baseline is None else whole_name(self.baseline)
        if self.policy.needs_baseline and self.baseline is None:
            raise AuditError(
                "baseline", "the policy compares with one, and none is given", "Give --baseline MODEL"
            )
        if self.address.startswith("ray://"):
            raise AuditError(
                "address",
                "an audit's trials run beside its files, and these are outside the cluster",
                "Run it on a machine of the cluster, with --address auto",
            )
        self._engines: Engines | None = None
        self._baseline_sizes: list[int] = []
        self._candidates: dict[Candidate, None] = {}  # all that there are, in their order
        self.done = 0  # so many checkpoints have an outcome
        self.doing = "reading the models"
        self._looked = 0.0
        self._engine_starts = 0
        self._started_before = 0  # engines, by others

    def of(self, models: Iterable[str]) -> dict[str, Any]:
        """Audit these models; gives the leaderboard, which is written too. Raises an InputError, and
        AuditCancelled."""
        return self._audited([list(models)])

    def cancel(self) -> None:
        """End it; finished points stay. Another thread than that which waits for it may call it."""
        self._cancelled.set()
        if self._run is not None:
            self._run.cancel()

    def watch(self, models: Iterable[str], watcher: Watcher, until: int | None = None) -> dict[str, Any]:
        """Audit these models, and those that appear in a watched folder: as soon as each is complete, until
        there are so many of them, or until Ctrl-C, which ends it as if they were all."""
        given = list(models)
        try:
            return self._audited(
                itertools.chain([given] if given else [], _appearing(watcher, until)), watcher
            )
        except KeyboardInterrupt:
            if not any(read_outcome(self.out, one) for one in self._candidates):
                raise
            return self._written(watcher)

    def _audited(self, batches: Iterable[list[str]], watcher: Watcher | None = None) -> dict[str, Any]:
        with ExitStack() as stack:
            stack.enter_context(alone_in(self.out, "audit", LEASE_SECONDS))
            self._require_same()
            if self.baseline is not None:
                self._baseline_sizes = self._checked_baseline(self.baseline)
                self._require_same_baseline(self.baseline)
            for batch in batches:
                sizes = self._sound(named(batch, self.out))
                # Not before: what cannot be audited has no folder.
                Results(self.out).write_json(AUDIT, self._about())
                if sizes:
                    if self._engines is None:
                        self._engines = self.engines or stack.enter_context(
                            open_engines(self.policy.spec("model"), self.address)
                        )
                        with suppress(RayError):
                            self._started_before = self._engines.state()["engine_starts"]
                        if self.planned is not None:
                            self.planned(self._work(list(sizes)))
                        self._measure_baseline()
                    self._measure(sizes)
                self._require_going()
                document = self._written(watcher)
                if watcher is not None:
                    self.doing = "waiting for the next checkpoint"
                    self.told(self.done, len(self._candidates))
            return document

    def _about(self) -> dict[str, Any]:
        """What makes an audit this one. Other rules do not make it another: what is measured decides them."""
        return {
            "audit_version": 1,
            "landscape": self.policy.spec("model").model_dump(mode="json", exclude={"model", "resources"}),
            "looks": self.policy.looks,
            "baseline": self.baseline,
        }

    def _require_same(self) -> None:
        """Raise AuditError where the folder is another audit's."""
        before = Results(self.out).read_json(AUDIT)
        if before is not None and (changes := differences(before, self._about())):
            raise AuditError(
                "out", f"{self.out} holds another audit: {'; '.join(changes)}", "Use another folder"
            )

    def _checked_baseline(self, model: str) -> list[int]:
        with model_named(BASELINE):
            return sizes_of(self.policy, model, self.resolve, self._workers_here)

    def _require_same_baseline(self, model: str) -> None:
        """Raise an InputError where the baseline, or what it is measured with, is not what it was, is older
        than the policy allows, or is not what that pins."""
        parts = [part_of(self.policy, self.out / BASELINE, look + 1) for look in range(self.policy.looks)]
        measured = [Results(part).read_json(INPUTS) for part in parts]
        if self.policy.baseline_sha256 is None and not any(measured):
            return
        plan = make_plan(self.resolve(self.policy.spec(model)), workers_here=0)
        require_pins(self.policy, plan.inputs, plan.inputs)
        for number, (part, before) in enumerate(zip(parts, measured, strict=True), start=1):
            if before is not None:
                spec = self.resolve(self.policy.part(model, number, self._baseline_sizes))
                require_unchanged(str(part), before, plan.inputs_of(spec), BASELINE)
                require_fresh(str(part), before, self.policy.max_age_days, BASELINE)

    def _require_pinned_prompts(self, model: str) -> None:
        if self.policy.prompts_sha256:
            spec = self.resolve(self.policy.spec(model))
            require_pins(self.policy, inputs_of(spec, with_model=False), None)

    def _sound(self, candidates: list[Candidate]) -> Sizes:
        """Those of some candidates that are to be measured; of the others, those that have a problem get it
        as their outcome. Raises it where it is not the checkpoints', and all have one."""
        self._candidates |= dict.fromkeys(candidates)
        left: Sizes = {}
        problems: dict[Candidate, InputError] = {}
        for candidate in candidates:
            self._require_going()
            try:
                if is_settled(self.out, candidate, self.policy, self.baseline) and is_as_measured(
                    self.out, candidate, self.policy, self.resolve
                ):
                    continue
                self._require_pinned_prompts(candidate.model)
                left[candidate] = sizes_of(
                    self.policy, candidate.model, self.resolve, self._workers_here, self._beside
                )
            except ChangedError:
                raise  # with other prompts or judges it is another audit
            except InputError as error:
                problems[candidate] = error
        if len(problems) == len(self._candidates):
            for problem in problems.values():
                if not problem.field.startswith("model") and not is_infrastructure(problem):
                    raise problem
        for candidate, problem in problems.items():
            write_error(self.out, candidate, self.policy, self.baseline, problem)
        self.done = len(self._candidates) - len(left)
        self.told(self.done, len(self._candidates))
        return left

    def _work(self, candidates: list[Candidate]) -> Work:
        """Return the work of measuring some candidates, which are of one kind, and the baseline."""
        assert self._engines is not None
        spec, resources = self.policy.spec(candidates[0].model), self._engines.resources
        checked, models = check(spec), len(candidates) + (self.baseline is not None)
        return Work.of(spec, checked, checked.base.parameters, models, resources.cores, resources.gpus)

    def _measure_baseline(self) -> None:
        """Measure all parts of the prompts of the baseline, for each checkpoint to be compared with."""
        if self.baseline is None:
            return
        assert self._engines is not None
        for look in range(1, self.policy.looks + 1):
            spec = self.policy.part(self.baseline, look, self._baseline_sizes)
            self._run = Run(
                make_plan(self.resolve(spec), workers_here=0).on_node(this_node()),
                part_of(self.policy, self.out / BASELINE, look),
                self._engines,
                name=f"{self.name}-{BASELINE}-{look}",
                priority=self.priority,
                owner=self.owner,
                trace=self.trace,
            )
            for progress in self._run:
                if self._cancelled.is_set() and progress.state == WORKING:
                    self._run.cancel()
                points = f"{progress.done} of {progress.points} points"
                of = f"baseline, look {look} of {self.policy.looks}"
                self.doing = f"{of}: {progress.waiting or points}"
                self.told(self.done, len(self._candidates))
            self._run = None
            self._require_going()

    def _measure(self, sizes: Sizes) -> None:
        """Measure candidates until each has an outcome."""
        assert self._engines is not None
        left = list(sizes)
        listener = Listener(self._count, self._cancelled.is_set)
        for _ in range(LIVES):
            borrowed = self._engines.lend(self._judging_plan(left[0]))
            trial = Trial(
                self.policy,
                self.baseline,
                self.out,
                borrowed,
                sizes,
                Path.cwd(),
                self.resolve,
                self.name,
                self.priority,
                self.owner,
                self.trace,
            )
            failed = run_trials(trial, left, self._concurrent, listener)
            self._require_going()
            self._engines.bury()
            left = list(failed)
            if not failed or self._engines.pool() is borrowed.pool():
                break  # else the engines died, and so did every trial
            self.done -= len(left)
        for candidate, why in failed.items():
            reason = (str(why).strip() or type(why).__name__).splitlines()[-1]
            error = TrialError(
                "trial", f"it failed again and again: {reason}", "See Ray's logs, and run it again"
            )
            write_error(self.out, candidate, self.policy, self.baseline, error)

    def _judging_plan(self, candidate: Candidate) -> Plan | None:
        """A plan with the policy's judges that are models; None where it has none. It takes a reading of the
        candidate's files."""
        spec = self.resolve(self.policy.spec(candidate.model))
        if not any(isinstance(judge, ModelJudgeSpec) for judge in spec.judges):
            return None
        return make_plan(spec, workers_here=0).on_node(this_node())

    def _require_going(self) -> None:
        """Raise AuditCancelled where it was cancelled."""
        if self._cancelled.is_set():
            raise AuditCancelled

    def _count(self, more: int) -> None:
        self.done += more
        if self._engines is not None and time.monotonic() > self._looked + POLL_SECONDS:
            self._looked = time.monotonic()
            with suppress(RayError):
                self.doing = self._engines.state().get("waiting") or "measuring"
        self.told(self.done, len(self._candidates))

    def _written(self, watcher: Watcher | None) -> dict[str, Any]:
        incomplete = [] if watcher is None else watcher.incomplete()
        if self._engines is not None:
            with suppress(RayError):
                started = self._engines.state()["engine_starts"] - self._started_before
                self._engine_starts = max(self._engine_starts, started)
        more = {"incomplete": incomplete, "engine_starts": self._engine_starts}
        return write_leaderboard(self.out, self.policy, self.baseline, list(self._candidates), more)

    @property
    def _concurrent(self) -> int:
        # One lies ready while the others are measured.
        return self.max_concurrent or self.policy.spec("model").resources.workers + 1

    @property
    def _beside(self) -> str | None:
        """The baseline, where the policy compares with it."""
        return self.baseline if self.policy.needs_baseline else None

    @property
    def _workers_here(self) -> int:
        """How many engines are still to start on this machine."""
        if self.address != "local" or self.engines is not None or self._engines is not None:
            return 0
        return self.policy.spec("model").resources.workers


def _appearing(watcher: Watcher, until: int | None) -> Iterator[list[str]]:
    """The checkpoints of a watched folder as they become complete, so many of them at most."""
    seen: set[str] = set()
    while until is None or len(seen) < until:
        found = watcher.complete(time.monotonic())
        if until is not None:
            fresh = [one for one in found if one not in seen]
            found = [one for one in found if one in seen] + fresh[: until - len(seen)]
        seen |= set(found)
        if found:
            yield found
        elif until is None or len(seen) < until:
            time.sleep(POLL_SECONDS)
