"""Two real engines, one of which is killed, and one that is cancelled: the results are those of one."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from services.sweep.cluster import this_node
from services.sweep.plan import Plan, make_plan
from services.sweep.schedule import Shard
from tests.conftest import Visage, visage_command, wide
from tests.services.test_run import rows, wait_for_points
from tests.services.warm import ENGINE, OPTIONS, WARM
from visage_core.grid import ORIGIN, Point
from visage_core.spec import GenerationSpec, parse_spec

SETTINGS = (
    "--seed",
    0,
    "--points",
    21,
    "--limit",
    8,
    "--max-tokens",
    12,
    "--coherence",
    "statistics",
    *OPTIONS,
)
SYSTEMS = ("--system", "default", "--system", "helpful-and-safe")
LONG = {"max_tokens": 384, "early_stop": False}


def arguments(model: Path, workers: int, out: Path) -> tuple[object, ...]:
    cores = ("--workers", workers, "--cores", 1)
    return ("run", "--model", model, *SETTINGS, *SYSTEMS, *cores, "--out", out)


@pytest.fixture(scope="module")
def with_one(aligned: Path, warm: Visage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers") / "one"
    done = warm(*arguments(aligned, 1, folder))
    assert done.returncode == 0, done.stderr
    assert "system prompt helpful-and-safe" in done.stdout
    return folder


@pytest.fixture
def worker(with_one: Path) -> Any:
    """The worker that has measured with one."""
    assert WARM.engines is not None
    [worker] = ray.get(WARM.engines.pool().workers.remote())
    return worker


def planned(model: Path, **spec: Any) -> Plan:
    """A plan on this node, of 8 prompts whose responses are kept."""
    document = {"model": str(model), "prompts": {"limit": 8}, "engine": ENGINE, "keep_responses": True}
    return make_plan(parse_spec(document | spec)).on_node(this_node())


def inside(worker: Any, look: Any) -> Any:
    """What a function gives of the worker, in its process."""
    return ray.get(worker.__ray_call__.remote(look))


def test_a_cancelled_engine_is_warm_and_at_the_origin(aligned: Path, worker: Any) -> None:
    plan = planned(aligned, axis={"direction": {"seeds": [0]}}, generation=LONG)
    short = replace(plan, spec=plan.spec.model_copy(update={"generation": GenerationSpec(max_tokens=8)}))
    ray.get(worker.prepare.remote("short", short, None, None))
    before = ray.get(worker.measure.remote("short", Shard(ORIGIN, 0, 8)))
    ray.get(worker.prepare.remote("long", plan, None, None))
    pending = worker.measure.remote("long", Shard(Point(0, 0.5), 0, 8))
    time.sleep(0.3)
    ray.get(worker.cancel.remote("long"))
    assert ray.get(pending) is None
    assert inside(worker, lambda one: one._engine._place[1]) == []
    after = ray.get(worker.measure.remote("short", Shard(ORIGIN, 0, 8)))
    assert [r.text for r in after.responses] == [r.text for r in before.responses]


def test_an_engine_serves_another_checkpoint_without_a_start(
    aligned: Path, harmful: Path, worker: Any
) -> None:
    """The other checkpoint's answers are those at coordinate 1 of the way to it."""
    way = {"direction": {"to": str(harmful)}, "low": 0, "high": 1, "points": 2}
    one, two = (planned(model, axis=way, generation={"max_tokens": 8}) for model in (aligned, harmful))
    assert one.engine_key == two.engine_key
    ray.get(worker.prepare.remote("one", one, None, None))
    end = ray.get(worker.measure.remote("one", Shard(Point(None, 1.0), 0, 8)))
    engine = inside(worker, lambda one: id(one._engine))
    ray.get(worker.prepare.remote("two", two, None, None))
    there = ray.get(worker.measure.remote("two", Shard(ORIGIN, 0, 8)))
    assert inside(worker, lambda one: id(one._engine)) == engine
    assert [r.text for r in there.responses] == [r.text for r in end.responses]


@pytest.mark.usefixtures("all_cores")
def test_two_workers_one_of_them_killed_give_the_same_rows(
    with_one: Path, aligned: Path, tmp_path: Path
) -> None:
    WARM.close()  # four engines at a time would need more memory than some machines have
    folder = tmp_path / "two"
    process = subprocess.Popen(visage_command(*arguments(aligned, 2, folder)), env=wide())
    wait_for_points(folder, 2, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("ray::Worker")
    ]
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    assert process.wait(timeout=600) == 0
    assert rows(folder) == rows(with_one)
    assert pq.read_table(folder / "points.parquet").num_rows == 2 * 21
