"""Two real engines, one of which is killed, and one that is cancelled: the results are those of one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from services.sweep.cluster import cluster, on_this_node, this_node
from services.sweep.plan import make_plan
from services.sweep.schedule import Shard
from services.sweep.worker import CONCURRENCY, Worker
from tests.conftest import Visage, visage_command, wide
from tests.services.test_run import rows, wait_for_points
from visage_core.grid import ORIGIN, Point
from visage_core.spec import parse_spec

SETTINGS = ("--seed", 0, "--points", 5, "--limit", 24, "--max-tokens", 24, "--max-model-len", 512)
SYSTEMS = ("--system", "default", "--system", "helpful-and-safe")


def arguments(model: Path, workers: int, out: Path) -> tuple[object, ...]:
    return ("run", "--model", model, *SETTINGS, *SYSTEMS, "--workers", workers, "--out", out)


@pytest.fixture(scope="module")
def with_one(aligned: Path, visage: Visage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers") / "one"
    done = visage(*arguments(aligned, 1, folder))
    assert done.returncode == 0, done.stderr
    assert "system prompt helpful-and-safe" in done.stdout
    return folder


def test_two_workers_one_of_them_killed_give_the_same_rows(
    with_one: Path, aligned: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    process = subprocess.Popen(visage_command(*arguments(aligned, 2, folder)), env=wide())
    wait_for_points(folder, 2, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("ray::Worker")
    ]
    assert len(workers) == 2
    assert {len(worker.cpu_affinity()) for worker in workers} <= {1, os.cpu_count()}
    workers[0].send_signal(signal.SIGKILL)
    assert process.wait(timeout=600) == 0
    assert rows(folder) == rows(with_one)
    assert pq.read_table(folder / "points.parquet").num_rows == 2 * 5


def test_a_cancelled_engine_is_warm_and_at_the_origin(aligned: Path) -> None:
    spec = {
        "model": str(aligned),
        "prompts": {"limit": 16},
        "generation": {"max_tokens": 384, "early_stop": False},
        "engine": {"max_model_len": 512},
        "keep_responses": True,
    }
    plan = make_plan(parse_spec(spec | {"axis": {"direction": {"kind": "random", "seeds": [0]}}}))
    short = replace(plan, spec=parse_spec(spec | {"generation": {"max_tokens": 16}}))
    with cluster("local"):
        worker = on_this_node(Worker, concurrency_groups=CONCURRENCY).remote()
        plan, short = plan.on_node(this_node()), short.on_node(this_node())
        ray.get(worker.prepare.remote("short", short, None, None))
        origin = Shard(ORIGIN, 0, 16)
        before = ray.get(worker.measure.remote("short", origin))
        ray.get(worker.prepare.remote("long", plan, None, None))
        pending = worker.measure.remote("long", Shard(Point(0, 0.5), 0, 16))
        time.sleep(1.5)
        begin = time.monotonic()
        ray.get(worker.cancel.remote("long"))
        assert ray.get(pending) is None
        assert time.monotonic() - begin < 5
        after = ray.get(worker.measure.remote("short", origin))
        assert [r.text for r in after.responses] == [r.text for r in before.responses]
        assert after.move_seconds < 0.05, "the engine was not at the origin"


def test_an_engine_serves_another_checkpoint_without_a_start(aligned: Path, harmful: Path) -> None:
    """The other checkpoint's answers are those at coordinate 1 of the way to it."""
    base = {"prompts": {"limit": 16}, "generation": {"max_tokens": 16}, "engine": {"max_model_len": 512}}
    way = {"direction": {"kind": "interpolation", "to": str(harmful)}, "low": 0, "high": 1, "points": 2}
    one, two = (
        make_plan(parse_spec({"model": str(model), "axis": way, "keep_responses": True} | base))
        for model in (aligned, harmful)
    )
    assert one.engine_key == two.engine_key
    with cluster("local"):
        worker = on_this_node(Worker, concurrency_groups=CONCURRENCY).remote()
        ray.get(worker.prepare.remote("one", one.on_node(this_node()), None, None))
        end = ray.get(worker.measure.remote("one", Shard(Point(None, 1.0), 0, 16)))
        begin = time.monotonic()
        ray.get(worker.prepare.remote("two", two.on_node(this_node()), None, None))
        there = ray.get(worker.measure.remote("two", Shard(ORIGIN, 0, 16)))
        assert time.monotonic() - begin < 10
        assert [r.text for r in there.responses] == [r.text for r in end.responses]
