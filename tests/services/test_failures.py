"""Whatever is killed, no finished point is lost and none is there twice: real Ray, fake workers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from services.bench.fakes import fake_measurement
from services.sweep.cluster import ClusterError, worker_resources
from services.sweep.coordinator import CANCELLED, DONE, ENDED_EARLY, Coordinator, Progress
from services.sweep.engines import Engines
from services.sweep.plan import Plan
from services.sweep.pool import START_TRIES, Job, WorkerResources, WorkerStartError
from services.sweep.report import write_figures
from services.sweep.run import Run
from services.sweep.schedule import Shard
from services.sweep.worker import EngineStartError
from tests.services.fake_engines import (
    ROOT,
    SPEC,
    FakeEngines,
    expect_whole,
    fake_engines,
    finish,
    run_of,
)
from tests.services.fakes import FakeWorker, fake_plan, other_engine
from visage_core.grid import points
from visage_core.results import Results, ResultsError
from visage_core.spec import ResourcesSpec

Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def engines() -> Iterator[FakeEngines]:
    with fake_engines() as made:
        yield made


@pytest.fixture
def room(engines: FakeEngines) -> FakeEngines:
    """A cluster on which no worker is."""
    engines.close()
    return engines


def test_one_worker_and_many_give_the_same_table(engines: FakeEngines, tmp_path: Path) -> None:
    assert finish(run_of(tmp_path / "one", engines.of(1))).state == DONE
    assert finish(run_of(tmp_path / "two", engines.of(2))).state == DONE
    expect_whole(tmp_path / "one")
    one, two = (verdicts(tmp_path / name) for name in ("one", "two"))
    assert one.equals(two)


def verdicts(folder: Path) -> pa.Table:
    names = ["seed", "alpha", "beta", "prompt_set", "verdicts", "asr", "response_tokens"]
    return pq.read_table(folder / "points.parquet").select(names)


def test_more_workers_than_points_split_the_prompts(engines: FakeEngines, tmp_path: Path) -> None:
    spec = {"axis": {"points": 3, "direction": {"kind": "random", "seeds": [0]}}, "prompts": 40}
    run = run_of(tmp_path / "out", engines.of(2), spec=spec, seconds=0.3)
    assert finish(run).state == DONE
    expect_whole(tmp_path / "out", spec)


def test_several_prompt_sets_and_a_plane(engines: FakeEngines, tmp_path: Path) -> None:
    axis = {"points": 5, "direction": {"kind": "random", "seeds": [3]}}
    spec = {"axis": axis, "second_axis": axis, "systems": ("none", "default")}
    assert finish(run_of(tmp_path / "out", engines.of(2), spec=spec)).state == DONE
    expect_whole(tmp_path / "out", spec)
    table = pq.read_table(tmp_path / "out" / "points.parquet")
    assert len(table) == 2 * 25
    write_figures(tmp_path / "out")
    assert (tmp_path / "out" / "landscape-2.png").exists()


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


def test_a_worker_that_dies_at_a_point_is_replaced(engines: FakeEngines, tmp_path: Path) -> None:
    once = {"kill": 0.25, "once": str(tmp_path / "killed")}
    assert finish(run_of(tmp_path / "out", engines.of(2), sabotage=once)).failed == 0
    expect_whole(tmp_path / "out")


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_point_that_always_fails_is_told_and_the_rest_goes_on(
    engines: FakeEngines, tmp_path: Path, how: str
) -> None:
    """It is given up after three deaths, and its neighbours in the queue are not blamed."""
    last = finish(run_of(tmp_path / "out", engines.of(2), sabotage={how: 0.25}))
    assert (last.state, last.failed) == (DONE, 2)  # on each of two directions
    assert len(Results(tmp_path / "out").done()) == len(points(fake_plan(**SPEC).spec)) - 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["landscapes"][0]["visage"] is None
    reasons = {failure["reason"] for failure in summary["run"]["failed"]}
    assert reasons == {"the worker's process ended" if how == "kill" else "the engine is broken here"}


def test_a_point_too_large_for_memory_is_done_in_smaller_batches(
    engines: FakeEngines, tmp_path: Path
) -> None:
    last = finish(run_of(tmp_path / "out", engines.of(2), sabotage={"memory": 0.25}))
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
    engines: FakeEngines, tmp_path: Path, how: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        finish(run_of(tmp_path / "out", engines.of(2), no_start=how))


def test_a_pool_that_fails_itself_is_heard_of(engines: FakeEngines, tmp_path: Path) -> None:
    broken = Engines(1, WorkerResources(-1), FakeWorker)  # no spec allows it, and Ray refuses it
    run = Run(fake_plan(**SPEC), tmp_path / "out", broken, _lives=2)
    with pytest.raises(ray.exceptions.RayActorError):
        finish(run)
    broken.close()


def test_one_worker_that_does_not_start_harms_no_point(engines: FakeEngines, tmp_path: Path) -> None:
    last = finish(run_of(tmp_path / "out", engines.of(2), no_start=str(tmp_path / "failed")))
    assert (last.state, last.failed) == (DONE, 0)
    expect_whole(tmp_path / "out")


def test_workers_that_are_ended_from_outside_as_they_start_harm_no_point(
    engines: FakeEngines, tmp_path: Path
) -> None:
    last = finish(run_of(tmp_path / "out", engines.of(1), ended=str(tmp_path / "starts")))
    assert (last.state, last.failed) == (DONE, 0)
    assert len((tmp_path / "starts").read_text()) > START_TRIES
    expect_whole(tmp_path / "out")


def test_two_coordinators_on_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
def submit(engines: FakeEngines, tmp_path: Path) -> Iterator[Submit]:
    """Give jobs to the shared pool of so many workers, all at once; gives their coordinators."""
    made: list[tuple[Any, Job]] = []

    def submitted(workers: int, priority: int = 0, **plans: Plan) -> list[Any]:
        jobs = []
        for name, plan in plans.items():
            coordinator = ray.remote(num_cpus=0)(Coordinator).remote(plan, tmp_path / name)
            jobs.append(Job(name, coordinator, ray.put(plan), None, plan.engine_key, priority))
        ray.get([job.coordinator.open.remote() for job in jobs])
        pool = engines.of(workers).pool()
        ray.get([pool.submit.remote(job) for job in jobs])
        made.extend((pool, job) for job in jobs)
        return [job.coordinator for job in jobs]

    yield submitted
    for pool, job in made:
        ray.get(pool.withdraw.remote(job.name))
        ray.kill(job.coordinator)


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


def test_two_jobs_share_the_pool_and_one_is_cancelled(
    engines: FakeEngines, submit: Submit, tmp_path: Path
) -> None:
    slow = replace(fake_plan(**SPEC), inputs={"seconds": 0.2})
    one, two = submit(2, one=slow, two=slow)
    ahead = ray.get(one.progress.remote()).done
    shared = wait_for(two, 15).done
    assert shared / 2 <= ray.get(one.progress.remote()).done - ahead <= 2 * shared, "they do not take turns"
    ray.get(two.cancel.remote())
    ray.get(engines.of(2).pool().withdraw.remote("two"))
    assert ended(two).state == CANCELLED
    assert ended(one).state == DONE
    expect_whole(tmp_path / "one")


def test_cancelling_ends_what_is_under_way(engines: FakeEngines, submit: Submit, tmp_path: Path) -> None:
    endless = replace(fake_plan(**SPEC), inputs={"seconds": 600})
    [one] = submit(1, one=endless)
    pool = engines.of(1).pool()
    while not any(worker["under_way"] for worker in ray.get(pool.state.remote())["workers"]):
        time.sleep(0.05)
    ray.get(one.cancel.remote())
    ray.get(pool.withdraw.remote("one"))
    [two] = submit(1, two=fake_plan(**SPEC))
    assert wait_for(two, 5).done >= 5, "the worker is still at the cancelled job"


def test_a_job_of_higher_priority_goes_first(submit: Submit, tmp_path: Path) -> None:
    slow = replace(fake_plan(**SPEC), inputs={"seconds": 0.05})
    [low] = submit(1, low=slow)
    wait_for(low, 3)
    [high] = submit(1, priority=1, high=slow)
    ahead = ray.get(low.progress.remote()).done
    wait_for(high, 30)
    assert ray.get(low.progress.remote()).done <= ahead + 3
    assert ended(high).state == DONE
    assert ended(low).state == DONE


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_for_different_engines_are_both_served(submit: Submit, tmp_path: Path, workers: int) -> None:
    plan = replace(fake_plan(**SPEC), inputs={"seconds": 0.05})
    [one] = submit(workers, one=plan)
    wait_for(one, 3)
    [two] = submit(workers, two=other_engine(plan))
    assert ended(two).state == DONE
    assert ended(one).state == DONE
    expect_whole(tmp_path / "two")


def test_an_early_end_has_an_estimate_and_goes_on_later(engines: FakeEngines, tmp_path: Path) -> None:
    run = run_of(tmp_path / "out", engines.of(2), seconds=0.05)
    run.stop_when = 60.0
    last = finish(run)
    assert last.state == ENDED_EARLY
    assert last.done < last.points
    assert last.estimate is not None
    assert last.estimate.high - last.estimate.low < 60
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["landscapes"][0]["visage"] is None
    assert summary["landscapes"][0]["estimate"] is not None
    assert finish(run_of(tmp_path / "out", engines.of(2), seconds=0.05)).state == DONE
    expect_whole(tmp_path / "out")


def test_the_coordinator_the_pool_and_a_worker_are_killed(engines: FakeEngines, tmp_path: Path) -> None:
    """One after another; tests/slow/test_random_kills.py has many, at random."""
    run = run_of(tmp_path / "out", engines.of(2), seconds=0.1)
    kills = ["coordinator", "pool", "worker"]
    for progress in run:
        if progress.done < 41 - 10 * len(kills) or not kills:
            continue
        if kills[0] == "coordinator":
            ray.kill(run._coordinator)
        elif kills[0] == "pool":
            ray.kill(run.engines.pool())
        else:
            ray.kill(ray.get(run.engines.pool().workers.remote())[0])
        kills.pop(0)
    assert not kills
    assert progress.state == DONE
    expect_whole(tmp_path / "out")


def test_a_killed_driver_goes_on_where_it_was(room: FakeEngines, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = {**SPEC, "resources": {"workers": 2, "cores": 1}}
    command = [
        sys.executable,
        "-m",
        "tests.services.fake_run",
        room.cluster.address,
        str(out),
        json.dumps(spec),
    ]
    environment = os.environ | {"VISAGE_FAKE_SECONDS": "0.1"}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert driver.stdout is not None
    while int(driver.stdout.readline() or 99) < 3:
        pass
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = Results(out).done()
    assert 3 <= len(before) < 41
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert before <= Results(out).done()
    expect_whole(out)


def test_a_removed_node_and_one_that_comes_late(room: FakeEngines, tmp_path: Path) -> None:
    extra = room.cluster.add_node(num_cpus=2)
    room.cluster.wait_for_nodes()
    # Enough work for a node that takes long to start.
    spec = {"axis": {"points": 301, "direction": {"kind": "random", "seeds": [0]}}}
    run = run_of(tmp_path / "out", room.of(5), spec=spec, seconds=0.2)
    removed, added, places = False, None, set()
    for progress in run:
        state = ray.get(run.engines.pool().state.remote())
        here = {worker["node"] for worker in state["workers"]} - {None}
        if progress.done > 40 and len(here) == 2 and not removed:
            room.cluster.remove_node(extra, allow_graceful=False)
            removed = True
        if removed and progress.done > 80 and added is None:
            added = room.cluster.add_node(num_cpus=2)
        if added is not None:
            places |= here
    assert progress.state == DONE
    assert added is not None
    assert added.node_id in places, "the node that came late was not used"
    expect_whole(tmp_path / "out", spec)
    room.close()
    room.cluster.remove_node(added)


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_workers_with_gpus_have_their_share_of_the_cores(
    room: FakeEngines, tmp_path: Path, tensor_parallel: int
) -> None:
    """Ray is told of GPUs that do not exist: fake workers need none."""
    grows = worker_resources(ResourcesSpec(gpu=True, cores=6), tensor_parallel)
    assert grows == WorkerResources(cores=6, gpus=tensor_parallel)
    node = room.cluster.add_node(num_cpus=6, num_gpus=2)
    room.cluster.wait_for_nodes()
    resources = worker_resources(ResourcesSpec(workers=2), tensor_parallel)
    assert resources == WorkerResources(cores=3, gpus=tensor_parallel)
    engines = Engines(2, resources, FakeWorker)
    try:
        assert finish(run_of(tmp_path, engines)).state == DONE
        expect_whole(tmp_path)
        assert worker_resources(ResourcesSpec(gpu=False)).gpus == 0
    finally:
        engines.close()
        room.cluster.remove_node(node)
