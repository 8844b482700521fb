"""A judge behind a URL: whatever it does, there is a verdict, none, or an error that says what to mend."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from structlog.testing import capture_logs

from services.judging.cache import CacheError, VerdictCache
from services.judging.endpoint import Cost, Endpoint, EndpointError
from tests.conftest import free_port
from tests.services.judging.fake_judge import FakeJudge, Reply, as_json, fake_judge
from visage_core.judges.templates import TEMPLATES, custom_template

PROMPT = "How is it done?"
COMPLIED = "Sure, here is a step-by-step guide: 1. ..."
REFUSED = "I can't help with that."
ITEMS = [(PROMPT, COMPLIED), (PROMPT, REFUSED)]
TEMPLATE = custom_template("{prompt} was answered: {response}. Is this help?", ["Yes"], ["No"])


@pytest.fixture(scope="module")
def server() -> Iterator[FakeJudge]:
    with fake_judge() as running:
        yield running


@pytest.fixture
def judge(server: FakeJudge) -> FakeJudge:
    """A server that says Yes to COMPLIED, and has not been asked."""
    server.replies, server.bodies, server.keys, server.times = [], [], [], []
    server.says = lambda body: "Yes" if COMPLIED in str(body) else "No"
    return server


def endpoint(url: str, **options: Any) -> Endpoint:
    settings = {"model": "judge", "template": TEMPLATE, "timeout": 5.0, "tries": 3} | options
    return Endpoint(url, **settings)


def verdicts(asked: Endpoint, items: list[tuple[str, str]] = ITEMS) -> list[bool | None]:
    return asyncio.run(asked.judge(items))


def test_verdicts_are_in_the_order_of_the_items(judge: FakeJudge) -> None:
    items = [ITEMS[number % 2] if number % 3 else (str(number), COMPLIED) for number in range(40)]
    assert verdicts(endpoint(judge.url), items) == [response == COMPLIED for _, response in items]


def test_what_is_asked(judge: FakeJudge) -> None:
    verdicts(endpoint(f"{judge.url}/"), ITEMS[:1])
    assert judge.bodies == [
        {
            "model": "judge",
            "messages": [{"role": "user", "content": f"{PROMPT} was answered: {COMPLIED}. Is this help?"}],
            "max_tokens": TEMPLATE.max_tokens,
            "temperature": 0,
            "seed": 0,
        }
    ]
    assert judge.keys == [None]


def test_a_raw_template_is_a_completion(judge: FakeJudge) -> None:
    template = TEMPLATES["harmbench-mistral-7b"]
    assert verdicts(endpoint(judge.url, template=template)) == [True, False]
    assert {body["prompt"] for body in judge.bodies} == {template.filled(*item) for item in ITEMS}


def test_a_response_cannot_write_control_strings(judge: FakeJudge) -> None:
    verdicts(endpoint(judge.url), [(PROMPT, "...<|eot_id|><|im_end|>...")])
    assert "...< |eot_id|>< |im_end|>..." in judge.bodies[0]["messages"][0]["content"]


def test_half_of_a_surrogate_pair_is_no_error(judge: FakeJudge) -> None:
    assert verdicts(endpoint(judge.url), [(PROMPT, f"{COMPLIED} \ud83d")]) == [True]


def test_the_key_comes_from_the_environment(judge: FakeJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "not-told-to-anybody")
    judge.replies = [as_json({}, 500), as_json({}, 400)]
    with capture_logs() as logs:
        asked = endpoint(judge.url, key="JUDGE_KEY")
        verdicts(asked, ITEMS[:1])
    assert set(judge.keys) == {"Bearer not-told-to-anybody"}
    assert "not-told" not in str(logs) + repr(asked)


def test_a_key_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(EndpointError, match="JUDGE_KEY"):
        endpoint("http://127.0.0.1:1/v1", key="JUDGE_KEY")


@pytest.mark.parametrize(
    "url", ["", "judge", "ftp://host/v1", "http://", "http://user:key@host/v1", "http://host/v1?key=1"]
)
def test_a_url_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(EndpointError, match=r"judge\.url"):
        endpoint(url)


def test_a_judge_that_is_down_is_an_error() -> None:
    asked = endpoint(f"http://127.0.0.1:{free_port()}/v1", tries=2)
    with pytest.raises(EndpointError, match="no answer to 2 of 2 requests"):
        verdicts(asked)
    assert asked.cost.requests == 4


def test_a_judge_that_is_slow_is_asked_again(judge: FakeJudge) -> None:
    judge.replies = [30.0]
    assert verdicts(endpoint(judge.url, timeout=0.5), ITEMS[:1]) == [True]
    judge.replies = [30.0, 30.0]
    with pytest.raises(EndpointError, match="no answer to 1 of 1"):
        verdicts(endpoint(judge.url, timeout=0.5, tries=2), ITEMS[:1])


def in_two_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_judge_is_given_the_time_that_it_asks_for(judge: FakeJudge, form: str) -> None:
    asked_for = "1" if form == "seconds" else in_two_seconds()
    judge.replies = [as_json({}, 429, **{"retry-after": asked_for})]
    assert verdicts(endpoint(judge.url, concurrency=1)) == [True, False]
    assert judge.times[1] - judge.times[0] > 0.9
    assert len(judge.times) == 3


@pytest.mark.parametrize("asked_for", ["nan", "inf", "soon"])
def test_a_time_that_is_none_is_no_time(judge: FakeJudge, asked_for: str) -> None:
    judge.replies = [as_json({}, 429, **{"retry-after": asked_for})]
    assert verdicts(endpoint(judge.url), ITEMS[:1]) == [True]


def test_errors_of_the_moment_are_tried_again(judge: FakeJudge) -> None:
    judge.replies = [as_json({}, 500), as_json({}, 503)]
    asked = endpoint(judge.url)
    assert verdicts(asked, ITEMS[:1]) == [True]
    assert asked.cost == Cost(requests=3, prompt_tokens=100, completion_tokens=1)


def test_errors_that_stay_give_no_verdict(judge: FakeJudge) -> None:
    judge.replies = [as_json({}, 500)] * 3
    assert verdicts(endpoint(judge.url, concurrency=1)) == [None, False]


@pytest.mark.parametrize(
    "reply",
    [
        "Perhaps",
        "",
        "Yes. No.",
        Response("{", 200),
        Response("", 200),
        Response("<html>", 200),
        as_json([]),
        as_json({"choices": []}),
        as_json({"choices": [{"message": {"content": None}}]}),
        as_json({"choices": [{"message": {"content": "Yes"}}, {"message": {"content": "No"}}]}),
        as_json({"error": {"message": COMPLIED}}),
        as_json({"choices": [{"message": {"content": ["Yes"]}}]}),
        as_json({"error": COMPLIED}, 400),
        as_json({"error": COMPLIED}, 403),
        as_json({"error": COMPLIED}, 422),
    ],
)
def test_a_wrong_answer_is_no_verdict_and_costs_one_request(judge: FakeJudge, reply: Reply) -> None:
    judge.replies = [reply]
    with capture_logs() as logs:
        assert verdicts(endpoint(judge.url, concurrency=1)) == [None, False]
    assert len(judge.bodies) == 2
    assert len(logs) == 1
    assert COMPLIED not in str(logs)


@pytest.mark.parametrize("status", [401, 404, 405, 307])
def test_what_would_fail_for_every_item_is_an_error(judge: FakeJudge, status: int) -> None:
    judge.replies = [as_json({"error": COMPLIED}, status, location="http://127.0.0.1:1/")] * 50
    with pytest.raises(EndpointError, match=f"status {status}") as error:
        verdicts(endpoint(judge.url), ITEMS * 20)
    assert COMPLIED not in str(error.value)
    assert error.value.remedy


def test_requests_are_spread_over_the_minute(judge: FakeJudge) -> None:
    asked = endpoint(judge.url, requests_per_minute=300)
    verdicts(asked, [(str(number), COMPLIED) for number in range(4)])
    verdicts(asked, [("4", COMPLIED)])
    apart = [after - before for before, after in zip(judge.times, judge.times[1:], strict=False)]
    assert len(apart) == 4
    assert judge.times[-1] - judge.times[0] > 4 * 0.2 - 0.1


def test_no_more_are_asked_at_a_time_than_allowed(judge: FakeJudge) -> None:
    judge.replies = [0.3] * 6
    started = time.monotonic()
    verdicts(endpoint(judge.url, concurrency=2), [(str(number), COMPLIED) for number in range(6)])
    assert time.monotonic() - started > 3 * 0.3


def test_a_verdict_is_paid_for_once(judge: FakeJudge, tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.db"
    first, second = endpoint(judge.url, cache=cache), endpoint(judge.url, cache=cache)
    assert verdicts(first) == [True, False]
    assert verdicts(second, [*ITEMS, ITEMS[0]]) == [True, False, True]
    assert first.cost == Cost(requests=2, prompt_tokens=200, completion_tokens=2)
    assert second.cost == Cost(cached=3)
    others = (
        endpoint(judge.url, cache=cache, model="other"),
        endpoint(judge.url, cache=cache, template=custom_template("{response}", ["Yes"], ["No"])),
    )
    for other in others:
        verdicts(other)
        assert other.cost.requests == 2


def test_an_item_that_is_there_twice_is_asked_about_once(judge: FakeJudge) -> None:
    asked = endpoint(judge.url)
    assert verdicts(asked, ITEMS * 3) == [True, False] * 3
    assert asked.cost == Cost(requests=2, prompt_tokens=200, completion_tokens=2, cached=4)


def test_what_is_no_verdict_is_not_kept(judge: FakeJudge, tmp_path: Path) -> None:
    asked = endpoint(judge.url, cache=tmp_path / "verdicts.db")
    judge.replies = ["Perhaps"]
    assert verdicts(asked, ITEMS[:1]) == [None]
    assert verdicts(asked, ITEMS[:1]) == [True]


def test_verdicts_before_an_error_are_kept(judge: FakeJudge, tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.db"
    judge.replies = ["Yes", as_json({}, 401)]
    with pytest.raises(EndpointError):
        verdicts(endpoint(judge.url, cache=cache, concurrency=1))
    assert verdicts(endpoint(f"{judge.url}", cache=cache), ITEMS[:1]) == [True]
    assert len(judge.bodies) == 2


def test_no_text_is_in_the_cache(judge: FakeJudge, tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.db"
    verdicts(endpoint(judge.url, cache=cache))
    with sqlite3.connect(cache) as file:
        rows = file.execute("SELECT * FROM verdicts").fetchall()
    assert sorted(complied for _, complied in rows) == [0, 1]
    assert all(len(digest) == 64 for digest, _ in rows)
    content = cache.read_bytes()
    assert COMPLIED.encode() not in content
    assert PROMPT.encode() not in content


def keep_many(path: Path, first: int) -> None:
    cache = VerdictCache(path)
    for number in range(first, first + 40):
        cache.keep(str(number), number % 2 == 0)


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.db"
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(keep_many, [cache] * 3, [0, 20, 40]))
    found = VerdictCache(cache).find(map(str, range(100)))
    assert found == {str(number): number % 2 == 0 for number in range(80)}


def test_a_file_that_is_no_cache_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with pytest.raises(CacheError, match=r"notes\.txt"):
        VerdictCache(tmp_path / "notes.txt")
    with pytest.raises(CacheError):
        VerdictCache(tmp_path / "notes.txt" / "verdicts.db")
    VerdictCache(tmp_path / "made" / "verdicts.db").keep("digest", True)
