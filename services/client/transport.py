"""The connection to a service: what is tried again, and what its refusals say."""

from __future__ import annotations

from typing import Any

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_delay, wait_exponential_jitter

from services.api.schemas import Problem
from visage_core.errors import InputError

TRANSIENT = {429, 502, 503, 504}
LONGEST_WAIT = 30.0
AGAIN_SECONDS = 1.0
# The service sends a sign of life every 15 seconds.
SILENCE_SECONDS = 60.0
PROBLEM = "application/problem+json"
LAST_PORT = 65_535


class ServiceError(InputError):
    """What the service answered instead of a result; `status` is the HTTP status, 0 where none came."""

    status = 0
    retry_after: float | None = None

    @property
    def is_infrastructure(self) -> bool:
        """Whether it is the service, or the way to it, and not what it was asked for."""
        return self.status in (0, 429) or self.status >= 500


class ClientError(InputError):
    """A URL or a key with which no service can be asked."""


def http_options(server: str, key: str | None) -> dict[str, Any]:
    """What httpx's clients are made with. Raises ClientError."""
    headers = {} if key is None else {"authorization": f"Bearer {_bare(key)}"}
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
    return {"base_url": _url(server), "headers": headers, "timeout": timeout}


def _bare(key: str) -> str:
    """A key without the white space around it, as files have at their end. Raises ClientError, which does not
    quote it."""
    key = key.strip()
    if not key or not all("!" <= one <= "~" for one in key):
        raise ClientError(
            "key",
            "it is empty, or has characters that no key has",
            "Give it as `visage keys create` printed it",
        )
    return key


def _url(server: str) -> httpx.URL:
    """A service's URL. Raises ClientError, which does not quote it: there may be a password in it."""
    remedy = "Give it as http://127.0.0.1:8420"
    try:
        url = httpx.URL(server)
        is_one = url.scheme in ("http", "https") and bool(url.host) and 0 < (url.port or 80) <= LAST_PORT
    except (httpx.InvalidURL, ValueError):  # ValueError: a host that no name service knows
        is_one = False
    if not is_one:
        raise ClientError("server", "it is no http or https URL with a host", remedy)
    if url.userinfo:
        # It would take the place of the key, and be printed and kept with the URL.
        raise ClientError(
            "server", "there is a name or a password in its URL", f"{remedy}, and a key beside it"
        )
    return url


def retries(patience: float) -> dict[str, Any]:
    """How tenacity tries again, for so many seconds."""
    return {
        "retry": retry_if_exception(is_transient),
        "wait": _wait,
        "stop": stop_after_delay(patience),
        "reraise": True,
    }


def _wait(state: RetryCallState) -> float:
    """As long as the service asks, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    asked = getattr(error, "retry_after", None)
    longer = wait_exponential_jitter(multiplier=0.2, max=LONGEST_WAIT)(state)
    return longer if asked is None else min(LONGEST_WAIT, asked)


def is_transient(error: BaseException) -> bool:
    """Whether another try may do better."""
    return isinstance(error, httpx.TransportError) or getattr(error, "status", None) in TRANSIENT


def require_success(answer: httpx.Response) -> None:
    """Raise ServiceError, as the service puts it, unless an answer is a result."""
    if answer.is_success:
        return
    try:
        said = Problem.model_validate_json(answer.content)
    except ValueError:
        said = Problem(title=answer.reason_phrase, status=answer.status_code, detail=answer.text[:200])
    remedy = said.remedy or f"Request {said.request_id or 'unknown'} in the service's log says more"
    problem = said.detail.removesuffix(f"{remedy}.").rstrip(". ")
    error = ServiceError(said.field or "server", problem, remedy)
    # A service that starts or ends is answered for by what is in front of it, in words of its own.
    ours = answer.headers.get("content-type") == PROBLEM
    error.status = answer.status_code if ours or answer.status_code not in (404, 500) else 503
    asked = answer.headers.get("retry-after", "")
    if asked.isdigit():
        error.retry_after = float(asked)
    raise error


def told(error: Exception) -> Exception:
    """An error of the connection, as one that says what to do."""
    if isinstance(error, ServiceError):
        return error
    # That one quotes headers, and so the key.
    text = "" if isinstance(error, httpx.LocalProtocolError) else str(error)
    return ServiceError(
        "server", f"it does not answer: {text or type(error).__name__}", "Check its URL, and that it runs"
    )
