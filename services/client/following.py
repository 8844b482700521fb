"""Following a job by its events."""

from __future__ import annotations

import time
from typing import Any, Generic, TypeVar

import httpx
from httpx_sse import ServerSentEvent

from services.api.schemas import Job
from services.client.transport import ServiceError, is_transient, require_success, told
from services.jobs.states import OVER, Kind

EVENTS = "text/event-stream"
J = TypeVar("J", bound=Job)


class Following(Generic[J]):
    """A job that is followed by its events, over however many connections. A quiet job is as good as any:
    `patience` is for the seconds in which there is no connection."""

    def __init__(self, kind: Kind, shown: type[J], job: str, patience: float) -> None:
        self._kind, self._shown, self._job, self._patience = kind, shown, job, patience
        self._revision = 0
        self._deadline: float | None = None  # to be connected by, once a connection is lost
        self.over = False

    def request(self) -> dict[str, Any]:
        """What to ask for: what has happened since the last event."""
        headers = {"last-event-id": str(self._revision)} if self._revision else {}
        return {"url": f"/v1/{self._kind}s/{self._job}/events", "headers": headers}

    def begin(self, answer: httpx.Response) -> None:
        """Take in the head of an answer. Raises ServiceError."""
        require_success(answer)
        self.over = answer.status_code == 204
        if answer.headers.get("content-type", "").startswith(EVENTS):  # else it is no service that answers
            self._deadline = None

    def heard(self, event: ServerSentEvent) -> J | None:
        """The job, where an event tells of it, and is no mere sign of life."""
        if event.event != self._kind:
            return None
        now = self._shown.model_validate_json(event.data)
        self._revision = now.revision
        self.over = now.state in OVER
        return now

    def lost(self, error: httpx.TransportError | ServiceError) -> None:
        """Take in the end of a connection. Raises ServiceError where another one is of no use."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._patience
        if not is_transient(error) or now > self._deadline:
            raise told(error) from None
