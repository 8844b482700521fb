"""The runner between the table and the engines: real Ray, fake workers, a database that goes away."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from sqlalchemy.exc import OperationalError

from services.jobs.allowed import Allowed
from services.jobs.database import open_database
from services.jobs.runner import Runner
from services.jobs.states import Kind, State
from services.jobs.storage import Storage
from services.jobs.store import Jobs, Submission
from services.sweep.cluster import worker_resources
from services.sweep.engines import Engines
from services.sweep.schedule import Shard
from tests.services.collector import Collector, collecting
from tests.services.fakes import FakeWorker
from tests.services.jobs.test_webhooks import receiver
from tests.services.served import ROOT, until
from visage_core.prompts import load_prompts
from visage_core.results import Measurement, Results
from visage_core.spec import PromptSpec, ResourcesSpec

HOLD = "VISAGE_TEST_HOLD"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """What the processes of the cluster send their spans to."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def cluster(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # The workers' processes inherit both.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ[HOLD] = str(tmp_path_factory.mktemp("hold") / "after")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(found.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    found.shutdown()
    del os.environ[HOLD]


class HeldWorker(FakeWorker):
    """Measures as many points as the file named by HOLD says, counted from when it was written, and the rest
    once that file is gone: a test stops it in the middle of a job, however fast the machine is."""

    _measured, _since = 0, 0

    @ray.method(concurrency_group="engine")
    def measure(self, name: str, shard: Shard) -> Measurement | None:
        while name not in self._cancelled and self._measured >= self._held_after():
            time.sleep(0.02)
        self._measured += 1
        return super().measure(name, shard)

    def _held_after(self) -> float:
        hold = Path(os.environ[HOLD])
        try:
            after, since = float(hold.read_text(encoding="utf-8")), hold.stat().st_mtime_ns
        except (FileNotFoundError, ValueError):  # not there, or just being written
            return math.inf
        if since != self._since:
            self._measured, self._since = 0, since
        return after


class LastingEngines(Engines):
    """Engines that outlive their runner: to start them takes much longer than a test."""

    def close(self) -> None:
        """Leave them to the next runner."""

    def end(self) -> None:
        """End them, as a runner does that stops."""
        super().close()


@pytest.fixture(scope="module")
def lasting(cluster: None) -> LastingEngines:
    return LastingEngines(1, worker_resources(ResourcesSpec(workers=1, cores=1)), HeldWorker)


def _landscape(points: int) -> dict[str, Any]:
    return {
        "axis": {"points": points, "direction": {"seeds": [0]}},
        "prompts": [{"limit": 10}],
        "generation": {"max_tokens": 8},
        "engine": {"max_model_len": 512},
    }


class FlakyJobs(Jobs):
    """The table, whose database is away as long as `away` is set."""

    away = False

    def _writing(self) -> Any:
        if self.away:
            raise OperationalError("UPDATE", {}, Exception("connection refused"))
        return super()._writing()


