"""`visage gate`: measure what a policy asks for, and hold the model against it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.gate.evidence import (
    BASELINE,
    DECISION,
    MODEL,
    begin,
    decided,
    findings_of,
    unpinned,
    workers_of,
)
from services.gate.models import named, require_comparable
from services.gate.notes import doubts_of, notes_of
from services.gate.reports import as_html, as_junit, as_markdown
from services.sweep.cluster import this_node
from services.sweep.coordinator import WORKING, Progress
from services.sweep.engines import Borrowed, Engines
from services.sweep.estimate import Work
from services.sweep.inputs import (
    BEGUN,
    INPUTS,
    PROMPTS,
    RENDERED,
    Inputs,
    require_fresh,
    require_unchanged,
)
from services.sweep.plan import Plan, inputs_of, make_plan, versions
from services.sweep.report import write_figures, write_summary
from services.sweep.run import Run, open_engines
from visage_core.checkpoints import Checkpoint
from visage_core.errors import InputError
from visage_core.grid import count_points
from visage_core.join import join_points, join_responses
from visage_core.policy import AT_ORIGIN, FAIL, INCONCLUSIVE, Decision, Policy, PolicyError, level_of
from visage_core.readings import samples_of
from visage_core.repeats import require_different
from visage_core.results import Results
from visage_core.spec import LandscapeSpec

# Called with "model" or "baseline", the number of the look that it is measured for, and how far that is.
Told = Callable[[str, int, Progress], object]


class GateError(InputError):
    """A gate that cannot be asked."""


@dataclass(frozen=True)
class Look:
    """What a gate says after a part of the prompts. `responses` are measured, of so many that all of them are
    `planned` to have; the `last` look has the verdict. `prompts` are the digests of the whole sets."""

    number: int
    of: int
    decision: Decision
    responses: int
    planned: int
    last: bool
    prompts: tuple[str, ...] = ()


@dataclass
class Gate:
    """A policy that is held against a model, and where it compares against a baseline too.

    Iterated, it measures one part of the prompts after another, into folders below `out`, and yields a look
    after each, until the verdict is certain. What is measured already is kept. `resolve` may turn a spec's
    names into paths. The rest is as in services.sweep.run.Run.
    """

    policy: Policy
    models: dict[str, str]
    out: Path
    engines: Engines | Borrowed
    told: Told = lambda *_: None
    resolve: Callable[[LandscapeSpec], LandscapeSpec] = lambda spec: spec
    outside: bool = False
    name: str = "gate"
    priority: int = 0
    owner: str = ""
    order: int = 0
    trace: str | None = None
    _run: Run | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _whole: dict[str, Plan] = field(default_factory=dict)  # of all prompts, as they were at the beginning

    def __iter__(self) -> Iterator[Look]:
        """Measure what is left. Raises InputError where that cannot be, and where something is not any more
        what a part of the prompts was measured with."""
        self._whole = prepared(self.policy, self.models, self.out, self.resolve)
        sizes = self._whole[MODEL].sizes
        try:
            for number in range(1, self.policy.looks + 1):
                look = self._look(number, sizes)
                if look is None:
                    return
                yield look
                if look.last:
                    return
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End it; finished points stay. Another thread than that which iterates may call it."""
        self._cancelled.set()
        if self._run is not None:
            self._run.cancel()

    def _look(self, number: int, sizes: list[int]) -> Look | None:
        """Measure a part of the prompts and look at all so far; None where it was cancelled."""
        whole = True
        for which in self.models:
            for progress in self._measure(which, number, sizes):
                self.told(which, number, progress)
                whole = whole and progress.failed == 0
            self._run = None
            if self._cancelled.is_set():
                return None
            # To decide takes a while, and after the last one it is done below.
            if which == MODEL and BASELINE in self.models and self._fails_at_origin(number, sizes):
                break
        decision = self._decide(number, sizes)
        certain = decision.verdict != INCONCLUSIVE
        # A point that failed is missing at every look.
        last = certain or number == self.policy.looks or not whole
        responses, planned = self._responses(sizes)
        prompts = tuple(self._whole[MODEL].inputs["sha256"][PROMPTS])
        return Look(number, self.policy.looks, decision, responses, planned, last, prompts)

    def _measure(self, which: str, number: int, sizes: list[int]) -> Iterator[Progress]:
        """Measure a part of the prompts of one model; no more than the origin, where that decides it."""
        before = self._whole[which]
        with named(which):
            if number > 1:
                now = inputs_of(before.spec)
                require_unchanged("a part of the prompts", before.inputs, now, which)
            plan = make_plan(self._spec(which, sizes, number), workers_here=0)
        require_unchanged("a part of the prompts", before.inputs_of(plan.spec), plan.inputs, which)
        self._run = run = Run(
            plan.on_node(this_node()),
            self._part(which, number),
            self.engines,
            outside=self.outside,
            name=f"{self.name}-{which}-{number}",
            priority=self.priority,
            owner=self.owner,
            order=self.order,
            trace=self.trace,
        )
        looked = which != MODEL
        for progress in run:
            yield progress
            if self._cancelled.is_set() and progress.state == WORKING:
                run.cancel()
            elif progress.done and not looked:
                looked = True
                if self._fails_at_origin(number, sizes):
                    run.cancel()

    def _fails_at_origin(self, number: int, sizes: list[int]) -> bool:
        """Whether the model fails by what it does as it is, whatever is around it."""
        asked = any(rule.measure in AT_ORIGIN and not rule.relative for rule in self.policy.rules)
        return asked and self._decide(number, sizes).verdict == FAIL

    def _decide(self, number: int, sizes: list[int]) -> Decision:
        """Decide by what is measured so far."""
        for which in self.models:
            if self.policy.looks > 1 and self._part(which, number).exists():
                self._join(which, number, sizes)
        return decided(self.policy, self.out, number)

    def _join(self, which: str, number: int, sizes: list[int]) -> None:
        """Put the parts of the prompts together, as if they had been measured at once."""
        parts = [Results(self._part(which, part)) for part in range(1, number + 1)]
        spec = self.resolve(self.policy.until(self.models[which], number, sizes))
        whole = Results(self.out / which)
        whole.write_json("spec.json", spec.model_dump(mode="json"))
        if (geometry := parts[0].read_json("geometry.json")) is not None:
            whole.write_json("geometry.json", geometry)
        inputs = self._whole[which].inputs_of(spec)
        measured = [part.read_json(INPUTS) or {} for part in parts]
        for part, before in zip(parts, measured, strict=True):
            # Of the prompts, each part has its own, which were compared before they were asked.
            require_unchanged(str(part.folder), before, inputs, which, (PROMPTS, RENDERED))
        begun = [before[BEGUN] for before in measured if BEGUN in before]
        # The prompts are those of all parts.
        whole.write_json(INPUTS, inputs | ({BEGUN: min(begun)} if len(begun) == len(parts) else {}))
        runs = [run for part in parts if (run := part.read_json("run.json"))]
        if runs:
            failed = [one for run in runs for one in run["failed"]]
            seconds = round(sum(run["worker_seconds"] for run in runs), 3)
            tokens = sum(run["tokens"] for run in runs)
            last = runs[-1] | {"failed": failed, "worker_seconds": seconds, "tokens": tokens}
            whole.write_json("run.json", last)
        whole.put(
            join_points(spec, [part.points() for part in parts]),
            join_responses([part.responses() for part in parts]),
        )

    def _spec(self, which: str, sizes: list[int], number: int) -> LandscapeSpec:
        return self.resolve(self.policy.part(self.models[which], number, sizes))

    def _part(self, which: str, number: int) -> Path:
        """The results folder of a part of the prompts."""
        return part_of(self.policy, self.out / which, number)

    def _responses(self, sizes: list[int]) -> tuple[int, int]:
        """How many are measured, and how many would be for all looks."""
        measured = planned = 0
        for which, model in self.models.items():
            spec = self.policy.spec(model)
            asked = zip(spec.prompts, sizes, strict=True)
            planned += count_points(spec) * sum(size * samples_of(spec, part) for part, size in asked)
            for number in range(1, self.policy.looks + 1):
                if self._part(which, number).exists():
                    table = Results(self._part(which, number)).points()
                    measured += sum(map(len, table["verdicts"].to_pylist()))
        return measured, planned


