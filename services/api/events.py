"""Server-Sent Events: a job's state whenever it has changed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from services.api.access import still_in
from services.api.service import Service
from services.jobs.states import OVER
from services.jobs.store import NoSuchJobError
from services.jobs.tables import JobRow

LOOK_SECONDS = 0.5
PING_SECONDS = 15


class Watch:
    """Looks for changes of all jobs that somebody follows, with one query for however many clients."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._followers: Counter[str] = Counter()
        self._revisions: dict[str, int] = {}
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def follow(self, job: str, since: int) -> AsyncIterator[JobRow]:
        """A job now, unless `since` is its revision, and again after every change until it is over. It is
        always the latest state: a client that was away misses nothing that matters."""
        self._followers[job] += 1
        try:
            while True:
                try:
                    row = await run_in_threadpool(self._service.jobs.get, job)
                except NoSuchJobError:
                    return  # deleted meanwhile
                if row.revision != since:
                    since = row.revision
                    yield row
                if row.state in OVER:
                    return
                while True:  # a look before this one may have seen an older revision
                    await self._look()
                    if self._revisions.get(job, since) != since:
                        break
        finally:
            self._followers[job] -= 1
            if not self._followers[job]:
                del self._followers[job]
                self._revisions.pop(job, None)

    async def _look(self) -> None:
        """Wait for the next look at the table, which one of the followers takes for all."""
        if self._task is None or self._task.done():
            self._looked = asyncio.Event()
            self._task = asyncio.create_task(self._look_for_all(self._looked))
        await self._looked.wait()

    async def _look_for_all(self, looked: asyncio.Event) -> None:
        try:
            await asyncio.sleep(LOOK_SECONDS)
            # A database that is away is asked again.
            with suppress(Exception):
                asked = list(self._followers)
                found = await run_in_threadpool(self._service.jobs.revisions, asked)
                # -1: it is gone, which is a change too.
                self._revisions = {job: found.get(job, -1) for job in asked}
        finally:
            looked.set()


def as_events(
    request: Request, row: JobRow, last_event_id: str | None, shown: Callable[[JobRow], BaseModel]
) -> Response:
    """A job from now on as Server-Sent Events, each named for the job's kind, with what `shown` makes of it;
    204 where it is over and the client knows. Who would not be let in any more hears nothing more."""
    watch: Watch = request.app.state.watch
    seen = last_event_id or ""
    since = int(seen) if seen.isascii() and seen.isdigit() else 0
    if row.state in OVER and row.revision == since:
        return Response(status_code=204)

    async def stream() -> AsyncIterator[ServerSentEvent]:
        async for now in watch.follow(row.id, since):
            if not await still_in(request):
                return
            yield ServerSentEvent(
                shown(now).model_dump_json(), event=row.kind, id=str(now.revision), retry=1000
            )

    return EventSourceResponse(stream(), ping=PING_SECONDS)
