"""What happens to every request: an id, a limit on its size, a line in the log, a count, and a span."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import nullcontext
from typing import Any

import structlog
from fastapi import Request
from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import traces
from services.api.problems import problem

READS = ("GET", "HEAD")
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
log = structlog.get_logger("visage.api")


class BodyTooLargeError(Exception):
    """The request is larger than the service takes."""


class Requests:
    """ASGI middleware. A request's id is the client's own where it sends a fit X-Request-ID."""

    def __init__(self, app: ASGIApp, body_bytes: int, registry: CollectorRegistry) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._seconds = Histogram(
            "visage_http_seconds", "Requests by route.", ["method", "route", "status"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # Reads are many, and say little.
        with nullcontext() if scope["method"] in READS else traces.request(headers):
            await self._answer(scope, receive, send, headers.get("x-request-id", ""))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, given: str) -> None:
        begin = time.perf_counter()
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=request_id)
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Serve adds X-Request-ID, which it gives every request before it comes here.
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            body = await self._read(scope, receive)
            await self._app(scope, body, answer)
        except BodyTooLargeError:
            too_large = problem(Request(scope), 413, f"The request has more than {self._body_bytes:,} bytes.")
            await too_large(scope, receive, answer)
        finally:
            self._tell(scope, status, time.perf_counter() - begin)

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """The request's body, which is small, read before anything is done with it."""
        headers = dict(scope["headers"])
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return receive
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                break
            body += message.get("body", b"")
            if len(body) > self._body_bytes:
                raise BodyTooLargeError
            if not message.get("more_body"):
                break
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # a client that goes away
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "")
        self._seconds.labels(scope["method"], path, status).observe(seconds)
        traces.note(
            {
                "http.request.method": scope["method"],
                "http.route": path,
                "http.response.status_code": status,
                "visage.request": scope["state"]["request_id"],
            },
            name=f"{scope['method']} {path}",
        )
        tell = log.debug if scope["method"] in READS and status < 400 else log.info
        tell(
            "request",
            method=scope["method"],
            route=path,
            job=scope.get("path_params", {}).get("job"),
            key=scope["state"].get("key"),
            status=status,
            ms=round(1000 * seconds, 1),
        )
