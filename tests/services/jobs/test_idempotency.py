"""A submission that is repeated under its key is one job, however often and however fast it comes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from services.jobs.keys import Keys, Scope
from services.jobs.limits import Limits
from services.jobs.states import State
from services.jobs.store import Jobs, ReplayError
from tests.services.jobs.test_states import submission, submitted, together

KEY = {"idempotency_key": "k"}


@pytest.fixture(params=["a key", "nobody"])
def owner(request: pytest.FixtureRequest, engine: Engine) -> str:
    """An owner that is in the table of keys, and one that is not, as where no key is needed."""
    if request.param == "nobody":
        return "local"
    return Keys(engine).create("one", [Scope.SUBMIT])[0].id


def test_the_same_key_gives_the_same_job(jobs: Jobs) -> None:
    first, new = jobs.submit(submission(**KEY, label="x"))
    again, new_again = jobs.submit(submission(**KEY, label="x"))
    assert (new, new_again) == (True, False)
    assert again.id == first.id
    assert len(jobs.page().jobs) == 1


def test_the_first_job_is_given_in_whatever_state_it_is_by_now(jobs: Jobs) -> None:
    job = submitted(jobs, **KEY).id
    jobs.cancel(job)
    again, new = jobs.submit(submission(**KEY))
    assert (again.id, again.state, new) == (job, State.CANCELLED, False)


@pytest.mark.parametrize(
    "other",
    [
        {"spec": {"judges": "keyword-modern"}},
        {"model": "n"},
        {"label": "another"},
        {"priority": 1},
        {"webhook": {"url": "https://example.com", "secret": "s" * 16}},
    ],
)
def test_another_request_under_the_key_is_refused(jobs: Jobs, other: dict[str, Any]) -> None:
    first = submitted(jobs, **KEY)
    with pytest.raises(ReplayError, match=f"'k' was used for another request .job {first.id}") as refused:
        jobs.submit(submission(**KEY, **other))
    assert refused.value.field == "Idempotency-Key"
    assert len(jobs.page().jobs) == 1


def test_the_order_of_fields_makes_no_other_request(jobs: Jobs) -> None:
    first = submitted(jobs, **KEY, spec={"a": 1, "b": {"c": 2, "d": 3}})
    again, new = jobs.submit(submission(**KEY, spec={"b": {"d": 3, "c": 2}, "a": 1}))
    assert (again.id, new) == (first.id, False)


def test_two_owners_may_use_the_same_key(jobs: Jobs) -> None:
    one = submitted(jobs, owner="one", **KEY)
    two = submitted(jobs, owner="two", **KEY, label="another request")
    assert one.id != two.id


def test_without_a_key_every_submission_is_a_job(jobs: Jobs) -> None:
    assert submitted(jobs).id != submitted(jobs).id


def test_a_repeated_submission_needs_no_room(jobs: Jobs) -> None:
    first, _ = jobs.submit(submission(**KEY), Limits(jobs=1))
    again, new = jobs.submit(submission(**KEY), Limits(jobs=1))
    assert (again.id, new) == (first.id, False)


def test_a_key_is_free_again_once_its_job_is_deleted(jobs: Jobs) -> None:
    first = submitted(jobs, **KEY)
    jobs.cancel(first.id)
    jobs.delete(first.id)
    assert submitted(jobs, **KEY, label="another request").id != first.id


def test_twenty_at_once_under_one_key_make_one_job(jobs: Jobs, owner: str) -> None:
    found = together(20, lambda _: jobs.submit(submission(owner, **KEY), Limits()))
    assert len({row.id for row, _ in found}) == 1
    assert [new for _, new in found].count(True) == 1
    assert jobs.counts()[State.QUEUED] == 1


def test_two_requests_at_once_under_one_key_make_one_job(jobs: Jobs, owner: str) -> None:
    """Ten send one request and ten another: one job is made, and who sent the other one is told."""

    def submit(number: int) -> str | None:
        try:
            row, _ = jobs.submit(submission(owner, **KEY, label=str(number % 2)))
        except ReplayError:
            return None
        assert row.label == str(number % 2)
        return row.id

    found = together(20, submit)
    assert found.count(None) == 10
    assert len(set(found)) == 2
    assert jobs.counts()[State.QUEUED] == 1
