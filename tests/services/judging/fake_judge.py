"""A server that speaks as much of OpenAI's API as a judge needs, and fails as it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.conftest import free_port

Reply = Response | str | float
USAGE = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}


@dataclass
class FakeJudge:
    """`replies` are what the next requests get: an answer's text, a whole response, or seconds to wait for
    one. Then it answers as `says` does."""

    url: str
    replies: list[Reply] = field(default_factory=list)
    says: Callable[[dict[str, Any]], str] = lambda _: "No"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.times.append(time.monotonic())
        reply = self.replies.pop(0) if self.replies else await asyncio.to_thread(self.says, body)
        if isinstance(reply, Response):
            return reply
        if isinstance(reply, float):
            await asyncio.sleep(reply)
            reply = await asyncio.to_thread(self.says, body)
        choice = {"text": reply} if "prompt" in body else {"message": {"role": "assistant", "content": reply}}
        return as_json({"choices": [choice], "usage": USAGE})


def as_json(document: object, status: int = 200, **headers: str) -> Response:
    return Response(json.dumps(document), status, headers, "application/json")


@contextmanager
def fake_judge() -> Iterator[FakeJudge]:
    port = free_port()
    judge = FakeJudge(f"http://127.0.0.1:{port}/v1")
    routes = [
        Route(f"/v1/{path}", judge.answer, methods=["POST"]) for path in ("chat/completions", "completions")
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield judge
    finally:
        server.should_exit = server.force_exit = True  # nobody waits for the slow answers
        thread.join()
