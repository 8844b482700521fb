"""A fake worker, named as one: for tests that need more workers, or more deaths, than real engines allow."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from services.sweep.nodes import Folder
from services.sweep.plan import Plan
from services.sweep.schedule import Shard
from services.sweep.worker import EngineStartError, OutOfMemoryError, Place
from visage_core.checkpoints import Checkpoint
from visage_core.grid import Point
from visage_core.judges import keyword_judge
from visage_core.prompts import PromptSet
from visage_core.queries import Request
from visage_core.results import Measurement, Response
from visage_core.spec import parse_spec

SECONDS = float(os.environ.get("VISAGE_FAKE_SECONDS", "0.02"))


def fake_verdict(point: Point, prompt: int) -> bool:
    """Complied or not, as a function of the place alone: complied with ever more the farther off."""
    away = max(abs(point.alpha), abs(point.beta))
    return (prompt * 37 + 11 * (point.seed or 0)) % 100 < 200 * away


def fake_plan(prompts: int = 20, systems: tuple[str, ...] = ("default",), **spec: object) -> Plan:
    """A plan for fake workers, of so many prompts under each system prompt; its model exists nowhere."""
    document = {"model": "fake", "prompts": [{"limit": prompts, "system": name} for name in systems], **spec}
    parsed = parse_spec(document)
    sets = [
        PromptSet(part.source, tuple(f"prompt {number}" for number in range(prompts)))
        for part in parsed.prompts
    ]
    return Plan(
        spec=parsed,
        model=Folder("/nowhere", "0" * 64, ()) if parsed.model == "fake" else _folder(Path(parsed.model)),
        files={},
        prompts=sets,
        queries=[Request([number]) for part in sets for number, _ in enumerate(part.prompts)],
        keywords={number: keyword_judge(one.name, "paper") for number, one in enumerate(parsed.judges)},
        judges={},
        inputs={"fake": True},
        engine_key="fake",
    )


def _folder(path: Path) -> Folder:
    return Folder.of(path, Checkpoint.open(path).digest())


def other_engine(plan: Plan) -> Plan:
    """The same plan for another kind of engine."""
    return replace(plan, engine_key="other")


class FakeWorker:
    """Answers as `services.sweep.worker.Worker` does, at once and from nothing.

    `sabotage` in a plan's inputs tells it where to fail: {"kill": alpha}, {"raise": alpha} or
    {"memory": alpha}, at every visit, or with "once": a file, only until that file is there. `no_start`
    keeps it from starting: "ever", "crash" or "death", or a file until that is there.
    """

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._cancelled: set[str] = set()

    @ray.method(concurrency_group="control")
    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), (0, 1))

    @ray.method(concurrency_group="control")
    def cancel(self, name: str) -> None:
        self._cancelled.add(name)

    @ray.method(concurrency_group="engine")
    def prepare(self, name: str, plan: Plan, server: Any, cores: list[int] | None) -> None:
        self._cancelled.discard(name)
        once = plan.inputs.get("no_start", "")
        if once == "death":
            os._exit(1)
        if once == "crash":
            raise RuntimeError("nobody knows why")
        if once == "ever" or (once and not Path(once).exists()):
            if once != "ever":
                Path(once).touch()
            raise EngineStartError("engine", "vLLM did not start: it is a fake", "Use a real one")
        self._plans[name] = plan

    @ray.method(concurrency_group="engine")
    def rest(self) -> None:
        pass

    @ray.method(concurrency_group="engine")
    def measure(self, name: str, shard: Shard) -> Measurement | None:
        plan = self._plans[name]
        sabotage(plan.inputs.get("sabotage", {}), shard)
        seconds = plan.inputs.get("seconds", SECONDS)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if name in self._cancelled:
                return None
            time.sleep(min(0.02, seconds))
        return fake_measurement(plan, shard)


def fake_measurement(plan: Plan, shard: Shard) -> Measurement:
    size = len(plan.queries) // len(plan.prompts)
    verdicts = tuple(fake_verdict(shard.point, prompt % size) for prompt in range(shard.begin, shard.end))
    responses = tuple(Response("", 4, "end", 1, gibberish=False if one else None) for one in verdicts)
    return Measurement(shard.point, verdicts, responses, 0.001, 0.01, 0.0)


def sabotage(how: dict[str, Any], shard: Shard) -> None:
    if "once" in how and Path(how["once"]).exists():
        return
    for what, alpha in how.items():
        if what == "once" or alpha != shard.point.alpha:
            continue
        if "once" in how:
            Path(how["once"]).touch()
        if what == "kill":
            os._exit(1)
        if what == "raise":
            raise RuntimeError("the engine is broken here")
        if what == "memory" and (shard.batch or shard.end - shard.begin) > 5:
            raise OutOfMemoryError("no memory for so many at a time")
