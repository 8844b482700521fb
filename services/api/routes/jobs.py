"""What the routes of all kinds of jobs have in common."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path, Query, Response
from fastapi.responses import FileResponse

from services.api.problems import NoResultError, documented
from services.api.service import Service
from services.jobs.states import State
from services.jobs.tables import JobRow

NAMES = r"^[^\x00-\x1f\x7f]*$"
Id = Annotated[str, Path(alias="job", min_length=1, max_length=64, description="The id of a job.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="The same request with the same key is one job, however often it is sent.",
    ),
]
StateFilter = Annotated[State | None, Query(description="Only jobs in this state.")]
ModelFilter = Annotated[
    str | None, Query(max_length=1024, pattern=NAMES, description="Only jobs about this model.")
]
LabelFilter = Annotated[
    str | None, Query(max_length=200, pattern=NAMES, description="Only jobs of this label.")
]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$", description="The `next` of the page before.")]
PageSize = Annotated[int, Query(ge=1, le=500, description="At most so many.")]
LastEventId = Annotated[str | None, Header(max_length=20, description="The last event that the client has.")]
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "The job is over, and the client has seen that: nothing more will come."},
    **documented(404),
}


def submitted(detail: type) -> dict[int | str, dict[str, Any]]:
    """The answers to a submission, for the OpenAPI document."""
    return {
        200: {"model": detail, "description": "The job that was submitted with this key before."},
        202: {"headers": {"Location": {"description": "The job's URL.", "schema": {"type": "string"}}}},
        **documented(409, 413),
    }


def job_fields(row: JobRow) -> dict[str, Any]:
    """The fields of a Job."""
    progress = row.progress or {}
    names = ("id", "state", "revision", "model", "label", "priority", "owner", "points", "done", "error")
    times = ("created_at", "started_at", "finished_at")
    fields = {name: getattr(row, name) for name in (*names, *times)}
    return fields | {name: progress.get(name, 0) for name in ("failed", "tokens", "worker_seconds")}


def report_of(what: Service, row: JobRow, name: str, media_type: str, sandbox: str = "sandbox") -> Response:
    """A file that a gate or an audit has written at its end. Raises NoResultError."""
    require_done(row)
    file = what.results.file(row.id, name)
    if not file.exists():
        raise NoResultError("name", f"nothing was measured that makes a {name}", "The other reports say why")
    # A page is a stranger's to this origin.
    return FileResponse(file, media_type=media_type, headers={"content-security-policy": sandbox})


def require_done(row: JobRow) -> None:
    """Raise NoResultError unless a gate or an audit is done."""
    if row.state != State.DONE:
        problem = f"the {row.kind} is {row.state}, and has no verdict"
        raise NoResultError("id", problem, "Wait until it is done")


def attached(response: Response, name: str) -> Response:
    """A response that browsers keep as a file of this name."""
    response.headers["content-disposition"] = f'attachment; filename="{name}"'
    return response
