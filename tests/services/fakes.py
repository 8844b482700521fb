"""Fake workers that fail where a test wants it, and plans for them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from services.bench.fakes import FakeWorker as PlainFakeWorker
from services.sweep.nodes import Folder
from services.sweep.plan import Plan
from services.sweep.pool import START_TRIES
from services.sweep.schedule import Shard
from services.sweep.worker import EngineStartError, OutOfMemoryError, Prepared
from visage_core.checkpoints import Checkpoint
from visage_core.judges import keyword_judge
from visage_core.prompts import PromptSet
from visage_core.provenance import MeasuredBy
from visage_core.queries import Request
from visage_core.results import Measurement
from visage_core.spec import parse_spec


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


class FakeWorker(PlainFakeWorker):
    """A fake that fails where it is told to.

    `sabotage` in a plan's inputs tells where: {"kill": alpha}, {"raise": alpha} or {"memory": alpha}, at
    every visit, or with "once": a file, only until that file is there. `no_start` keeps it from starting:
    "ever", "crash" or "death", or a file until that is there. `ended`, a file, has it killed through Ray
    at its first starts, that the file counts. `claims`, a file and versions of vLLM, are what workers claim
    that get ready for the plan, one after another.
    """

    @ray.method(concurrency_group="engine")
    def prepare(self, name: str, plan: Plan, server: Any, cores: list[int] | None) -> Prepared:
        if claims := plan.inputs.get("claims"):
            file, versions = claims
            version = versions[min(_count(Path(file)), len(versions)) - 1]
            self._about = MeasuredBy(versions={"visage": "1", "vllm": version}, device="fake")
        if (ended := plan.inputs.get("ended")) and _count(Path(ended)) <= START_TRIES:
            ray.kill(ray.get_runtime_context().current_actor)
            time.sleep(60)
        once = plan.inputs.get("no_start", "")
        if once == "death":
            os._exit(1)
        if once == "crash":
            raise RuntimeError("nobody knows why")
        if once == "ever" or (once and not Path(once).exists()):
            if once != "ever":
                Path(once).touch()
            raise EngineStartError("engine", "vLLM did not start: it is a fake", "Use a real one")
        return super().prepare(name, plan, server, cores)

    @ray.method(concurrency_group="engine")
    def measure(self, name: str, shard: Shard) -> Measurement | None:
        sabotage(self._plans[name].inputs.get("sabotage", {}), shard)
        return super().measure(name, shard)


def _count(file: Path) -> int:
    with file.open("a") as written:
        written.write(".")
        return written.tell()


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