def prepared(
    policy: Policy,
    models: dict[str, str],
    out: Path,
    resolve: Callable[[LandscapeSpec], LandscapeSpec] = lambda spec: spec,
    workers_here: int = 0,
) -> dict[str, Plan]:
    """Plan what a gate measures of each model with all prompts, before any engine starts.

    Raises an InputError where something cannot be measured, is not what the policy pins, or is not any more
    what the folders below `out` were measured with; or where these are older than the policy allows.
    """
    plans = {}
    for which, model in models.items():
        with named(which):
            plans[which] = make_plan(resolve(policy.spec(model)), workers_here)
    require_comparable(plans)
    require_different([part.repeats for part in plans[MODEL].prompts])
    sizes = plans[MODEL].sizes
    policy.require_sizes(sizes)
    baseline = plans[BASELINE].inputs if BASELINE in plans else None
    require_pins(policy, plans[MODEL].inputs, baseline)
    for which, plan in plans.items():
        for look in range(1, policy.looks + 1):
            part = part_of(policy, out / which, look)
            before = Results(part).read_json(INPUTS)
            if before is not None:
                spec = resolve(policy.part(models[which], look, sizes))
                require_unchanged(str(part), before, plan.inputs_of(spec), which)
                require_fresh(str(part), before, policy.max_age_days, which)
    return plans


