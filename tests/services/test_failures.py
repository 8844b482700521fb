"""Whatever is killed, no finished point is lost and none is there twice: real Ray, fake workers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from services.bench.fakes import fake_measurement, fake_verdict
from services.sweep.cluster import ClusterError, worker_resources
from services.sweep.coordinator import CANCELLED, DONE, ENDED_EARLY, Coordinator, Progress
from services.sweep.engines import Engines
from services.sweep.pool import START_TRIES, Job, Pool, WorkerResources, WorkerStartError
from services.sweep.report import write_figures
from services.sweep.run import Run
from services.sweep.schedule import Shard
from services.sweep.worker import EngineStartError
from tests.services.fakes import FakeWorker, fake_plan, other_engine
from visage_core.grid import Point, points
from visage_core.results import Results, ResultsError
from visage_core.spec import ResourcesSpec

ROOT = Path(__file__).parents[2]
HIRED: list[Engines] = []
SPEC: dict[str, Any] = {"axis": {"points": 41, "direction": {"kind": "random", "seeds": [0, 1]}}}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster of two nodes, to which this process is connected."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path  # the workers' processes find the fakes by it
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def run_of(
    folder: Path, workers: int = 2, spec: dict[str, Any] = SPEC, cores: int | None = 1, **inputs: Any
) -> Run:
    plan = fake_plan(**spec, resources={"workers": workers, "cores": cores})
    resources = worker_resources(plan.spec.resources, plan.spec.engine.tensor_parallel)
    engines = Engines(workers, resources, FakeWorker)
    HIRED.append(engines)
    return Run(replace(plan, inputs={"fake": True, **inputs}), folder, engines)


@pytest.fixture(autouse=True)
def _room_for_the_next() -> Iterator[None]:
    yield
    dismiss_all()


def dismiss_all() -> None:
    while HIRED:
        HIRED.pop().close()


def expect_whole(folder: Path, spec: dict[str, Any] = SPEC) -> None:
    """Every point is there once, with the verdicts that the fake worker gives."""
    plan = fake_plan(**spec)
    table = Results(folder).points()
    assert len(table) == len(points(plan.spec)) * len(plan.prompts)
    for row in table.to_pylist():
        assert row["verdicts"] == [fake_verdict(point_of(row), i) for i in range(len(row["verdicts"]))]
    assert {point_of(row) for row in table.to_pylist()} == set(points(plan.spec))


def point_of(row: dict[str, Any]) -> Point:
    return Point(row["seed"], row["alpha"], row["beta"])


def finish(run: Run) -> Progress:
    last = None
    for last in run:  # noqa: B007 - the last one is wanted
        pass
    assert last is not None
    dismiss_all()
    return last


def workers_of(run: Run) -> list[Any]:
    return list(ray.get(run.engines.pool().workers.remote()))


def test_one_worker_and_many_give_the_same_table(nodes: Cluster, tmp_path: Path) -> None:
    assert finish(run_of(tmp_path / "one", workers=1)).state == DONE
    assert finish(run_of(tmp_path / "two", workers=2)).state == DONE
    expect_whole(tmp_path / "one")
    one, two = (verdicts(tmp_path / name) for name in ("one", "two"))
    assert one.equals(two)


def verdicts(folder: Path) -> pa.Table:
    names = ["seed", "alpha", "beta", "prompt_set", "verdicts", "asr", "response_tokens"]
    return pq.read_table(folder / "points.parquet").select(names)


def test_more_workers_than_points_split_the_prompts(nodes: Cluster, tmp_path: Path) -> None:
    spec = {"axis": {"points": 3, "direction": {"kind": "random", "seeds": [0]}}, "prompts": 40}
    run = run_of(tmp_path / "out", workers=2, spec=spec, seconds=0.3)
    assert finish(run).state == DONE
    expect_whole(tmp_path / "out", spec)


def test_several_prompt_sets_and_a_plane(nodes: Cluster, tmp_path: Path) -> None:
    axis = {"points": 5, "direction": {"kind": "random", "seeds": [3]}}
    spec = {"axis": axis, "second_axis": axis, "systems": ("none", "default")}
    assert finish(run_of(tmp_path / "out", spec=spec)).state == DONE
    expect_whole(tmp_path / "out", spec)
    table = pq.read_table(tmp_path / "out" / "points.parquet")
    assert len(table) == 2 * 25
    write_figures(tmp_path / "out")
    assert (tmp_path / "out" / "landscape-2.png").exists()


def test_random_kills_of_coordinator_pool_and_workers(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least 25 kills a run, at random moments, of whatever process the job has."""
    monkeypatch.setattr("services.sweep.run.LIVES", 1000)
    chance = random.Random(1)
    spec = {"axis": {"points": 401, "direction": {"kind": "random", "seeds": [0]}}}
    run = run_of(tmp_path / "out", spec=spec, seconds=0.05)
    run._lives = 1000
    over = threading.Event()
    kills: list[str] = []

    def killer() -> None:
        while not over.wait(chance.uniform(0.05, 0.6)):
            if len(kills) >= 30:
                return
            what = chance.choice(["worker", "worker", "coordinator", "pool"])
            try:
                if what == "worker":
                    while not (workers := workers_of(run)) and not over.wait(0.1):
                        pass  # a new pool is still hiring
                    ray.kill(chance.choice(workers))
                else:
                    ray.kill(run._coordinator if what == "coordinator" else run.engines.pool())
                kills.append(what)
            except (ValueError, IndexError, ray.exceptions.RayError):
                continue

    thread = threading.Thread(target=killer)
    thread.start()
    durable: set[Any] = set()
    try:
        for progress in run:
            now = Results(tmp_path / "out").done()
            assert durable <= now, "a finished point was lost"
            durable = now
            assert progress.failed == 0
    finally:
        over.set()
        thread.join()
    assert progress.state == DONE
    assert len(kills) >= 25
    assert {"worker", "coordinator", "pool"} <= set(kills)
    expect_whole(tmp_path / "out", spec)


