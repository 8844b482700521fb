"""A job's page: how far it is, and then its landscape, its points and its scores."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request, Response

from services.api.access import Services, Turn
from services.api.pages.jobs import as_yaml, news, status
from services.api.pages.look import Look, Looked, measured_in, nearest, place
from services.api.pages.render import page
from services.api.pages.session import Reader, ResponseReader
from services.api.problems import NoResultError
from services.api.routes.jobs import Id, attached
from services.api.routes.landscapes import KIND, shown
from services.jobs.keys import Caller, Scope
from services.jobs.states import OVER
from services.jobs.tables import JobRow
from services.scores import cost, judge_rows, notes, score_rows
from services.tables import curve_table, plane_table
from visage_core.grid import point_at
from visage_core.measured import Measured
from visage_core.plots import figure_styles

RESPONSES = 20
# More numbers of a curve, or coordinates, are not on the page from the start.
FEW = 200
MOST_NUMBERS = 50_000
router = APIRouter()


@router.get("/jobs/{job}")
def job_page(
    job: Id,
    request: Request,
    what: Services,
    who: Reader,
    at: Looked,
    _: Turn,
) -> Response:
    """Everything about a job."""
    row = what.jobs.get(job, who.sees, KIND)
    found = measured_in(what.results.fetch(job)) if row.done else None
    return page(
        request,
        "landscape.html",
        **status(row, who, shown),
        at=at,
        spec=as_yaml(row.spec),
        found=found and _shown_landscape(found, at),
        scores=found and _scores(found, row, at),
        place=place(found, at) if found and at.alpha is not None else None,
        may_read=_may_read(row, who),
    )


@router.get("/jobs/{job}/progress")
def progress(job: Id, request: Request, what: Services, who: Reader, since: int = 0) -> Response:
    """How far a job is, where that has changed."""
    row = what.jobs.get(job, who.sees, KIND)
    return news(request, "_landscape_progress.html", row, who, since, shown)


@router.get("/jobs/{job}/figure.json")
def figure(job: Id, what: Services, who: Reader, at: Looked, _: Turn) -> Response:
    """The figure, for plotly to draw."""
    found = _begun(what, job, who)
    drawn = found.figure(at.prompts, at.reading, at.judge, at.style)
    return Response(drawn.to_json(), media_type="application/json")


@router.get("/jobs/{job}/numbers")
def numbers(job: Id, request: Request, what: Services, who: Reader, at: Looked, _: Turn) -> Response:
    """The numbers of a plane, which are many, for when they are asked for."""
    landscape = _begun(what, job, who).drawn(at.prompts, at.reading, at.judge)
    count = sum(curve.rate.size for curve in landscape.surfaces)
    if count > MOST_NUMBERS:
        raise NoResultError(
            "id",
            f"{count:,} numbers are too many for a page",
            f"`visage results {job} --out DIR` fetches them, and GET /v1/landscapes/{job}/grid",
        )
    table = plane_table(landscape) if landscape.spec.second_axis else curve_table(landscape)
    plane = landscape.spec.second_axis is not None
    title = landscape.reading.title
    return page(request, "_numbers.html", job=job, at=at, table=table, plane=plane, title=title)


@router.get("/jobs/{job}/point")
def point(job: Id, request: Request, what: Services, who: Reader, at: Looked, _: Turn) -> Response:
    """The numbers of one point."""
    row = what.jobs.get(job, who.sees, KIND)
    found = _begun(what, job, who)
    here = place(found, at) if at.alpha is not None else None
    return page(request, "_point.html", job=shown(row), at=at, place=here, may_read=_may_read(row, who))


@router.get("/jobs/{job}/responses")
def responses(
    job: Id,
    request: Request,
    what: Services,
    who: ResponseReader,
    at: Looked,
    _: Turn,
    seed: Annotated[str, Query(pattern=r"^\d{0,19}$")] = "",
    skip: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> Response:
    """Some responses of a point along one direction. They may be harmful."""
    found = _begun(what, job, who)
    file = found.folder / "responses.parquet"
    if at.alpha is None or not file.exists():
        raise NoResultError(
            "id", "the job has no responses", "Submit it with keep_responses, and wait until it is done"
        )
    alpha, beta = nearest(found.drawn(at.prompts), at.alpha, at.beta)
    there = point_at(found.spec, int(seed) if seed else None, alpha, beta)
    is_seed = pc.field("seed").is_null() if there.seed is None else pc.field("seed") == there.seed
    rows = pq.read_table(
        file,
        filters=is_seed
        & (pc.field("alpha") == alpha)
        & (pc.field("beta") == beta)
        & (pc.field("prompt_set") == at.prompts),
    )
    return page(
        request,
        "_responses.html",
        job=job,
        at=at,
        seed=seed,
        rows=rows.slice(skip, RESPONSES).to_pylist(),
        first=skip,
        count=rows.num_rows,
        after=skip + RESPONSES if skip + RESPONSES < rows.num_rows else None,
    )


@router.get("/jobs/{job}/report")
def download(job: Id, what: Services, who: Reader, _: Turn) -> Response:
    """All of it as one file, to keep or to send."""
    from services.report.page import report

    row = what.jobs.get(job, who.sees, KIND)
    content = report(_begun(what, job, who).folder, row.label)
    return attached(Response(content, media_type="text/html"), f"visage-{job}.html")


def _begun(what: Services, job: str, who: Caller) -> Measured:
    """What a job has measured. Raises NoResultError where that is nothing."""
    what.jobs.get(job, who.sees, KIND)
    found = measured_in(what.results.fetch(job))
    if found is None:
        raise NoResultError("id", "the job has not begun", "Wait for its first point")
    return found


def _may_read(row: JobRow, who: Caller) -> bool:
    """Whether there are responses that the caller may read."""
    return bool(row.spec.get("keep_responses")) and row.state in OVER and who.may(Scope.READ_RESPONSES)


def _shown_landscape(found: Measured, at: Look) -> dict[str, Any]:
    """What the page shows of a landscape beside the figure itself: what there is to choose from, and the
    numbers of a curve. Those of a plane are fetched when they are asked for."""
    landscape = found.drawn(at.prompts, at.reading, at.judge)
    plane = found.spec.second_axis is not None
    curve = landscape.surfaces[0]
    asks = landscape.prompts.kind == "requests"
    return {
        "plane": plane,
        "prompts": [asked.name for asked in found.spec.prompts],
        "readings": landscape.readings,
        "reading": landscape.reading,
        "judges": found.spec.judge_names if asks else [],
        "styles": figure_styles(found.spec),
        "alphas": curve.alphas,
        "betas": curve.betas,
        "directions": len(landscape.surfaces),
        "threshold": found.spec.basin_threshold,
        "measured": len(landscape.expected) - len(landscape.missing),
        "table": None if plane or len(curve.alphas) > FEW else curve_table(landscape),
        "few": FEW,
    }


def _scores(found: Measured, row: JobRow, at: Look) -> dict[str, Any] | None:
    """The scores of a job that is over, with what there is to know beside them."""
    from services.sweep.report import summarize

    if row.state not in OVER:
        return None
    summary = found.summary or summarize(found.folder)
    entry = summary["landscapes"][at.prompts]
    columns, judges = judge_rows(entry) if entry["judges"] else ([], [])
    return {
        "rows": score_rows(entry, found.spec),
        "coherent": bool(entry["coherent"]),
        "columns": columns,
        "judges": judges,
        "notes": notes(entry),
        "cost": cost([one["totals"] for one in summary["landscapes"]]),
        "versions": found.inputs.get("versions", {}),
        "failed": summary["run"]["failed"],
    }
