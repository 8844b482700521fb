"""A runner that gives no sign of life loses its jobs, and none of them is lost or run twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import Engine, select

from services.jobs.database import now
from services.jobs.states import State
from services.jobs.store import LEASE, MOST_STARTS, Jobs
from services.jobs.tables import JobRow, RunnerRow
from tests.services.jobs.test_states import at_once, force, submitted, taken, together


class Clock:
    """The time, as the job table has it: nobody waits for it to pass."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return now() + self.ahead

    def forward(self, by: timedelta) -> None:
        self.ahead += by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("services.jobs.store.now", found.now)
    return found


def expire(engine: Engine, job: str) -> None:
    """Let one lease be over, as if its runner had said nothing for long."""
    force(engine, job, lease_until=now() - timedelta(seconds=1))


def dies(jobs: Jobs, clock: Clock, job: str, done: int | None = None) -> None:
    """A runner takes the job, finishes `done` points if any, and dies."""
    row = jobs.take("r")
    assert row is not None
    assert row.id == job
    if done is not None:
        assert jobs.note(job, "r", done, {"done": done})
    clock.forward(LEASE)
    assert jobs.recover() == [job]


def test_a_silent_runner_loses_its_jobs_once_the_lease_is_over(jobs: Jobs, clock: Clock) -> None:
    job = taken(jobs, "dead").id
    assert jobs.recover() == []
    clock.forward(LEASE * 0.9)
    assert jobs.recover() == []
    clock.forward(LEASE * 0.2)
    assert jobs.recover() == [job]
    row = jobs.get(job)
    assert (row.state, row.runner, row.lease_until) == (State.QUEUED, None, None)
    assert jobs.recover() == []


def test_signs_of_life_keep_a_lease(jobs: Jobs, clock: Clock) -> None:
    job = taken(jobs, "r").id
    for _ in range(4):
        clock.forward(LEASE * 0.8)
        assert jobs.beat("r", []) == {job: State.RUNNING}
        assert jobs.recover() == []


def test_a_sign_of_life_keeps_the_leases_of_no_other_runner(jobs: Jobs, engine: Engine) -> None:
    mine, others = taken(jobs, "r").id, taken(jobs, "other").id
    expire(engine, mine)
    expire(engine, others)
    jobs.beat("r", [])
    assert jobs.recover() == [others]
    lease = jobs.get(mine).lease_until
    assert lease is not None
    assert now() < lease <= now() + LEASE


def test_the_next_runner_goes_on_and_the_old_one_has_nothing_to_say(jobs: Jobs, engine: Engine) -> None:
    job = taken(jobs, "old").id
    jobs.note(job, "old", 2, {"done": 2})
    expire(engine, job)
    jobs.recover()
    for state in (State.QUEUED, State.RUNNING):
        before = jobs.get(job)
        assert before.state == state
        assert not jobs.note(job, "old", 9, {"done": 9})
        for end in (State.DONE, State.QUEUED, State.FAILED):
            assert not jobs.end(job, "old", end, {"problem": "x"})
        assert jobs.beat("old", []) == {}
        after = jobs.get(job)
        names = ("state", "revision", "done", "progress", "error", "runner", "lease_until")
        assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]
        jobs.take("new")
    assert jobs.get(job).runner == "new"
    assert jobs.note(job, "new", 3, {"done": 3})
    assert jobs.end(job, "new", State.DONE)


def test_a_runner_learns_what_is_asked_of_its_jobs(jobs: Jobs, engine: Engine) -> None:
    running, cancelled, over, lost = (taken(jobs, "r").id for _ in range(4))
    taken(jobs, "other")
    submitted(jobs)
    jobs.cancel(cancelled)
    jobs.end(over, "r", State.DONE)
    expire(engine, lost)
    jobs.recover()
    assert jobs.beat("r", []) == {running: State.RUNNING, cancelled: State.CANCELLING}


def test_a_job_that_was_to_be_cancelled_by_a_dead_runner_is_cancelled(jobs: Jobs, engine: Engine) -> None:
    job = taken(jobs).id
    jobs.cancel(job)
    expire(engine, job)
    assert jobs.recover() == [job]
    row = jobs.get(job)
    assert row.state == State.CANCELLED
    assert row.finished_at is not None


