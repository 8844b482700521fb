"""Which job is next, and that each is taken once."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

from services.jobs.states import State
from services.jobs.store import Jobs
from services.jobs.tables import JobRow
from tests.services.jobs.test_states import at_once, submitted, taken, together


def waiting(jobs: Jobs, owner: str, count: int = 1, priority: int = 0) -> list[str]:
    """So many jobs, one after another."""
    return [_later(jobs, owner, priority).id for _ in range(count)]


def _later(jobs: Jobs, owner: str, priority: int) -> JobRow:
    time.sleep(0.002)  # ids sort by milliseconds
    return submitted(jobs, owner=owner, priority=priority)


def take_all(jobs: Jobs, above: int | None = None) -> list[str]:
    found = []
    while (row := jobs.take("r", above)) is not None:
        found.append(row.id)
    return found


def test_nothing_waits(jobs: Jobs) -> None:
    assert jobs.take("r") is None


def test_the_oldest_job_of_a_key_is_next(jobs: Jobs) -> None:
    expected = waiting(jobs, "one", 5)
    assert take_all(jobs) == expected


def test_the_highest_priority_goes_first(jobs: Jobs) -> None:
    [low], [middle], [high] = (waiting(jobs, "one", priority=number) for number in (-10, 0, 10))
    [other] = waiting(jobs, "two", priority=-1)
    assert take_all(jobs) == [high, middle, other, low]


def test_keys_take_turns(jobs: Jobs) -> None:
    """One key's hundred jobs do not hold up another's."""
    many, few = waiting(jobs, "one", 5), waiting(jobs, "two", 2)
    assert take_all(jobs) == [many[0], few[0], many[1], few[1], *many[2:]]


def test_a_turn_counts_when_its_job_is_over_too(jobs: Jobs) -> None:
    jobs.end(taken(jobs, owner="one").id, "r", State.DONE)
    [first], [second] = waiting(jobs, "one"), waiting(jobs, "two")
    assert take_all(jobs) == [second, first]


def test_keys_take_turns_within_a_priority(jobs: Jobs) -> None:
    urgent = waiting(jobs, "one", 2, priority=5)
    [other] = waiting(jobs, "two")
    assert take_all(jobs) == [*urgent, other]


def test_only_a_job_of_higher_priority_interrupts(jobs: Jobs) -> None:
    waiting(jobs, "one", 2, priority=3)
    assert jobs.take("r", above=3) is None
    [urgent] = waiting(jobs, "one", priority=4)
    assert take_all(jobs, above=3) == [urgent]
    assert jobs.counts()[State.QUEUED] == 2
    assert jobs.take("r", above=-11) is not None


def test_what_is_over_or_runs_is_not_taken(jobs: Jobs) -> None:
    jobs.end(taken(jobs).id, "r", State.FAILED)
    taken(jobs)
    jobs.cancel(submitted(jobs).id)
    assert jobs.take("other") is None


def test_sixteen_runners_take_a_hundred_jobs_each_once(jobs: Jobs) -> None:
    expected = {submitted(jobs, owner=f"owner {number % 3}").id for number in range(100)}

    def work(number: int) -> list[str]:
        found = []
        while (row := jobs.take(f"runner {number}")) is not None:
            assert row.runner == f"runner {number}"
            found.append(row.id)
        return found

    found = together(16, work)
    counts = Counter(job for jobs_of_one in found for job in jobs_of_one)
    assert counts == dict.fromkeys(expected, 1)
    for number, mine in enumerate(found):
        for job in mine:
            row = jobs.get(job)
            assert (row.runner, row.starts) == (f"runner {number}", 1)


def test_a_job_that_is_cancelled_while_it_is_taken_is_not_lost(jobs: Jobs) -> None:
    for _ in range(5):
        job = submitted(jobs).id
        row, _ = at_once(partial(jobs.take, "r"), partial(jobs.cancel, job))
        state = jobs.get(job).state
        assert state == (State.CANCELLED if row is None else State.CANCELLING)