def require_pins(policy: Policy, model: Inputs, baseline: Inputs | None) -> None:
    """Raise PolicyError where the prompts or the baseline are not those that a policy pins."""
    for pin, problem in unpinned(policy, model["sha256"][PROMPTS], baseline):
        raise PolicyError(
            pin, problem, "Put back what the policy names, or have the change of the policy reviewed"
        )


def part_of(policy: Policy, folder: Path, look: int) -> Path:
    """Where a gate has what it measures for a look, in its folder of a model."""
    return folder if policy.looks == 1 else folder / f"part-{look}"


def gate(
    policy: Policy,
    model: str,
    baseline: str | None,
    out: Path,
    address: str = "local",
    told: Told = lambda *_: None,
    planned: Callable[[Work], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure a model, and the baseline where the policy compares, into folders below `out`; write the
    decision and its reports there, and give it as a document. What is measured already is kept. `planned` is
    called before anything is measured. Raises an InputError."""
    models = models_of(policy, model, baseline)
    out = out.resolve()
    spec = policy.spec(model)
    # Before anything slow starts.
    here = spec.resources.workers if address == "local" else 0
    plan = prepared(policy, models, out, workers_here=here)[MODEL]
    parameters = Checkpoint.open(Path(plan.model.path)).parameters
    with open_engines(spec, address) as engines:
        resources = engines.resources
        planned(Work.of(spec, plan, parameters, len(models), resources.cores, resources.gpus))
        asked = Gate(policy, models, out, engines, told, outside=address.startswith("ray://"))
        *_, look = asked
    return conclude(policy, models, out, look)


def models_of(policy: Policy, model: str, baseline: str | None) -> dict[str, str]:
    """The models that a policy is about. Raises GateError where it compares, and there is no baseline."""
    if not policy.needs_baseline:
        return {MODEL: model}
    if baseline is None:
        raise GateError(
            "baseline", "the policy compares with one, and none is given", "Give --baseline MODEL"
        )
    return {MODEL: model, BASELINE: baseline}


def conclude(policy: Policy, models: dict[str, str], out: Path, look: Look) -> dict[str, Any]:
    """Write the last look's decision, its reports and the landscapes' figures, and give the decision as a
    document."""
    begin(out)
    inputs: dict[str, Inputs] = {}
    for which in models:
        if (out / which).exists():
            write_summary(out / which)
            write_figures(out / which)
            inputs[which] = Results(out / which).read_json(INPUTS) or {}
    workers = workers_of(out)
    document = {
        "verdict": look.decision.verdict,
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "policy": policy.model_dump(mode="json"),
        "models": models,
        "findings": findings_of(look.decision),
        "look": {
            "number": look.number,
            "of": look.of,
            "level": level_of(look.number, look.of),
            "responses": look.responses,
            "planned": look.planned,
        },
        "inputs": inputs,
        "prompts_sha256": list(look.prompts),
        "measured_by": workers,
        "notes": [*notes_of(inputs, workers), *doubts_of(policy, out, inputs)],
        "versions": versions(),
    }
    Results(out).write_json(DECISION, document)
    for name, made in (("decision.md", as_markdown), ("junit.xml", as_junit), ("decision.html", as_html)):
        (out / name).write_text(made(document), encoding="utf-8")
    return document