def test_a_job_that_kills_its_runner_again_and_again_fails(jobs: Jobs, clock: Clock) -> None:
    job = submitted(jobs).id
    for start in range(1, MOST_STARTS + 1):
        assert jobs.get(job).state == State.QUEUED
        dies(jobs, clock, job)
        assert jobs.get(job).starts == start
    row = jobs.get(job)
    assert row.state == State.FAILED
    assert row.finished_at is not None
    assert row.error is not None
    assert row.error["field"] == "model"
    assert row.error["problem"].startswith(f"the job was begun {MOST_STARTS} times")
    assert "log" in row.error["remedy"]
    assert jobs.take("r") is None


def test_a_finished_point_gives_a_job_all_its_starts_back(jobs: Jobs, clock: Clock) -> None:
    job = submitted(jobs).id
    for done in range(1, 4):
        for _ in range(MOST_STARTS - 1):
            dies(jobs, clock, job)
        dies(jobs, clock, job, done)
        row = jobs.get(job)
        assert (row.state, row.starts) == (State.QUEUED, 0)


def test_a_job_that_waits_for_workers_is_not_what_its_runners_die_of(jobs: Jobs, clock: Clock) -> None:
    """As often as a service is killed, or goes down by itself, while others are measured."""
    job = submitted(jobs).id
    for done in (0, 3):
        for _ in range(MOST_STARTS + 1):
            dies(jobs, clock, job, done)
            assert jobs.get(job).state == State.QUEUED
    # What it told of before is not what it tells of now.
    for _ in range(MOST_STARTS):
        assert jobs.get(job).state == State.QUEUED
        dies(jobs, clock, job)
    assert jobs.get(job).state == State.FAILED


def test_a_job_that_kills_its_runner_once_all_is_measured_fails(jobs: Jobs, clock: Clock) -> None:
    job = submitted(jobs).id
    points = jobs.get(job).points
    dies(jobs, clock, job, points)
    for _ in range(MOST_STARTS):
        assert jobs.get(job).state == State.QUEUED
        dies(jobs, clock, job, points)
    assert jobs.get(job).state == State.FAILED


def test_sixteen_runners_recover_a_lost_job_once(jobs: Jobs, engine: Engine) -> None:
    lost = [taken(jobs, "dead").id for _ in range(5)]
    for job in lost:
        expire(engine, job)
    found = [job for found in together(16, lambda _: jobs.recover()) for job in found]
    assert sorted(found) == sorted(lost)
    assert jobs.counts()[State.QUEUED] == 5


def test_a_lost_job_and_its_waking_runner_agree(jobs: Jobs, engine: Engine) -> None:
    """The runner speaks up in the moment in which its job is taken from it: one of both holds."""
    for _ in range(5):
        job = taken(jobs, "r").id
        expire(engine, job)
        states, recovered = at_once(partial(jobs.beat, "r", []), jobs.recover)
        row = jobs.get(job)
        assert (row.state, row.runner) == ((State.QUEUED, None) if recovered else (State.RUNNING, "r"))
        assert not (recovered and jobs.beat("r", []))
        jobs.cancel(job)
        if not recovered:
            assert job in states
            jobs.end(job, "r", State.CANCELLED)


def test_runners_that_are_alive(jobs: Jobs, clock: Clock) -> None:
    assert jobs.runners() == []
    jobs.beat("one", [{"state": "idle"}])
    jobs.beat("two", [])
    jobs.beat("one", [{"state": "busy"}])
    assert {row.id: row.workers for row in jobs.runners()} == {"one": [{"state": "busy"}], "two": []}
    clock.forward(LEASE * 0.6)
    jobs.beat("two", [])
    clock.forward(LEASE * 0.6)
    assert [row.id for row in jobs.runners()] == ["two"]


def test_runners_that_are_long_gone_are_forgotten(jobs: Jobs, engine: Engine, clock: Clock) -> None:
    jobs.beat("one", [])
    clock.forward(timedelta(days=1))
    jobs.beat("two", [])
    with engine.connect() as connection:
        assert list(connection.scalars(select(RunnerRow.id))) == ["two"]


def test_leases_are_of_running_jobs_alone(jobs: Jobs, engine: Engine) -> None:
    taken(jobs)
    jobs.end(taken(jobs).id, "r", State.DONE)
    jobs.end(taken(jobs).id, "r", State.QUEUED)
    with engine.connect() as connection:
        held = connection.execute(select(JobRow.state).where(JobRow.lease_until.is_not(None))).scalars()
        assert list(held) == [State.RUNNING]