def test_a_killed_driver_goes_on_where_it_was(nodes: Cluster, tmp_path: Path) -> None:
    chance = random.Random(7)
    out = tmp_path / "out"
    spec = {**SPEC, "resources": {"workers": 2, "cores": 1}}
    command = [sys.executable, "-m", "tests.services.fake_run", nodes.address, str(out), json.dumps(spec)]
    environment = os.environ | {"VISAGE_FAKE_SECONDS": "0.1"}
    for _ in range(3):
        before = Results(out).done()
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert driver.stdout is not None
        # Let it get a little further each time, and be killed anywhere after.
        while True:
            line = driver.stdout.readline()
            if not line or int(line) > len(before) + 2:
                break
        time.sleep(chance.uniform(0, 0.3))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert before <= Results(out).done()
        if not line:
            break
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expect_whole(out)


def test_a_removed_node_and_one_that_comes_late(nodes: Cluster, tmp_path: Path) -> None:
    extra = nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    spec = {"axis": {"points": 201, "direction": {"kind": "random", "seeds": [0]}}}
    run = run_of(tmp_path / "out", workers=4, spec=spec, seconds=0.1)
    removed, added, places = False, None, set()
    for progress in run:
        state = ray.get(run.engines.pool().state.remote())
        here = {worker["node"] for worker in state["workers"]} - {None}
        if progress.done > 40 and len(here) == 2 and not removed:
            nodes.remove_node(extra, allow_graceful=False)
            removed = True
        if removed and progress.done > 80 and added is None:
            added = nodes.add_node(num_cpus=2)
        if added is not None:
            places |= here
    assert progress.state == DONE
    assert added is not None
    assert added.node_id in places, "the node that came late was not used"
    expect_whole(tmp_path / "out", spec)
    nodes.remove_node(added)


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_workers_with_gpus_have_their_share_of_the_cores(
    nodes: Cluster, tmp_path: Path, tensor_parallel: int
) -> None:
    """Ray is told of GPUs that are none: fake workers need none."""
    grows = worker_resources(ResourcesSpec(gpu=True, cores=6), tensor_parallel)
    assert grows == WorkerResources(cores=6, gpus=tensor_parallel)
    node = nodes.add_node(num_cpus=6, num_gpus=2)
    nodes.wait_for_nodes()
    try:
        spec = SPEC | {"engine": {"tensor_parallel": tensor_parallel}}
        run = run_of(tmp_path, spec=spec, cores=None)
        assert run.engines.resources == WorkerResources(cores=3, gpus=tensor_parallel)
        assert finish(run).state == DONE
        expect_whole(tmp_path)
        assert worker_resources(ResourcesSpec(gpu=False)).gpus == 0
    finally:
        nodes.remove_node(node)


