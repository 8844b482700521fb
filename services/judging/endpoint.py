"""A judge behind a URL that speaks OpenAI's API: vLLM, and most hosted models.

A verdict that cannot be had is None, whatever went wrong with it; the others are not lost. What would go
wrong with every item is an error instead: a service that is down, a key that is not accepted (401), an
address or a model that is not there (404, 405, a redirect). 403 is not among these, for services also
refuse single texts with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import structlog
from pydantic import BaseModel, ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from services.judging.cache import VerdictCache
from visage_core.errors import InputError
from visage_core.judges.templates import CONTROLS, Template, defused

FATAL = {401, 404, 405}
LONGEST_WAIT = 60.0
MOST_UNANSWERED = 0.5  # Of more requests without any answer, the service is down: none of them is unjudged.
log = structlog.get_logger("visage.judging")
Item = tuple[str, str]


class EndpointError(InputError):
    """A judge's endpoint that answers nothing, however often it is asked."""


@dataclass(frozen=True)
class Cost:
    """What verdicts have cost so far: requests that were sent, tokens that the service counted, and the items
    that needed no request, for their verdict was known."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: int = 0


class _Again(Exception):  # noqa: N818 - it is for tenacity
    """An attempt that failed, and may not the next time. `wait` are the seconds that the service asks for."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    """Of a chat (`message`) or of a completion (`text`)."""

    message: _Message | None = None
    text: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class Endpoint:
    """Asks a model at `url` (up to and with its /v1) about each item, a prompt and its response.

    `key` names the environment variable that holds the key. An attempt may take `timeout` seconds, and there
    are up to `tries` of them. At most `concurrency` items are asked about at the same time, and
    `requests_per_minute` requests are sent. Verdicts are kept in the file `cache`, where there is one.

    Templates of the form raw go to /completions, for a chat template around them would make them another
    text. Responses are not cut, as the model's tokenizer is not here: the service refuses those that are too
    long, which leaves them without a verdict. Raises EndpointError.
    """

    def __init__(
        self,
        url: str,
        model: str,
        template: Template,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        tries: int = 5,
        requests_per_minute: float | None = None,
        concurrency: int = 8,
        cache: Path | None = None,
    ) -> None:
        path = "completions" if template.form == "raw" else "chat/completions"
        self._url = f"{_checked(url)}/{path}"
        self._model = model
        self._template = template
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {_secret(key)}"
        self._timeout = timeout
        self._tries = tries
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0
        self._concurrency = concurrency
        self._cache = None if cache is None else VerdictCache(cache)
        self._next = 0.0  # when the next request may be sent, on the monotonic clock
        self.cost = Cost()

    async def judge(self, items: Sequence[Item]) -> list[bool | None]:
        """The verdicts of items, in their order; None where there is none. Raises EndpointError, of a service
        that is down, too, and CacheError."""
        digests = [self._digest(item) for item in items]
        open_items = dict(zip(digests, items, strict=True))
        verdicts: dict[str, bool | None] = dict(self._cache.find(open_items) if self._cache else {})
        for digest in verdicts:
            del open_items[digest]
        self._add(cached=len(items) - len(open_items))
        places = asyncio.Semaphore(self._concurrency)

        unanswered = 0

        async def ask(http: httpx.AsyncClient, digest: str, item: Item) -> None:
            nonlocal unanswered
            async with places:
                try:
                    verdict = verdicts[digest] = await self._ask(http, item)
                except _Again as error:
                    verdict = verdicts[digest] = self._none(str(error))
                    unanswered += 1
            if verdict is not None and self._cache:
                self._cache.keep(digest, verdict)

        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(headers=self._headers, timeout=self._timeout, limits=limits) as http:
            try:
                async with asyncio.TaskGroup() as group:
                    for digest, item in open_items.items():
                        group.create_task(ask(http, digest, item))
            except* InputError as errors:
                found = errors
            else:
                if unanswered > MOST_UNANSWERED * len(open_items):
                    raise EndpointError(
                        "judge.url",
                        f"{self._url} gave no answer to {unanswered} of {len(open_items)} requests, "
                        f"{self._tries} times each",
                        "See that it is there; what it has answered is kept",
                    )
                return [verdicts[digest] for digest in digests]
        raise found.exceptions[0]

    async def _ask(self, http: httpx.AsyncClient, item: Item) -> bool | None:
        body = self._body(item)
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            wait=_wait,
            stop=stop_after_attempt(self._tries),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                answer = await self._send(http, body)
        if answer.is_redirect or answer.status_code in FATAL:
            raise EndpointError(
                "judge.url",
                f"{self._url} answers with status {answer.status_code} for the model {self._model!r}",
                "Check the URL, which ends with the service's /v1, the model's name and the key",
            )
        if not answer.is_success:
            return self._none(f"status {answer.status_code}")
        return self._read(answer)

    async def _send(self, http: httpx.AsyncClient, body: str) -> httpx.Response:
        """An answer to keep. Raises _Again where it, or none, may be due to the moment."""
        await self._turn()
        self._add(requests=1)
        try:
            # httpx's own limits are for each read: an answer that drips would never end.
            async with asyncio.timeout(self._timeout):
                answer = await http.post(self._url, content=body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise _Again(type(error).__name__) from None
        if answer.status_code in (408, 429) or answer.is_server_error:
            wait = _retry_after(answer)
            if wait is not None:
                self._next = max(self._next, time.monotonic() + wait)  # it is meant for all requests
            raise _Again(f"status {answer.status_code}", wait)
        return answer

    async def _turn(self) -> None:
        """Wait until a request may be sent."""
        now = time.monotonic()
        turn = max(self._next, now)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)

    def _read(self, answer: httpx.Response) -> bool | None:
        try:
            found = _Answer.model_validate_json(answer.content)
        except ValidationError:
            return self._none("no answer of this API")
        if usage := found.usage:
            self._add(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        texts = [choice.message.content if choice.message else choice.text for choice in found.choices]
        if len(texts) != 1 or texts[0] is None:
            return self._none("no answer of this API")
        verdict = self._template.parse(texts[0])
        return self._none("no verdict of this template") if verdict is None else verdict

    def _none(self, problem: str) -> bool | None:
        # What the service says may hold the response, so it is not told.
        log.warning("no verdict", model=self._model, template=self._template.name, problem=problem)
        return None

    def _body(self, item: Item) -> str:
        prompt, response = (defused(text, CONTROLS) for text in item)
        template = self._template
        asked: dict[str, Any] = (
            {"prompt": template.filled(prompt, response)}
            if template.form == "raw"
            else {"messages": template.messages(prompt, response)}
        )
        settings = {"max_tokens": template.max_tokens, "temperature": 0, "seed": 0}
        # In ASCII: half of a surrogate pair is no UTF-8, and a model can write one.
        return json.dumps({"model": self._model, **asked, **settings})

    def _digest(self, item: Item) -> str:
        parts = [self._url, self._model, self._template.digest(), *item]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _add(self, **more: int) -> None:
        counts = {name: getattr(self.cost, name) + number for name, number in more.items()}
        self.cost = replace(self.cost, **counts)


def _checked(url: str) -> str:
    try:
        parts = httpx.URL(url)
        fits = parts.scheme in ("http", "https") and parts.host
    except httpx.InvalidURL:
        fits = False
    # A key in the URL would be told with it.
    if not fits or parts.userinfo or parts.query or parts.fragment:
        raise EndpointError(
            "judge.url", "it is no plain http or https URL", "Give the service's, such as http://HOST:8000/v1"
        )
    return url.rstrip("/")


def _secret(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        raise EndpointError(
            "judge.key", f"the environment variable {variable} holds no key", "Set it to the service's key"
        )
    return value


def _wait(state: RetryCallState) -> float:
    """As long as the service asks, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, _Again) else None
    return wait_exponential_jitter(multiplier=0.5, max=LONGEST_WAIT)(state) if asked is None else asked


def _retry_after(answer: httpx.Response) -> float | None:
    """The seconds that an answer asks to wait, given as such or as a date; None where it gives neither."""
    asked = answer.headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None
