"""The list of jobs, and what can be done to one."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from services.api.access import Services
from services.api.pages.render import ROOT, page
from services.api.pages.session import Form, Reader, Submitter
from services.api.pages.sparkline import sparkline
from services.api.problems import NoResultError
from services.api.routes.jobs import NAMES, Id
from services.api.routes.landscapes import KIND, shown
from services.jobs.states import OVER, State
from visage_core.measured import load

LIMIT = 50
MOST_COMPARED = 8
router = APIRouter()


@router.get("/jobs")
def list_(
    request: Request,
    what: Services,
    who: Reader,
    state: State | Literal[""] = "",
    model: Annotated[str, Query(max_length=1024, pattern=NAMES)] = "",
    label: Annotated[str, Query(max_length=200, pattern=NAMES)] = "",
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = LIMIT,
) -> Response:
    """The jobs of the key, the newest first. Filters are empty where they are not set, as forms send them."""
    wanted = State(state) if state else None
    found = what.jobs.page(
        kind=KIND,
        owner=who.sees,
        state=wanted,
        model=model or None,
        label=label or None,
        before=cursor,
        limit=limit,
    )
    filters: dict[str, Any] = {"state": wanted or "", "model": model, "label": label}
    filters |= {"limit": limit} if limit != LIMIT else {}
    chosen = {name: value for name, value in filters.items() if value}
    return page(
        request,
        "jobs.html",
        jobs=[shown(row) for row in found.jobs],
        running=any(row.state not in OVER for row in found.jobs),
        states=list(State),
        filters=filters,
        filtered=any((wanted, model, label)),
        here=f"{ROOT}/jobs?{urlencode(chosen | ({'cursor': cursor} if cursor else {}))}",
        newest=f"{ROOT}/jobs?{urlencode(chosen)}" if cursor else None,
        older=f"{ROOT}/jobs?{urlencode(chosen | {'cursor': found.next})}" if found.next else None,
        most=MOST_COMPARED,
    )


@router.get("/jobs/{job}/sparkline.svg")
def small_figure(job: Id, what: Services, who: Reader) -> Response:
    """The landscape in the size of a word. Its address holds the job's revision: a finished one is kept."""
    row = what.jobs.get(job, who.sees, KIND)
    if not row.done:
        raise NoResultError("id", "the job has no points yet", "Wait for its first one")
    content = sparkline(load(what.results.fetch(job)).drawn())
    keep = "private, max-age=86400" if row.state in OVER else "no-store"
    return Response(content, media_type="image/svg+xml", headers={"cache-control": keep})


@router.post("/jobs/{job}/cancel")
def cancel(job: Id, what: Services, who: Submitter, sent: Form) -> Response:  # noqa: ARG001 - it was checked
    """End a job. Its finished points stay."""
    what.jobs.cancel(job, who.sees, KIND)
    return RedirectResponse(f"{ROOT}/jobs/{job}", 303)


@router.post("/jobs/{job}/delete")
def delete(job: Id, what: Services, who: Submitter, sent: Form) -> Response:  # noqa: ARG001 - it was checked
    """Remove a job that is over, with its results."""
    what.remove(job, who.sees, KIND)
    return RedirectResponse(f"{ROOT}/jobs", 303)
