"""Page by page every job comes once, the newest first, whatever is submitted meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from services.jobs.states import Kind, State
from services.jobs.store import Jobs
from tests.services.jobs.test_states import submitted, together


def in_order(jobs: Jobs, count: int, **changes: Any) -> list[str]:
    """So many new jobs, the newest first."""
    found = []
    for _ in range(count):
        time.sleep(0.002)  # ids sort by milliseconds
        found.append(submitted(jobs, **changes).id)
    return found[::-1]


def all_pages(jobs: Jobs, limit: int, between: Callable[[], Any] = lambda: None, **filters: Any) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        page = jobs.page(before=before, limit=limit, **filters)
        assert len(page.jobs) <= limit
        found += [row.id for row in page.jobs]
        if page.next is None:
            return found
        assert len(page.jobs) == limit, "only the last page may be short"
        before = page.next
        between()


def test_every_job_comes_once_the_newest_first(jobs: Jobs) -> None:
    expected = in_order(jobs, 7)
    for limit in (1, 2, 3, 6, 7, 8, 50):
        assert all_pages(jobs, limit) == expected


def test_there_is_no_empty_last_page(jobs: Jobs) -> None:
    in_order(jobs, 4)
    page = jobs.page(limit=2)
    assert page.next is not None
    assert jobs.page(limit=2, before=page.next).next is None


def test_no_jobs_are_one_empty_page(jobs: Jobs) -> None:
    page = jobs.page()
    assert (page.jobs, page.next) == ([], None)


def test_new_jobs_between_two_pages_change_none_of_them(jobs: Jobs) -> None:
    expected = in_order(jobs, 7)
    assert all_pages(jobs, 2, between=lambda: in_order(jobs, 2)) == expected


def test_deleted_jobs_between_two_pages_hide_no_other(jobs: Jobs) -> None:
    """Even the one at which the cursor stands."""
    expected = in_order(jobs, 6)
    page = jobs.page(limit=2)
    assert page.next is not None
    for job in expected[:2]:
        jobs.cancel(job)
        jobs.delete(job)
    rest = jobs.page(limit=10, before=page.next)
    assert [row.id for row in rest.jobs] == expected[2:]


def test_jobs_that_come_at_the_same_moment_come_once(jobs: Jobs) -> None:
    expected = together(10, lambda _: submitted(jobs).id)
    assert all_pages(jobs, 3) == sorted(expected, reverse=True)


def test_filters(jobs: Jobs) -> None:
    one = in_order(jobs, 3, owner="one", model="a", label="x")
    two = in_order(jobs, 3, owner="two", model="b", label="y")
    plain = in_order(jobs, 1, owner="two", model="a", kind=Kind.GATE)
    jobs.cancel(one[0])
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, plain + two + one),
        ({"kind": Kind.GATE}, plain),
        ({"kind": Kind.LANDSCAPE}, two + one),
        ({"owner": "one"}, one),
        ({"owner": "nobody"}, []),
        ({"model": "a"}, plain + one),
        ({"model": "A"}, []),
        ({"label": "y"}, two),
        ({"label": ""}, []),
        ({"label": "%"}, []),
        ({"state": State.CANCELLED}, one[:1]),
        ({"state": State.QUEUED, "owner": "one"}, one[1:]),
        ({"owner": "two", "model": "a"}, plain),
        ({"owner": "two", "label": "x"}, []),
    ]
    for filters, expected in cases:
        for limit in (1, 2, 50):
            assert all_pages(jobs, limit, **filters) == expected, filters
