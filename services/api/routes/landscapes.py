"""Landscape jobs: submit, watch, cancel, delete."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from services.api.access import Reader, Services, Submitter, Turn
from services.api.events import as_events
from services.api.problems import documented
from services.api.routes.jobs import (
    EVENTS,
    Cursor,
    Id,
    IdempotencyKey,
    LabelFilter,
    LastEventId,
    ModelFilter,
    PageSize,
    StateFilter,
    job_fields,
    submitted,
)
from services.api.schemas import (
    Estimate,
    Landscape,
    LandscapeDetail,
    LandscapePage,
    LandscapeRequest,
)
from services.jobs.states import OVER, Kind
from services.jobs.tables import JobRow

KIND = Kind.LANDSCAPE
router = APIRouter(prefix="/v1", tags=["landscapes"])


@router.post(
    "/landscapes", status_code=202, response_model=LandscapeDetail, responses=submitted(LandscapeDetail)
)
def submit(
    body: LandscapeRequest,
    what: Services,
    who: Submitter,
    _: Turn,
    idempotency_key: IdempotencyKey = None,
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
    state: StateFilter = None,
    model: ModelFilter = None,
    label: LabelFilter = None,
    cursor: Cursor = None,
    limit: PageSize = 50,
) -> LandscapePage:
    """The landscapes of the key (of all keys with the scope admin), the newest first."""
    page = what.jobs.page(
        kind=KIND, owner=who.sees, state=state, model=model, label=label, before=cursor, limit=limit
    )
    return LandscapePage(items=[shown(row) for row in page.jobs], next=page.next)


@router.get("/landscapes/{job}", response_model=LandscapeDetail, responses=documented(404))
def get(job: Id, what: Services, who: Reader) -> Response:
    """A job: its state, its progress, its running estimate of VISAGE and, at the end, its score."""
    return detail(what.jobs.get(job, who.sees, KIND))


@router.get("/landscapes/{job}/events", response_class=EventSourceResponse, responses=EVENTS)
async def events(
    job: Id, request: Request, what: Services, who: Reader, last_event_id: LastEventId = None
) -> Response:
    """The job as Server-Sent Events: now, and after every change until it is over. The id of an event is the
    job's revision; with `Last-Event-ID` nothing comes that the client has."""
    row = await run_in_threadpool(what.jobs.get, job, who.sees, KIND)
    return as_events(request, row, last_event_id, shown)


@router.post(
    "/landscapes/{job}/cancel", status_code=202, response_model=LandscapeDetail, responses=documented(404)
)
def cancel(job: Id, what: Services, who: Submitter) -> Response:
    """End a job. Its finished points stay; a job that is over stays as it is."""
    return detail(what.jobs.cancel(job, who.sees, KIND), 202)


@router.delete("/landscapes/{job}", status_code=204, responses=documented(404, 409))
def delete(job: Id, what: Services, who: Submitter) -> None:
    """Remove a job that is over, with its results."""
    what.remove(job, who.sees, KIND)


def shown(row: JobRow) -> Landscape:
    """A job as it is listed."""
    progress = row.progress or {}
    fields = {name: progress.get(name) for name in ("eta_seconds", "latest", "estimate", "visage")}
    if row.state in OVER:
        fields["eta_seconds"] = None
    return Landscape.model_validate(job_fields(row) | fields)


def detail(row: JobRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A job with its spec, as a LandscapeDetail. The spec was checked when it came: to check it again would
    be most of what a status read costs."""
    return JSONResponse(shown(row).model_dump(mode="json") | {"spec": row.spec}, status, headers)
