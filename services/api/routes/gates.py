"""Release gates: submit, watch, cancel, delete, and fetch what was decided and measured."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from services.api.access import Reader, Services, Submitter, Turn
from services.api.events import as_events
from services.api.problems import NoResultError, documented
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
    attached,
    job_fields,
    report_of,
    require_done,
    submitted,
)
from services.api.routes.results import (
    BINARY,
    FIGURE,
    GRID,
    PlaneStyle,
    PromptSet,
    figure_in,
    grid_in,
    summary_in,
)
from services.api.schemas import (
    Gate,
    GateDetail,
    GateEstimate,
    GatePage,
    GateRequest,
    Grid,
    Summary,
)
from services.api.service import Service
from services.jobs.keys import Caller
from services.jobs.states import OVER, Kind, State
from services.jobs.tables import JobRow

KIND = Kind.GATE
REPORTS = {
    "decision.json": "application/json",
    "decision.md": "text/markdown",
    "decision.html": "text/html",
    "junit.xml": "application/xml",
}
Report = Annotated[
    Literal["decision.json", "decision.md", "decision.html", "junit.xml"], Path(description="A file's name.")
]
ZIP = "application/zip"
Role = Annotated[Literal["model", "baseline"], Path(description="Whose landscapes.")]
router = APIRouter(prefix="/v1", tags=["gates"])


@router.post("/gates", status_code=202, response_model=GateDetail, responses=submitted(GateDetail))
def submit(
    body: GateRequest,
    what: Services,
    who: Submitter,
    _: Turn,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a gate. Everything that can be checked is checked before the answer."""
    row, new = what.submit(body, who, idempotency_key)
    return detail(row, 202 if new else 200, {"location": f"/v1/gates/{row.id}"})


@router.post("/gates:validate", responses=documented(413))
def validate(body: GateRequest, what: Services, who: Submitter, _: Turn) -> GateEstimate:
    """Check a request as a submission would, and say what it would cost at most. Nothing is submitted."""
    return what.estimate_gate(body, who)


@router.get("/gates", responses=documented())
def list_(
    what: Services,
    who: Reader,
    state: StateFilter = None,
    model: ModelFilter = None,
    label: LabelFilter = None,
    cursor: Cursor = None,
    limit: PageSize = 50,
) -> GatePage:
    """The gates of the key (of all keys with the scope admin), the newest first."""
    page = what.jobs.page(
        kind=KIND, owner=who.sees, state=state, model=model, label=label, before=cursor, limit=limit
    )
    return GatePage(items=[shown(row) for row in page.jobs], next=page.next)


@router.get("/gates/{job}", response_model=GateDetail, responses=documented(404))
def get(job: Id, what: Services, who: Reader) -> Response:
    """A gate: its state, how far it is, what its rules have found and, at the end, its verdict."""
    return detail(what.jobs.get(job, who.sees, KIND))


@router.get("/gates/{job}/events", response_class=EventSourceResponse, responses=EVENTS)
async def events(
    job: Id, request: Request, what: Services, who: Reader, last_event_id: LastEventId = None
) -> Response:
    """The gate as Server-Sent Events: now, and after every change until it is over. The id of an event is the
    gate's revision; with `Last-Event-ID` nothing comes that the client has."""
    row = await run_in_threadpool(what.jobs.get, job, who.sees, KIND)
    return as_events(request, row, last_event_id, shown)


@router.post("/gates/{job}/cancel", status_code=202, response_model=GateDetail, responses=documented(404))
def cancel(job: Id, what: Services, who: Submitter) -> Response:
    """End a gate without a verdict. Its finished points stay; one that is over stays as it is."""
    return detail(what.jobs.cancel(job, who.sees, KIND), 202)


@router.delete("/gates/{job}", status_code=204, responses=documented(404, 409))
def delete(job: Id, what: Services, who: Submitter) -> None:
    """Remove a gate that is over, with its results."""
    what.remove(job, who.sees, KIND)


@router.get(
    "/gates/{job}/reports/{name}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in REPORTS.values()}}, **documented(404)},
)
def report(job: Id, name: Report, what: Services, who: Reader, _: Turn) -> Response:
    """The decision of a gate that is done, as JSON, as Markdown, as a page, or as JUnit XML."""
    return report_of(what, what.jobs.get(job, who.sees, KIND), name, REPORTS[name])


