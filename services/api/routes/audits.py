"""Batch audits: submit, watch, cancel, delete, and fetch how the models stand beside each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
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
    PageSize,
    StateFilter,
    job_fields,
    report_of,
    submitted,
)
from services.api.routes.results import BINARY, PARQUET
from services.api.schemas import Audit, AuditDetail, AuditPage, AuditRequest
from services.jobs.states import Kind, State
from services.jobs.tables import JobRow

KIND = Kind.AUDIT
REPORTS = {
    "leaderboard.json": "application/json",
    "leaderboard.csv": "text/csv",
    "leaderboard.md": "text/markdown",
    "leaderboard.html": "text/html",
    "leaderboard.png": "image/png",
    "points.parquet": PARQUET,
}
Report = Annotated[
    Literal[
        "leaderboard.json",
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.html",
        "leaderboard.png",
        "points.parquet",
    ],
    Path(description="A file's name."),
]
CONTENT: dict[str, Any] = {kind: {} for kind in REPORTS.values()} | {"image/png": BINARY, PARQUET: BINARY}
router = APIRouter(prefix="/v1", tags=["audits"])


@router.post("/audits", status_code=202, response_model=AuditDetail, responses=submitted(AuditDetail))
def submit(
    body: AuditRequest,
    what: Services,
    who: Submitter,
    _: Turn,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit an audit. The policy, the baseline and the models' names are checked before the answer; a model
    that is broken inside is told of in the leaderboard."""
    row, new = what.submit(body, who, idempotency_key)
    return detail(row, 202 if new else 200, {"location": f"/v1/audits/{row.id}"})


@router.get("/audits", responses=documented())
def list_(
    what: Services,
    who: Reader,
    state: StateFilter = None,
    label: LabelFilter = None,
    cursor: Cursor = None,
    limit: PageSize = 50,
) -> AuditPage:
    """The audits of the key (of all keys with the scope admin), the newest first."""
    page = what.jobs.page(kind=KIND, owner=who.sees, state=state, label=label, before=cursor, limit=limit)
    return AuditPage(items=[shown(row) for row in page.jobs], next=page.next)


@router.get("/audits/{job}", response_model=AuditDetail, responses=documented(404))
def get(job: Id, what: Services, who: Reader) -> Response:
    """An audit: its state, how many of its models are done with and, at the end, with which verdicts."""
    return detail(what.jobs.get(job, who.sees, KIND))


@router.get("/audits/{job}/events", response_class=EventSourceResponse, responses=EVENTS)
async def events(
    job: Id, request: Request, what: Services, who: Reader, last_event_id: LastEventId = None
) -> Response:
    """The audit as Server-Sent Events: now, and after every change until it is over. The id of an event is
    the audit's revision; with `Last-Event-ID` nothing comes that the client has."""
    row = await run_in_threadpool(what.jobs.get, job, who.sees, KIND)
    return as_events(request, row, last_event_id, shown)


@router.post("/audits/{job}/cancel", status_code=202, response_model=AuditDetail, responses=documented(404))
def cancel(job: Id, what: Services, who: Submitter) -> Response:
    """End an audit without a leaderboard. Its finished points stay; one that is over stays as it is."""
    return detail(what.jobs.cancel(job, who.sees, KIND), 202)


@router.delete("/audits/{job}", status_code=204, responses=documented(404, 409))
def delete(job: Id, what: Services, who: Submitter) -> None:
    """Remove an audit that is over, with its results."""
    what.remove(job, who.sees, KIND)


@router.get(
    "/audits/{job}/reports/{name}",
    response_class=Response,
    responses={200: {"content": CONTENT}, **documented(404)},
)
def report(job: Id, name: Report, what: Services, who: Reader, _: Turn) -> Response:
    """How the models of an audit that is done stand beside each other: as JSON, CSV or Markdown, as a figure
    where one has a score, and the points of all where one was measured."""
    row = what.jobs.get(job, who.sees, KIND)
    return report_of(what, row, name, REPORTS[name], sandbox="sandbox allow-scripts")


def shown(row: JobRow) -> Audit:
    """An audit as it is listed."""
    progress = row.progress or {}
    return Audit.model_validate(
        job_fields(row)
        | {
            "name": row.spec["policy"]["name"],
            "baseline": row.spec["baseline"],
            "checkpoints": len(row.spec["models"]),
            "settled": progress.get("settled", 0),
            "verdicts": progress["verdicts"] if row.state == State.DONE else None,
        }
    )


def detail(row: JobRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An audit with its models and its policy, as an AuditDetail. They were checked when they came."""
    here = f"/v1/audits/{row.id}"
    reports = REPORTS if row.state == State.DONE else ()
    links = {"events": f"{here}/events"} | {name: f"{here}/reports/{name}" for name in reports}
    more = {"models": row.spec["models"], "policy": row.spec["policy"], "links": links}
    return JSONResponse(shown(row).model_dump(mode="json") | more, status, headers)