class Bench:
    """A runner on a table, and what it needs."""

    def __init__(self, folder: Path, model: Path, engines: LastingEngines) -> None:
        self.model, self.folder, self.engines = model, folder, engines
        self.database = open_database(f"sqlite:///{folder / 'visage.db'}")
        self.jobs = FlakyJobs(self.database)
        self.runners: list[Runner] = []

    def start(self, at_once: int = 2) -> Runner:
        storage, allowed = Storage(self.folder / "jobs"), Allowed((self.model.parent,))
        runner = Runner(self.jobs, storage, allowed, self.engines, at_once, private_webhooks=True)
        runner.start()
        self.runners.append(runner)
        return runner

    def hold(self, after: int) -> None:
        """Let each worker stop after so many points, until `release`."""
        Path(os.environ[HOLD]).write_text(str(after), encoding="utf-8")

    def release(self) -> None:
        """Let the workers measure."""
        Path(os.environ[HOLD]).unlink(missing_ok=True)

    def submit(
        self,
        model: str | None = None,
        owner: str = "local",
        priority: int = 0,
        points: int = 11,
        traceparent: str | None = None,
    ) -> str:
        spec = {"model": model or str(self.model), **_landscape(points)}
        size = {"points": points, "prompts": 10 * points, "tokens": 80 * points}
        row, _ = self.jobs.submit(
            Submission(spec, **size, owner=owner, priority=priority, traceparent=traceparent)
        )
        return row.id

    def submit_gate(
        self,
        baseline: str | None = None,
        points: int = 11,
        webhook: dict[str, str] | None = None,
        **policy: Any,
    ) -> str:
        """A gate that passes: fake workers comply nowhere near the origin, whatever the model."""
        rules = [
            {"measure": "asr_at_origin", "at_most": 50},
            {"measure": "mean_safety", "at_least": -40, "relative": True},
        ]
        policy = {"name": "p", "landscape": _landscape(points), "rules": rules} | policy
        baseline = baseline or str(self.model)
        spec = {"policy": policy, "model": str(self.model), "baseline": baseline}
        count = 2 * points * policy.get("looks", 1)
        size = {"points": count, "prompts": 20 * points, "tokens": 160 * points}
        row, _ = self.jobs.submit(Submission(spec, **size, owner="local", kind=Kind.GATE, webhook=webhook))
        return row.id

    def submit_audit(
        self,
        models: list[Path],
        points: int = 11,
        baseline: str | None = None,
        priority: int = 0,
        webhook: dict[str, str] | None = None,
    ) -> str:
        rules = [{"measure": "asr_at_origin", "at_most": 50}]
        policy = {"name": "p", "landscape": _landscape(points), "rules": rules}
        spec = {"policy": policy, "models": [str(one) for one in models], "baseline": baseline}
        count = points * len(models)
        row, _ = self.jobs.submit(
            Submission(
                spec,
                count,
                10 * count,
                80 * count,
                "local",
                kind=Kind.AUDIT,
                priority=priority,
                webhook=webhook,
            )
        )
        return row.id

    def results(self, job: str) -> Path:
        return self.folder / "jobs" / job

    def state(self, job: str) -> str:
        return self.jobs.get(job).state


