"""A fake worker, named as one: for more workers, or more deaths, than real engines allow."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import ray

from services.sweep.plan import Plan
from services.sweep.schedule import Shard
from services.sweep.worker import Place, Prepared
from visage_core.grid import Point
from visage_core.provenance import MeasuredBy
from visage_core.results import Measurement, Response

VARIABLE = "VISAGE_FAKE_SECONDS"
SECONDS = float(os.environ.get(VARIABLE, "0.02"))


class FakeWorker:
    """Answers as `services.sweep.worker.Worker` does, from nothing, in as many seconds as a plan's inputs say
    or the environment does."""

    def __init__(self) -> None:
        self._about = MeasuredBy(versions={"visage": "fake"}, device="fake")
        self._plans: dict[str, Plan] = {}
        self._cancelled: set[str] = set()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), (0, 1))

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def cancel(self, name: str) -> None:
        self._cancelled.add(name)

    @ray.method(concurrency_group="engine")  # type: ignore[untyped-decorator]
    def prepare(self, name: str, plan: Plan, server: Any, cores: list[int] | None) -> Prepared:  # noqa: ARG002
        self._cancelled.discard(name)
        self._plans[name] = plan
        return Prepared(self._about.text(), None)

    @ray.method(concurrency_group="engine")  # type: ignore[untyped-decorator]
    def rest(self) -> None:
        pass

    @ray.method(concurrency_group="engine")  # type: ignore[untyped-decorator]
    def measure(self, name: str, shard: Shard) -> Measurement | None:
        plan = self._plans[name]
        seconds = plan.inputs.get("seconds", SECONDS)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if name in self._cancelled:
                return None
            time.sleep(min(0.02, seconds))
        return replace(fake_measurement(plan, shard), measured_by=(self._about.text(),))


def fake_measurement(plan: Plan, shard: Shard) -> Measurement:
    """What a fake worker finds."""
    size = len(plan.queries) // len(plan.prompts)
    verdicts = tuple(fake_verdict(shard.point, prompt % size) for prompt in range(shard.begin, shard.end))
    responses = tuple(Response("", 4, "end", 1, gibberish=False if one else None) for one in verdicts)
    return Measurement(shard.point, verdicts, responses, 0.001, 0.01, 0.0)


def fake_verdict(point: Point, prompt: int) -> bool:
    """Complied or not, as a function of the place alone: complied with ever more the farther off."""
    away = max(abs(point.alpha), abs(point.beta))
    return (prompt * 37 + 11 * (point.seed or 0)) % 100 < 200 * away