@pytest.mark.parametrize("judges", [(), (1,)])
def test_a_cluster_without_cores_asks_to_be_told_of_its_gpus(
    judges: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that grows and has a head alone, which is for no workers."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"memory": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"memory": 1.0}}])
    with pytest.raises(ClusterError, match="0 cores") as refused:
        worker_resources(ResourcesSpec(cores=7), judges=judges)
    assert "--gpu --cores N" in refused.value.remedy
    assert worker_resources(ResourcesSpec(gpu=True, cores=7), judges=judges) == WorkerResources(7, gpus=1)


def test_a_worker_that_dies_at_a_point_is_replaced(nodes: Cluster, tmp_path: Path) -> None:
    once = {"kill": 0.25, "once": str(tmp_path / "killed")}
    assert finish(run_of(tmp_path / "out", sabotage=once)).failed == 0
    expect_whole(tmp_path / "out")


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_point_that_always_fails_is_told_and_the_rest_goes_on(
    nodes: Cluster, tmp_path: Path, how: str
) -> None:
    last = finish(run_of(tmp_path / "out", sabotage={how: 0.25}))
    assert (last.state, last.failed) == (DONE, 2)  # on each of two directions
    assert len(Results(tmp_path / "out").done()) == len(points(fake_plan(**SPEC).spec)) - 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["landscapes"][0]["visage"] is None
    reasons = {failure["reason"] for failure in summary["run"]["failed"]}
    assert reasons == {"the worker's process ended" if how == "kill" else "the engine is broken here"}


def test_a_point_too_large_for_memory_is_done_in_smaller_batches(nodes: Cluster, tmp_path: Path) -> None:
    last = finish(run_of(tmp_path / "out", sabotage={"memory": 0.25}))
    assert (last.state, last.failed) == (DONE, 0)
    expect_whole(tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("ever", EngineStartError, "it is a fake"),
        ("crash", WorkerStartError, "nobody knows why"),
        ("death", WorkerStartError, "died"),
    ],
)
def test_an_engine_that_never_starts_ends_the_job_with_its_reason(
    nodes: Cluster, tmp_path: Path, how: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        finish(run_of(tmp_path / "out", no_start=how))


def test_a_pool_that_fails_itself_is_heard_of(nodes: Cluster, tmp_path: Path) -> None:
    HIRED.append(Engines(1, WorkerResources(-1), FakeWorker))  # no spec allows it, and Ray does not take it
    run = Run(fake_plan(**SPEC), tmp_path / "out", HIRED[-1], _lives=2)
    with pytest.raises(ray.exceptions.RayActorError):
        finish(run)


def test_one_worker_that_does_not_start_harms_no_point(nodes: Cluster, tmp_path: Path) -> None:
    last = finish(run_of(tmp_path / "out", no_start=str(tmp_path / "failed")))
    assert (last.state, last.failed) == (DONE, 0)
    expect_whole(tmp_path / "out")


def test_workers_that_are_ended_from_outside_as_they_start_harm_no_point(
    nodes: Cluster, tmp_path: Path
) -> None:
    last = finish(run_of(tmp_path / "out", workers=1, ended=str(tmp_path / "starts")))
    assert (last.state, last.failed) == (DONE, 0)
    assert len((tmp_path / "starts").read_text()) > START_TRIES
    expect_whole(tmp_path / "out")


def test_a_deadly_point_costs_few_workers(nodes: Cluster, tmp_path: Path) -> None:
    """It is given up after three deaths, and its neighbours in the queue are not blamed."""
    spec = {"axis": {"points": 41, "direction": {"kind": "random", "seeds": [0]}}}
    last = finish(run_of(tmp_path / "out", workers=1, spec=spec, sabotage={"kill": 0.25}))
    assert (last.state, last.failed, last.done) == (DONE, 1, 40)


def test_two_coordinators_on_one_folder(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.sweep.coordinator.LEASE_SECONDS", 0.2)

    async def open_two() -> None:
        first, second = (Coordinator(fake_plan(**SPEC), tmp_path / "out") for _ in range(2))
        await first.open()
        with pytest.raises(ResultsError, match="another process is measuring"):
            await second.open()
        await first.cancel()
        await second.open()
        await second.cancel()

    asyncio.run(open_two())


def test_a_full_disk_ends_the_job_with_a_reason_and_keeps_what_is_there(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fill() -> None:
        coordinator = Coordinator(fake_plan(**SPEC), tmp_path / "out")
        await coordinator.open()
        await measure_one(coordinator)
        real = Results.add

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Results, "add", full)
        with pytest.raises(ResultsError, match="the disk is full"):
            await measure_one(coordinator)
        progress = await coordinator.changed(-1, 1)
        while progress.state != "failed":
            progress = await coordinator.changed(progress.revision, 1)
        assert "the disk is full" in str(progress.error)
        assert coordinator.next(1) is None
        monkeypatch.setattr(Results, "add", real)
        again = Coordinator(fake_plan(**SPEC), tmp_path / "out")
        await again.open()
        assert again.progress().done == 1
        await again.cancel()

    asyncio.run(fill())


async def measure_one(coordinator: Coordinator) -> None:
    shard = coordinator.next(1)
    assert isinstance(shard, Shard)
    await coordinator.finished(shard, fake_measurement(fake_plan(**SPEC), shard))


@pytest.fixture
def pool(nodes: Cluster) -> Iterator[Callable[[int], Any]]:
    made: list[Any] = []

    def make(workers: int) -> Any:
        actor = ray.remote(num_cpus=0)(Pool).remote(workers, WorkerResources(cores=1), FakeWorker)
        ray.get(actor.open.remote())
        made.append(actor)
        return actor

    yield make
    for actor in made:
        ray.kill(actor)


def submit(pool: Any, name: str, folder: Path, plan: Any, priority: int = 0) -> Any:
    coordinator = ray.remote(num_cpus=0)(Coordinator).remote(plan, folder)
    ray.get(coordinator.open.remote())
    ray.get(pool.submit.remote(Job(name, coordinator, ray.put(plan), None, plan.engine_key, priority)))
    return coordinator


def wait_for(coordinator: Any, done: int) -> Progress:
    deadline = time.monotonic() + 60
    progress: Progress = ray.get(coordinator.progress.remote())
    while progress.done < done and progress.state == "working":
        assert time.monotonic() < deadline, f"{progress.done} of {done} points in a minute"
        progress = ray.get(coordinator.changed.remote(progress.revision, 1.0))
    return progress


def ended(coordinator: Any) -> Progress:
    wait_for(coordinator, 10**9)
    progress: Progress = ray.get(coordinator.progress.remote())
    return progress


def test_two_jobs_share_the_pool_and_one_is_cancelled(pool: Callable[[int], Any], tmp_path: Path) -> None:
    workers = pool(2)
    slow = replace(fake_plan(**SPEC), inputs={"seconds": 0.2})
    one = submit(workers, "one", tmp_path / "one", slow)
    two = submit(workers, "two", tmp_path / "two", slow)
    ahead = ray.get(one.progress.remote()).done
    shared = wait_for(two, 15).done
    assert shared / 2 <= ray.get(one.progress.remote()).done - ahead <= 2 * shared, "they do not take turns"
    begin = time.monotonic()
    ray.get(two.cancel.remote())
    ray.get(workers.withdraw.remote("two"))
    assert time.monotonic() - begin < 5
    assert ended(two).state == CANCELLED
    assert ended(one).state == DONE
    expect_whole(tmp_path / "one")


def test_cancelling_ends_what_is_under_way(pool: Callable[[int], Any], tmp_path: Path) -> None:
    workers = pool(1)
    endless = replace(fake_plan(**SPEC), inputs={"seconds": 600})
    one = submit(workers, "one", tmp_path / "one", endless)
    while not any(worker["under_way"] for worker in ray.get(workers.state.remote())["workers"]):
        time.sleep(0.05)
    ray.get(one.cancel.remote())
    ray.get(workers.withdraw.remote("one"))
    two = submit(workers, "two", tmp_path / "two", fake_plan(**SPEC))
    assert wait_for(two, 5).done >= 5, "the worker is still at the cancelled job"


def test_a_job_of_higher_priority_goes_first(pool: Callable[[int], Any], tmp_path: Path) -> None:
    workers = pool(1)
    slow = replace(fake_plan(**SPEC), inputs={"seconds": 0.05})
    low = submit(workers, "low", tmp_path / "low", slow)
    wait_for(low, 3)
    high = submit(workers, "high", tmp_path / "high", slow, priority=1)
    ahead = ray.get(low.progress.remote()).done
    wait_for(high, 30)
    assert ray.get(low.progress.remote()).done <= ahead + 3
    assert ended(high).state == DONE
    assert ended(low).state == DONE


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_for_different_engines_are_both_served(
    pool: Callable[[int], Any], tmp_path: Path, workers: int
) -> None:
    shared = pool(workers)
    plan = fake_plan(**SPEC)
    one = submit(shared, "one", tmp_path / "one", plan)
    wait_for(one, 3)
    two = submit(shared, "two", tmp_path / "two", other_engine(plan))
    assert ended(two).state == DONE
    assert ended(one).state == DONE
    expect_whole(tmp_path / "two")


def test_an_early_end_has_an_estimate_and_goes_on_later(nodes: Cluster, tmp_path: Path) -> None:
    run = run_of(tmp_path / "out", seconds=0.05)
    run.stop_when = 60.0
    last = finish(run)
    assert last.state == ENDED_EARLY
    assert last.done < last.points
    assert last.estimate is not None
    assert last.estimate.high - last.estimate.low < 60
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["landscapes"][0]["visage"] is None
    assert summary["landscapes"][0]["estimate"] is not None
    assert finish(run_of(tmp_path / "out", seconds=0.05)).state == DONE
    expect_whole(tmp_path / "out")
