"""Landscape jobs: submit, watch, cancel, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from services.api.access import Reader, Services, Submitter, Turn
from services.api.events import Watch
from services.api.problems import documented
from services.api.schemas import (
    Estimate,
    Landscape,
    LandscapeDetail,
    LandscapePage,
    LandscapeRequest,
)
from services.jobs.states import OVER, State
from services.jobs.tables import JobRow

PING_SECONDS = 15
NAMES = r"^[^\x00-\x1f\x7f]*$"
Id = Annotated[str, Path(alias="job", min_length=1, max_length=64, description="The id of a job.")]
router = APIRouter(prefix="/v1", tags=["landscapes"])


@router.post(
    "/landscapes",
    status_code=202,
    response_model=LandscapeDetail,
    responses={
        200: {"model": LandscapeDetail, "description": "The job that was submitted with this key before."},
        202: {"headers": {"Location": {"description": "The job's URL.", "schema": {"type": "string"}}}},
        **documented(409, 413),
    },
)
def submit(
    body: LandscapeRequest,
    what: Services,
    who: Submitter,
    _: Turn,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=200,
            pattern=r"^[\x21-\x7e]+$",
            description="The same request with the same key is one job, however often it is sent.",
        ),
    ] = None,
) -> Response:
    """Submit a landscape. Everything that can be checked is checked before the answer."""
    row, new = what.submit(body, who, idempotency_key)
    return detail(row, 202 if new else 200, {"location": f"/v1/landscapes/{row.id}"})


@router.post("/landscapes:validate", responses=documented(413))
def validate(body: LandscapeRequest, what: Services, who: Submitter, _: Turn) -> Estimate:
    """Check a request as a submission would, and say what it would cost. Nothing is submitted."""
    return what.estimate(body.spec, who)


@router.get("/landscapes", responses=documented())
def list_(
    what: Services,
    who: Reader,
    state: State | None = None,
    model: Annotated[str | None, Query(max_length=1024, pattern=NAMES)] = None,
    label: Annotated[str | None, Query(max_length=200, pattern=NAMES)] = None,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> LandscapePage:
    """The jobs of the key (of all keys with the scope admin), the newest first."""
    page = what.jobs.page(owner=who.sees, state=state, model=model, label=label, before=cursor, limit=limit)
    return LandscapePage(items=[shown(row) for row in page.jobs], next=page.next)


@router.get("/landscapes/{job}", response_model=LandscapeDetail, responses=documented(404))
def get(job: Id, what: Services, who: Reader) -> Response:
    """A job: its state, its progress, its running estimate of VISAGE and, at the end, its score."""
    return detail(what.jobs.get(job, who.sees))


@router.get(
    "/landscapes/{job}/events",
    response_class=EventSourceResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The job is over, and the client has seen that: nothing more will come."},
        **documented(404),
    },
)
async def events(
    job: Id,
    request: Request,
    what: Services,
    who: Reader,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """The job as Server-Sent Events: now, and after every change until it is over. The id of an event is the
    job's revision; with `Last-Event-ID` nothing comes that the client has."""
    row = await run_in_threadpool(what.jobs.get, job, who.sees)
    seen = last_event_id or ""
    since = int(seen) if seen.isascii() and seen.isdigit() else 0
    if row.state in OVER and row.revision == since:
        return Response(status_code=204)
    watch: Watch = request.app.state.watch

    async def stream() -> AsyncIterator[ServerSentEvent]:
        async for now in watch.follow(job, since):
            yield ServerSentEvent(
                shown(now).model_dump_json(), event="landscape", id=str(now.revision), retry=1000
            )

    return EventSourceResponse(stream(), ping=PING_SECONDS)


@router.post(
    "/landscapes/{job}/cancel", status_code=202, response_model=LandscapeDetail, responses=documented(404)
)
def cancel(job: Id, what: Services, who: Submitter) -> Response:
    """End a job. Its finished points stay; a job that is over stays as it is."""
    return detail(what.jobs.cancel(job, who.sees), 202)


@router.delete("/landscapes/{job}", status_code=204, responses=documented(404, 409))
def delete(job: Id, what: Services, who: Submitter) -> None:
    """Remove a job that is over, with its results."""
    what.jobs.require_over(job, who.sees)
    what.work.remove(job)
    what.results.remove(job)
    what.jobs.delete(job)


def shown(row: JobRow) -> Landscape:
    """A job as it is listed."""
    return Landscape.model_validate(_fields(row))


def detail(row: JobRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A job with its spec, as a LandscapeDetail. The spec was checked when it came: to check it again would
    be most of what a status read costs."""
    return JSONResponse(shown(row).model_dump(mode="json") | {"spec": row.spec}, status, headers)


def _fields(row: JobRow) -> dict[str, Any]:
    progress = row.progress or {}
    names = ("id", "state", "revision", "model", "label", "priority", "owner", "points", "done", "error")
    times = ("created_at", "started_at", "finished_at")
    fields = {name: getattr(row, name) for name in (*names, *times)}
    fields |= {name: progress.get(name) for name in ("eta_seconds", "latest", "estimate", "visage")}
    fields |= {name: progress.get(name, 0) for name in ("failed", "tokens", "worker_seconds")}
    if row.state in OVER:
        fields["eta_seconds"] = None
    return fields