@pytest.fixture
def bench(
    lasting: LastingEngines, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.setattr("services.jobs.runner.NOTE_SECONDS", 0.1)
    monkeypatch.setattr("services.jobs.runner.TICK_SECONDS", 0.2)
    made = Bench(tmp_path, aligned, lasting)
    yield made
    made.jobs.away = False
    made.release()
    for runner in made.runners:
        runner.stop()
    made.database.dispose()


def test_a_database_that_goes_away_and_comes_back_costs_no_job(bench: Bench) -> None:
    """It is away while the job ends."""
    bench.hold(after=3)
    job = bench.submit()
    bench.start()
    until(lambda: bench.jobs.get(job).done == 3)
    bench.jobs.away = True
    bench.release()
    until((bench.results(job) / "points.parquet").exists)
    time.sleep(1)  # for its end to be noted in vain
    assert bench.state(job) == State.RUNNING
    bench.jobs.away = False
    until(lambda: bench.state(job) == State.DONE)
    assert len(Results(bench.results(job)).done()) == 11
    assert bench.jobs.get(job).error is None


def test_a_model_that_is_gone_by_then_is_told(bench: Bench) -> None:
    job = bench.submit(model=str(bench.model.parent / "no-such-model"))
    bench.start()
    until(lambda: bench.state(job) == State.FAILED)
    error = bench.jobs.get(job).error
    assert error is not None
    assert error["field"] == "model"
    assert error["remedy"]


def test_what_may_no_longer_be_read_is_not(bench: Bench, tmp_path: Path) -> None:
    """The table may be older than the rules."""
    job = bench.submit(model=str(tmp_path))
    bench.start()
    until(lambda: bench.state(job) == State.FAILED)
    assert "from which this service takes models" in (bench.jobs.get(job).error or {})["problem"]


def test_an_urgent_job_goes_before_those_that_run(bench: Bench) -> None:
    slow = [bench.submit(points=201) for _ in range(2)]
    bench.start(at_once=2)
    until(lambda: all(bench.state(job) == State.RUNNING for job in slow))
    urgent = bench.submit(priority=5, points=11)
    until(lambda: bench.state(urgent) == State.DONE)
    assert all(bench.state(job) == State.RUNNING for job in slow)


def test_two_runners_share_the_jobs_and_run_none_twice(bench: Bench) -> None:
    jobs = [bench.submit(owner=str(number % 2), points=5) for number in range(6)]
    for _ in range(2):
        bench.start(at_once=1)
    until(lambda: all(bench.state(job) == State.DONE for job in jobs))
    for job in jobs:
        assert bench.jobs.get(job).starts == 0
        assert len(Results(bench.results(job)).points()) == 5


def test_the_trace_of_a_job_goes_on_in_another_runner(bench: Bench, collector: Collector) -> None:
    """Through all processes; each point is in it, with its stages, kept once, and no prompt is."""
    trace, request = "a" * 32, "b" * 16
    bench.engines.end()  # their start is in it
    bench.hold(after=3)
    job = bench.submit(traceparent=f"00-{trace}-{request}-01")
    first = bench.start()
    until(lambda: bench.jobs.get(job).done == 3)
    first.stop()
    bench.engines.end()
    bench.release()
    bench.start()
    until(lambda: bench.state(job) == State.DONE)
    until(lambda: len(collector.named(trace, "job")) == 2)
    # What comes in after the stop is not written, and is measured again.
    written = {span.parent for span in collector.named(trace, "write")}
    points = [span for span in collector.named(trace, "point") if span.id in written]
    assert len({span.attributes["visage.alpha"] for span in points}) == len(points) == 11
    runs = collector.named(trace, "job")
    assert [span.attributes["visage.state"] for span in runs] == ["put back", "done"]
    assert {span.attributes["visage.job"] for span in runs} == {job}
    spans = collector.of(trace)
    names = {span.id: span.name for span in spans} | {request: "request"}
    assert {(names[span.parent], span.name) for span in spans} == {
        ("request", "job"),
        ("job", "landscape"),
        ("landscape", "start engine"),
        ("landscape", "point"),
        ("point", "move"),
        ("point", "generate"),
        ("point", "write"),
    }
    for prompt in load_prompts(PromptSpec(source="harmful", limit=10)).prompts:
        assert prompt.encode() not in collector.received


def test_a_gate_is_measured_decided_and_told(bench: Bench) -> None:
    with receiver() as there:
        job = bench.submit_gate(webhook={"url": there.url, "secret": "s" * 16})
        bench.start()
        until(lambda: there.requests != [])
    row = bench.jobs.get(job)
    assert (row.state, row.error) == (State.DONE, None)
    assert row.progress is not None
    assert row.progress["verdict"] == "pass", row.progress
    assert [found["verdict"] for found in row.progress["findings"]] == ["pass", "pass"]
    for name in ("decision.json", "decision.md", "decision.html", "junit.xml"):
        assert (bench.results(job) / name).exists()
    for name in ("model", "baseline"):
        assert len(Results(bench.results(job) / name).done()) == 11
    [(_, _, _, body)] = there.requests
    told = json.loads(body)
    assert told["type"] == "gate.finished"
    assert (told["data"]["id"], told["data"]["state"], told["data"]["verdict"]) == (job, "done", "pass")


@pytest.mark.parametrize("looks", [1, 2])
def test_a_gate_goes_on_from_its_durable_points(bench: Bench, looks: int) -> None:
    """Whose service ends while it measures for its last look; and that does not come before."""
    undecided = {"measure": "visage", "at_least": -1, "relative": True}
    durable, every = 22 * (looks - 1) + 5, 22 * looks
    bench.hold(after=durable)
    job = bench.submit_gate(looks=looks, rules=[undecided])
    first = bench.start()
    until(lambda: bench.jobs.get(job).done == durable)
    first.stop()
    row = bench.jobs.get(job)
    assert row.state == State.QUEUED
    assert row.progress is not None
    assert (row.progress["look"] or {"number": 0})["number"] == looks - 1
    before = finished(bench.results(job), looks)
    assert len(before) == durable
    bench.release()
    bench.start()
    until(lambda: bench.state(job) == State.DONE)
    after = finished(bench.results(job), looks)
    assert len(after) == every
    assert before.items() <= after.items(), "points were measured again"
    row = bench.jobs.get(job)
    assert row.progress is not None
    assert (row.done, row.progress["look"]["number"]) == (every, looks)
    assert row.progress["look"]["responses"] == row.progress["look"]["planned"] == 2 * 11 * 10


def finished(folder: Path, looks: int = 1) -> dict[tuple[Any, ...], Any]:
    """When each point of a gate's landscapes was finished, for each look."""
    found = {}
    for model in ("model", "baseline"):
        parts = [f"part-{number}" for number in range(1, looks + 1)] if looks > 1 else [""]
        for part in parts:
            for row in Results(folder / model / part).points().to_pylist():
                found[model, part, row["alpha"]] = row["finished_at"]
    return found


def test_a_gate_that_is_cancelled_has_no_decision(bench: Bench) -> None:
    bench.hold(after=3)
    job = bench.submit_gate()
    bench.start()
    until(lambda: bench.jobs.get(job).done == 3)
    bench.jobs.cancel(job)
    until(lambda: bench.state(job) == State.CANCELLED)
    assert not (bench.results(job) / "decision.json").exists()
    assert finished(bench.results(job))


def test_a_gate_that_cannot_be_measured_has_failed(bench: Bench, tmp_path: Path) -> None:
    """Its baseline may not be read any more."""
    job = bench.submit_gate(baseline=str(tmp_path))
    bench.start()
    until(lambda: bench.state(job) == State.FAILED)
    assert "from which this service takes models" in (bench.jobs.get(job).error or {})["problem"]
    assert not (bench.results(job) / "decision.json").exists()


def leaderboard(folder: Path) -> dict[str, str | None]:
    """What a leaderboard says of each of its models."""
    document = Results(folder).read_json("leaderboard.json")
    assert document is not None
    return {row["model"]: row["verdict"] for row in document["checkpoints"]}


def test_audits_beside_each_other_are_measured_and_told(bench: Bench, harmful: Path) -> None:
    """Each its own models; one that is not there by then is no other's harm."""
    gone = bench.model.parent / "no-such-model"
    with receiver() as there:
        one = bench.submit_audit([bench.model, gone], webhook={"url": there.url, "secret": "s" * 16})
        other = bench.submit_audit([harmful], baseline=str(bench.model))
        bench.start(at_once=2)
        until(lambda: all(bench.state(job) == State.DONE for job in (one, other)))
        until(lambda: there.requests != [])
    assert leaderboard(bench.results(one)) == {str(bench.model): "pass", str(gone): None}
    assert leaderboard(bench.results(other)) == {str(harmful): "pass"}
    row = bench.jobs.get(one)
    assert row.progress is not None
    assert row.progress["verdicts"] == {"pass": 1, "fail": 0, "inconclusive": 0, "broken": 1}
    assert (row.done, row.progress["settled"], row.progress["tokens"]) == (11, 2, 11 * 10 * 4)
    assert bench.jobs.get(other).done == 22
    [(_, _, _, body)] = there.requests
    told = json.loads(body)
    assert told["type"] == "audit.finished"
    assert (told["data"]["id"], told["data"]["verdicts"]) == (one, row.progress["verdicts"])


def test_an_audit_that_is_put_back_goes_on_and_one_that_is_cancelled_ends(bench: Bench) -> None:
    bench.hold(after=3)
    job = bench.submit_audit([bench.model])
    first = bench.start()
    until(lambda: bench.jobs.get(job).done == 3)
    first.stop()
    bench.engines.end()  # what the trial of an audit has under way there ends with them
    until(lambda: bench.state(job) == State.QUEUED)
    [folder] = bench.results(job).glob("checkpoints/*/model")
    before = {row["alpha"]: row["finished_at"] for row in Results(folder).points().to_pylist()}
    second = bench.start()
    until(lambda: bench.jobs.get(job).done == 6)
    bench.jobs.cancel(job)
    until(lambda: bench.state(job) == State.CANCELLED)
    after = {row["alpha"]: row["finished_at"] for row in Results(folder).points().to_pylist()}
    assert before.items() < after.items(), "points were measured again"
    assert (len(before), len(after)) == (3, 6)
    assert not (bench.results(job) / "leaderboard.json").exists()
    assert second._engines.state()["jobs"] == []
