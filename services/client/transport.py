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


class ServiceError(InputError):
    """What the service answered instead of a result; `status` is the HTTP status, 0 where none came."""

    status = 0
    retry_after: float | None = None

    @property
    def is_infrastructure(self) -> bool:
        """Whether it is the service, or the way to it, and not what it was asked for."""
        return self.status in (0, 429) or self.status >= 500


def http_options(server: str, key: str | None) -> dict[str, Any]:
    """What httpx's clients are made with."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
    return {"base_url": server, "headers": headers, "timeout": timeout}


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
    return ServiceError(
        "server",
        f"it does not answer: {str(error) or type(error).__name__}",
        "Check its URL, and that it runs",
    )
