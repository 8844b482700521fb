"""A job goes from state to state only as it may, and every change is seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import StatementError

from services.jobs.states import OVER, Kind, State, StateError, require_follows
from services.jobs.store import SINCE, Jobs, NoSuchJobError, NotOverError, Submission
from services.jobs.tables import JobRow

Result = TypeVar("Result")
# Written out once more, so that a change of the table is seen.
ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("running", "queued"),
    ("running", "cancelling"),
    ("running", "done"),
    ("running", "cancelled"),
    ("running", "failed"),
    ("cancelling", "cancelled"),
    ("cancelling", "done"),
    ("cancelling", "failed"),
}
EVERY_PAIR = list(product(State, State))


def submission(owner: str = "one", model: str = "m", **changes: Any) -> Submission:
    """What a client asks for: ten points of two prompts of five tokens, unless told otherwise."""
    given: dict[str, Any] = {"points": 10, "prompts": 20, "tokens": 100, **changes}
    return Submission(spec={"model": model, **given.pop("spec", {})}, owner=owner, **given)


def submitted(jobs: Jobs, **changes: Any) -> JobRow:
    """A job that is new."""
    row, new = jobs.submit(submission(**changes))
    assert new
    return row


def taken(jobs: Jobs, runner: str = "r", **changes: Any) -> JobRow:
    """A job that a runner has taken."""
    submitted(jobs, **changes)
    row = jobs.take(runner)
    assert row is not None
    return row


def together(count: int, work: Callable[[int], Result]) -> list[Result]:
    """What `work` gives for each number, in so many threads that begin at the same moment."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> Result:
        barrier.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each of some functions gives, all begun at the same moment."""
    return together(len(works), lambda number: works[number]())


def force(engine: Engine, job: str, **values: Any) -> None:
    """Change a row behind the back of the code."""
    with engine.begin() as connection:
        connection.execute(update(JobRow).where(JobRow.id == job).values(**values))


@pytest.mark.parametrize(("before", "after"), EVERY_PAIR)
def test_a_state_follows_another_only_where_it_may(before: State, after: State) -> None:
    if (before, after) in ALLOWED:
        require_follows(before, after)
        return
    with pytest.raises(StateError, match=f"a job that is {before} cannot become {after}") as refused:
        require_follows(before, after)
    assert refused.value.field == "state"
    for following in (name for first, name in ALLOWED if first == before):
        assert following in refused.value.remedy


def test_what_is_over_stays_over() -> None:
    assert {State.DONE, State.CANCELLED, State.FAILED} == OVER


def test_no_runner_can_bring_a_row_into_a_state_that_may_not_follow(jobs: Jobs, engine: Engine) -> None:
    """Over every pair of states, in the table itself."""
    for before, after in EVERY_PAIR:
        job = submitted(jobs).id
        force(engine, job, state=before, runner="r")
        if (before, after) in ALLOWED:
            assert jobs.end(job, "r", after)
            assert jobs.get(job).state == after
        else:
            with pytest.raises(StateError):
                jobs.end(job, "r", after)
            row = jobs.get(job)
            assert (row.state, row.revision, row.runner) == (before, 1, "r")


def test_a_job_from_its_submission_to_its_end(jobs: Jobs) -> None:
    first = submitted(jobs, label="a label", priority=2)
    assert (first.state, first.done, first.starts, first.error) == (State.QUEUED, 0, 0, None)
    assert (first.started_at, first.finished_at, first.runner) == (None, None, None)

    row = jobs.take("r")
    assert row is not None
    assert (row.id, row.state, row.runner, row.starts) == (first.id, State.RUNNING, "r", 1)
    assert row.started_at is not None
    assert row.lease_until is not None
    assert row.lease_until > row.started_at >= row.created_at
    assert jobs.take("r") is None

    assert jobs.note(row.id, "r", 3, {"done": 3})
    noted = jobs.get(row.id)
    told = {"done": 3, SINCE: row.started_at.isoformat()}
    assert (noted.state, noted.done, noted.progress) == (State.RUNNING, 3, told)

    assert jobs.end(row.id, "r", State.DONE)
    last = jobs.get(row.id)
    assert (last.state, last.done, last.progress, last.error) == (State.DONE, 3, told, None)
    assert (last.runner, last.lease_until) == (None, None)
    assert last.finished_at is not None
    assert (last.label, last.priority, last.spec, last.model) == ("a label", 2, {"model": "m"}, "m")
    # Its runner has nothing to say any more.
    assert not jobs.note(row.id, "r", 4, {"done": 4})
    assert not jobs.end(row.id, "r", State.FAILED)
    assert jobs.get(row.id).state == State.DONE


def test_the_revision_rises_with_every_change_and_only_then(jobs: Jobs) -> None:
    job = submitted(jobs).id
    seen = [jobs.revisions([job])[job]]

    def changed() -> bool:
        seen.append(jobs.revisions([job])[job])
        return seen[-1] > seen[-2]

    jobs.take("r")
    assert changed()
    jobs.note(job, "r", 1, {"done": 1})
    assert changed()
    jobs.note(job, "r", 1, {"done": 1})
    jobs.beat("r", [])
    assert not changed()
    jobs.cancel(job)
    assert changed()
    jobs.cancel(job)
    assert not changed()
    jobs.end(job, "r", State.CANCELLED)
    assert changed()
    assert jobs.revisions([]) == {}
    assert jobs.revisions(["0" * 32]) == {}


def test_a_waiting_job_is_cancelled_at_once(jobs: Jobs) -> None:
    row = jobs.cancel(submitted(jobs).id)
    assert row.state == State.CANCELLED
    assert row.finished_at is not None
    assert jobs.take("r") is None


def test_a_running_job_is_cancelled_by_its_runner(jobs: Jobs) -> None:
    job = taken(jobs).id
    row = jobs.cancel(job)
    assert (row.state, row.runner, row.finished_at) == (State.CANCELLING, "r", None)
    assert jobs.cancel(job).state == State.CANCELLING
    assert jobs.note(job, "r", 2, {"done": 2}), "what is finished meanwhile counts"
    assert jobs.end(job, "r", State.CANCELLED)
    row = jobs.get(job)
    assert (row.state, row.done, row.runner) == (State.CANCELLED, 2, None)


def test_a_job_that_ends_before_it_is_cancelled_is_done(jobs: Jobs) -> None:
    job = taken(jobs).id
    jobs.cancel(job)
    assert jobs.end(job, "r", State.DONE)
    assert jobs.get(job).state == State.DONE


def test_a_job_that_is_to_be_cancelled_never_goes_back_to_the_queue(jobs: Jobs) -> None:
    job = taken(jobs).id
    jobs.cancel(job)
    with pytest.raises(StateError):
        jobs.end(job, "r", State.QUEUED)
    assert jobs.get(job).state == State.CANCELLING


def test_cancelling_what_is_over_changes_nothing(jobs: Jobs) -> None:
    for end in OVER:
        job = taken(jobs).id
        jobs.end(job, "r", end)
        before = jobs.get(job)
        after = jobs.cancel(job)
        assert (after.state, after.revision, after.finished_at) == (end, before.revision, before.finished_at)


def test_a_failed_job_says_why(jobs: Jobs) -> None:
    job = taken(jobs).id
    why = {"field": "model", "problem": "it is no model – \u2028", "remedy": "Use another"}
    jobs.end(job, "r", State.FAILED, why)
    assert jobs.get(job).error == why


def test_a_job_that_was_given_back_is_taken_again(jobs: Jobs) -> None:
    job = taken(jobs).id
    jobs.note(job, "r", 4, {"done": 4})
    assert jobs.end(job, "r", State.QUEUED)
    row = jobs.get(job)
    assert (row.state, row.runner, row.lease_until, row.finished_at) == (State.QUEUED, None, None, None)
    again = jobs.take("other")
    assert again is not None
    assert (again.id, again.done, again.runner) == (job, 4, "other")


def test_only_a_job_that_is_over_is_deleted(jobs: Jobs) -> None:
    job = submitted(jobs).id
    for change in (lambda: None, lambda: jobs.take("r"), lambda: jobs.cancel(job)):
        change()
        with pytest.raises(NotOverError, match=f"the job is {jobs.get(job).state}"):
            jobs.require_over(job)
        jobs.delete(job)
        assert jobs.get(job).id == job
    jobs.end(job, "r", State.CANCELLED)
    assert jobs.require_over(job).id == job
    jobs.delete(job)
    with pytest.raises(NoSuchJobError):
        jobs.get(job)
    jobs.delete(job)  # nothing is left to do


def test_a_job_of_another_key_is_as_one_that_is_not_there(jobs: Jobs) -> None:
    job = submitted(jobs, owner="one").id
    assert jobs.get(job, "one").id == jobs.get(job, None).id == job
    for ask in (jobs.get, jobs.cancel, jobs.require_over):
        with pytest.raises(NoSuchJobError) as others:
            ask(job, "two")
        missing = "0" * 32
        with pytest.raises(NoSuchJobError) as nobodys:
            ask(missing, "two")
        assert str(others.value).replace(job, missing) == str(nobodys.value)
    assert jobs.get(job).state == State.QUEUED


def test_a_job_of_another_kind_is_as_one_that_is_not_there(jobs: Jobs) -> None:
    for kind, other in ((Kind.GATE, Kind.LANDSCAPE), (Kind.LANDSCAPE, Kind.GATE)):
        job = submitted(jobs, kind=kind).id
        assert jobs.get(job).kind == jobs.get(job, kind=kind).kind == kind
        for ask in (jobs.get, jobs.cancel, jobs.require_over):
            with pytest.raises(NoSuchJobError):
                ask(job, None, other)
        assert jobs.get(job).state == State.QUEUED


def test_what_is_no_id_is_no_job(jobs: Jobs) -> None:
    submitted(jobs)
    for job in ("", "x", "A" * 32, "0" * 31, "0" * 33, "é" * 32, "\0" * 32, "0" * 32 + "\n"):
        for ask in (jobs.get, jobs.cancel, jobs.require_over):
            with pytest.raises(NoSuchJobError):
                ask(job)


def test_counts_have_every_state(jobs: Jobs) -> None:
    assert jobs.counts() == dict.fromkeys(State, 0)
    taken(jobs)
    submitted(jobs)
    jobs.cancel(submitted(jobs).id)
    expected = {State.QUEUED: 1, State.RUNNING: 1, State.CANCELLED: 1}
    assert jobs.counts() == dict.fromkeys(State, 0) | expected


def test_the_pace_is_that_of_the_last_job_that_is_done(jobs: Jobs) -> None:
    assert jobs.pace("m") is None
    for seconds, end in [(40.0, State.DONE), (10.0, State.DONE), (99.0, State.FAILED)]:
        job = taken(jobs, points=10, prompts=20).id
        jobs.note(job, "r", 5, {"worker_seconds": seconds})
        jobs.end(job, "r", end)
    assert jobs.pace("m") == pytest.approx(10 / 10), "half of the points: ten of the twenty prompts"
    assert jobs.pace("another") is None


def test_times_keep_their_zone(jobs: Jobs, engine: Engine) -> None:
    job = submitted(jobs).id
    created = jobs.get(job).created_at
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    with pytest.raises(StatementError, match="a time without zone"):
        force(engine, job, created_at=datetime(2030, 1, 1))


def test_a_cancellation_and_an_end_at_the_same_time_leave_one_of_both(jobs: Jobs) -> None:
    for _ in range(5):
        job = taken(jobs).id
        at_once(partial(jobs.cancel, job), partial(jobs.end, job, "r", State.DONE))
        row = jobs.get(job)
        assert (row.state, row.runner, row.revision) in [(State.DONE, None, 3), (State.DONE, None, 4)]
