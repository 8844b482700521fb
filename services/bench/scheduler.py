"""`visage bench scheduler`: how many points a second one coordinator hands out and makes durable.

The workers are fake: a thousand tasks that answer at once. The coordinator, its schedule and its files are
the real ones, without Ray's calls between them. What those calls cost is measured beside it, with a real
pool and two fake workers as Ray actors.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from pathlib import Path

from services.bench import Figure, Report
from services.bench.fakes import FakeWorker
from services.sweep.cluster import cluster, this_node, worker_resources
from services.sweep.coordinator import Coordinator
from services.sweep.engines import Engines
from services.sweep.nodes import Folder
from services.sweep.plan import Plan, versions
from services.sweep.run import Run
from services.sweep.schedule import Shard
from visage_core.judges import keyword_judge
from visage_core.prompts import PromptSet
from visage_core.queries import Request
from visage_core.results import Measurement, Response, Results
from visage_core.spec import parse_spec

WORKERS, POINTS, PROMPTS = 1_000, 100_001, 80
POINTS_THROUGH_RAY = 5_001
MIB = 2**20


def bench_scheduler() -> Report:
    """A thousand fake workers and a hundred thousand points through a real coordinator."""
    with tempfile.TemporaryDirectory() as folder:
        rate, handed_out, growth, lag = asyncio.run(_feed_fake_workers(Path(folder)))
        durable = 100 * len(Results(Path(folder)).done()) / handed_out
    through_ray = _points_a_second_through_ray()
    return Report(
        "scheduler",
        [
            Figure("points handed out and made durable", rate, "a second", 1000, at_least=True),
            Figure("durable points of those acknowledged", durable, "%", 100, at_least=True),
            Figure("memory growth over the second half", growth, "MiB", 100),
            Figure("longest wait for the disk", lag, "s", 5.0),
            Figure("workers (fake)", WORKERS, ""),
            Figure("points", handed_out, ""),
            Figure("points through Ray's calls, two fake workers", through_ray, "a second"),
            Figure("workers that one pool feeds, at 2 s a point", 2 * through_ray, ""),
        ],
        versions(),
    )


async def _feed_fake_workers(folder: Path) -> tuple[float, int, float, float]:
    """Points a second, points, MiB of memory that the second half of them took, and the longest wait."""
    coordinator = Coordinator(_plan(POINTS, WORKERS), folder, report=False)
    await coordinator.open()
    response = Response("", 16, "verdict", 40)
    acknowledged = 0
    halfway = 0
    longest = 0.0

    async def fake_worker() -> None:
        nonlocal acknowledged, halfway, longest
        while (shard := coordinator.next(WORKERS)) is not None:
            count = shard.end - shard.begin
            begin = time.perf_counter()
            await coordinator.finished(shard, _answer(shard, response, count))
            longest = max(longest, time.perf_counter() - begin)
            acknowledged += shard.begin == 0
            if acknowledged == POINTS // 2:
                halfway = _memory()

    begin = time.perf_counter()
    await asyncio.gather(*(fake_worker() for _ in range(WORKERS)))
    seconds = time.perf_counter() - begin
    growth = (_memory() - halfway) / MIB
    await coordinator.cancel()
    return POINTS / seconds, POINTS, growth, longest


def _points_a_second_through_ray() -> float:
    """From the first point to the last: before it, workers start."""
    with tempfile.TemporaryDirectory() as folder, cluster("local"):
        plan = _plan(POINTS_THROUGH_RAY, workers=2).on_node(this_node())
        first = None
        engines = Engines(2, worker_resources(plan.spec.resources), FakeWorker)
        for progress in Run(plan, Path(folder), engines):
            if first is None and progress.done:
                first, begun = time.perf_counter(), progress.done
            if progress.done == progress.points:
                break
        assert first is not None
        return (progress.done - begun) / (time.perf_counter() - first)


def _answer(shard: Shard, response: Response, count: int) -> Measurement:
    verdicts = tuple(number % 3 == 0 for number in range(count))
    return Measurement(shard.point, verdicts, (response,) * count, 0.1, 1.0, 0.0)


def _memory() -> int:
    """The most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _plan(points: int, workers: int) -> Plan:
    axis = {"points": points, "direction": {"kind": "random", "seeds": [0]}}
    document = {
        "model": "fake",
        "axis": axis,
        "prompts": {"limit": PROMPTS},
        "resources": {"workers": workers, "cores": 1},
    }
    spec = parse_spec(document)
    prompts = PromptSet("fake", tuple(f"prompt {number}" for number in range(PROMPTS)))
    folder = Folder("/nowhere", "0" * 64, ())
    keywords = {0: keyword_judge("keyword-paper", "paper")}
    inputs = {"seconds": 0.0}
    return Plan(spec, folder, {}, [prompts], [Request([0])] * PROMPTS, keywords, {}, inputs, "fake")