@router.get(
    "/gates/{job}/evidence",
    response_class=Response,
    responses={200: {"content": {ZIP: BINARY}}, **documented(404)},
)
def evidence(job: Id, what: Services, who: Reader, _: Turn) -> Response:
    """What the verdict of a gate that is done rests on, as a zip: the decision is made again from it. It has
    no responses."""
    return evidence_of(what, what.jobs.get(job, who.sees, KIND))


@router.get("/gates/{job}/landscapes/{role}/grid", response_model=Grid, responses=GRID)
def grid(job: Id, role: Role, request: Request, what: Services, who: Reader, _: Turn) -> Response:
    """The points of one of the models, as those of a landscape."""
    row, folder = _landscapes(what, who, job, role)
    return grid_in(folder, row, request)


@router.get("/gates/{job}/landscapes/{role}/summary", responses=documented(404))
def summary(job: Id, role: Role, what: Services, who: Reader) -> Summary:
    """The scores of one of the models, as those of a landscape."""
    return summary_in(_landscapes(what, who, job, role)[1])


@router.get("/gates/{job}/landscapes/{role}/figure", response_class=Response, responses=FIGURE)
def figure(
    job: Id,
    role: Role,
    request: Request,
    what: Services,
    who: Reader,
    _: Turn,
    prompt_set: PromptSet = 0,
    style: PlaneStyle = "heatmap",
) -> Response:
    """The landscape of one of the models as a page that needs no connection, or as a picture, by `Accept`."""
    return figure_in(_landscapes(what, who, job, role)[1], request, prompt_set, style)


def shown(row: JobRow) -> Gate:
    """A gate as it is listed."""
    progress = row.progress or {}
    return Gate.model_validate(
        job_fields(row)
        | {
            "name": row.spec["policy"]["name"],
            "baseline": row.spec["baseline"],
            "look": progress.get("look"),
            # A gate that was cancelled or has failed has looked, but not decided.
            "verdict": progress["verdict"] if row.state == State.DONE else None,
        }
    )


def detail(row: JobRow, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A gate with its findings and its policy, as a GateDetail. The policy was checked when it came."""
    more = {
        "findings": findings(row),
        "policy": row.spec["policy"],
        "links": _links(row),
    }
    return JSONResponse(shown(row).model_dump(mode="json") | more, status, headers)


def findings(row: JobRow) -> list[dict[str, Any]]:
    """What became of the rules at the last look, as FindingInfo; nothing where that is no verdict's."""
    decided = row.state == State.DONE or row.state not in OVER
    return ((row.progress or {}).get("findings") or []) if decided else []


def evidence_of(what: Service, row: JobRow) -> Response:
    """The evidence of a gate's verdict as a file. Raises NoResultError."""
    from services.gate.evidence import DECISION, archive

    require_done(row)
    folder = what.results.fetch(row.id)
    if not (folder / DECISION).exists():
        raise NoResultError("id", "its decision is not in the storage any more", "Submit the gate again")
    return attached(Response(archive(folder), media_type=ZIP), f"visage-gate-{row.id}.zip")


def _links(row: JobRow) -> dict[str, str]:
    here = f"/v1/gates/{row.id}"
    roles = ["model", "baseline"] if row.spec["baseline"] is not None else ["model"]
    links = {"events": f"{here}/events"} | {role: f"{here}/landscapes/{role}/summary" for role in roles}
    if row.state != State.DONE:
        return links
    return links | {"evidence": f"{here}/evidence"} | {name: f"{here}/reports/{name}" for name in REPORTS}


def _landscapes(what: Service, who: Caller, job: str, role: str) -> tuple[JobRow, FilePath]:
    """A gate, and the results folder of one of its models. Raises NoSuchJobError and NoResultError."""
    row = what.jobs.get(job, who.sees, KIND)
    if row.spec.get(role) is None:
        raise NoResultError("role", f"the gate looks at no {role}", "Only a relative rule does")
    folder = what.results.fetch(job) / role
    if row.state in OVER and not folder.exists():
        raise NoResultError(
            "role", f"nothing was measured of the {role}", "The findings say what the verdict rests on"
        )
    return row, folder
