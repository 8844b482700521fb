"""What a key's unfinished jobs may add up to, alone and when many come at once."""

from __future__ import annotations

from functools import partial

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine

from services.jobs.keys import Keys, Scope
from services.jobs.limits import Limits
from services.jobs.states import State
from services.jobs.store import Jobs, QueueFullError, TooLargeError
from tests.services.jobs.test_states import submission, together

COUNTED = ["points", "prompts", "tokens"]


@pytest.mark.parametrize("name", COUNTED)
def test_a_job_larger_than_the_limit_is_refused_for_good(jobs: Jobs, name: str) -> None:
    limits = Limits(**{name: 1_000})
    with pytest.raises(TooLargeError, match=f"the job has 1,001 {name}, and this key may have 1,000"):
        jobs.submit(submission(**{name: 1_001}), limits)
    assert jobs.page().jobs == []
    jobs.submit(submission(**{name: 1_000}), limits)


def test_a_key_that_may_have_no_job_has_none(jobs: Jobs) -> None:
    with pytest.raises(TooLargeError, match="the job has 1 jobs"):
        jobs.submit(submission(), Limits(jobs=0))


@pytest.mark.parametrize("name", COUNTED)
def test_unfinished_jobs_leave_no_more_room_than_the_limit_says(jobs: Jobs, name: str) -> None:
    limits = Limits(**{name: 1_000})
    jobs.submit(submission(**{name: 600}), limits)
    with pytest.raises(QueueFullError, match=f"have 600 {name}, this one 401, and the key may have 1,000"):
        jobs.submit(submission(**{name: 401}), limits)
    jobs.submit(submission(**{name: 400}), limits)
    assert jobs.counts()[State.QUEUED] == 2


def test_so_many_jobs_and_no_more(jobs: Jobs) -> None:
    for _ in range(3):
        jobs.submit(submission(), Limits(jobs=3))
    with pytest.raises(QueueFullError, match="have 3 jobs, this one 1, and the key may have 3") as full:
        jobs.submit(submission(), Limits(jobs=3))
    assert full.value.field == "spec"
    assert jobs.counts()[State.QUEUED] == 3


def test_jobs_count_until_they_are_over(jobs: Jobs) -> None:
    def full() -> bool:
        try:
            row, _ = jobs.submit(submission(), Limits(jobs=1))
        except QueueFullError:
            return True
        jobs.cancel(row.id)
        return False

    for end in (State.DONE, State.FAILED, State.CANCELLED):
        job = jobs.submit(submission(), Limits(jobs=1))[0].id
        assert full(), "it waits"
        jobs.take("r")
        assert full(), "it runs"
        jobs.cancel(job)
        assert full(), "it is being cancelled"
        jobs.end(job, "r", end)
        assert not full(), f"it is {end}"


def test_one_keys_jobs_leave_anothers_room_alone(jobs: Jobs) -> None:
    jobs.submit(submission("one"), Limits(jobs=1))
    jobs.submit(submission("two"), Limits(jobs=1))


def test_sums_beyond_32_bits_are_counted(jobs: Jobs) -> None:
    limits = Limits(tokens=10**18)
    for _ in range(2):
        jobs.submit(submission(tokens=4 * 10**17), limits)
    with pytest.raises(QueueFullError, match="800,000,000,000,000,000 tokens"):
        jobs.submit(submission(tokens=4 * 10**17), limits)


def test_a_limit_below_zero_is_none() -> None:
    with pytest.raises(ValidationError):
        Limits(jobs=-1)


@pytest.mark.parametrize("kind", ["a key", "nobody"])
def test_twenty_at_once_make_no_more_than_the_limit(jobs: Jobs, engine: Engine, kind: str) -> None:
    """For the owner of a key, and where no key is needed: there the limits are the operator's."""
    for number in range(3):
        owner = f"nobody {number}"
        if kind == "a key":
            owner = Keys(engine).create("one", [Scope.SUBMIT])[0].id
        found = together(20, partial(_submitted, jobs, owner))
        assert found.count(True) == 5
        assert len(jobs.page(owner=owner).jobs) == 5


def _submitted(jobs: Jobs, owner: str, _: int) -> bool:
    try:
        return jobs.submit(submission(owner), Limits(jobs=5))[1]
    except QueueFullError:
        return False
