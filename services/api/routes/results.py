"""What a job has measured: its grid, its summary, its figure, its responses."""

from __future__ import annotations

import io
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request, Response

from services.api.access import Reader, ResponseReader, Services, Turn
from services.api.negotiation import preferred
from services.api.problems import NoResultError, NotAcceptableError, documented
from services.api.routes.jobs import Id
from services.api.schemas import Grid, ResponseItem, ResponsePage, Summary
from services.jobs.states import Kind, State
from services.jobs.tables import JobRow
from visage_core.results import Results

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
MOST_JSON_POINTS = 50_000
FIGURES: dict[str, Literal["html", "png", "svg"]] = {
    "text/html": "html",
    "image/png": "png",
    "image/svg+xml": "svg",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
GRID: dict[int | str, dict[str, Any]] = {
    200: {"content": {ARROW: BINARY, PARQUET: BINARY}},
    **documented(404, 406),
}
FIGURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}, "image/png": BINARY, "image/svg+xml": {}}},
    **documented(404, 406),
}
PromptSet = Annotated[int, Query(ge=0, le=63, description="Which of the spec's prompt sets.")]
Style = Literal["heatmap", "contour", "surface"]
PlaneStyle = Annotated[Style, Query(description="How a plane is drawn.")]
router = APIRouter(prefix="/v1/landscapes/{job}", tags=["results"])


@router.get("/grid", response_model=Grid, responses=GRID)
def grid(job: Id, request: Request, what: Services, who: Reader, _: Turn) -> Response:
    """The points measured so far: as JSON, as an Arrow IPC stream, or as Parquet, by `Accept`."""
    row = what.jobs.get(job, who.sees, Kind.LANDSCAPE)
    return grid_in(what.results.fetch(job), row, request)


@router.get("/summary", responses=documented(404))
def summary(job: Id, what: Services, who: Reader) -> Summary:
    """Every score with its interval, spec, seeds and versions. Of an unfinished job the scores are null,
    with the reason, and there is an estimate."""
    what.jobs.get(job, who.sees, Kind.LANDSCAPE)
    return summary_in(what.results.fetch(job))


@router.get("/figure", response_class=Response, responses=FIGURE)
def figure(
    job: Id,
    request: Request,
    what: Services,
    who: Reader,
    _: Turn,
    prompt_set: PromptSet = 0,
    style: PlaneStyle = "heatmap",
) -> Response:
    """The landscape as a page that needs no connection, or as a picture, by `Accept`."""
    what.jobs.get(job, who.sees, Kind.LANDSCAPE)
    return figure_in(what.results.fetch(job), request, prompt_set, style)


@router.get("/responses", responses=documented(404))
def responses(
    job: Id,
    what: Services,
    who: ResponseReader,
    _: Turn,
    cursor: Annotated[int, Query(ge=0, le=2**53, description="The `next` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> ResponsePage:
    """The responses, where the job was to keep them and is over. They may be harmful."""
    what.jobs.get(job, who.sees, Kind.LANDSCAPE)
    file = what.results.fetch(job) / "responses.parquet"
    if not file.exists():
        raise NoResultError(
            "id", "the job has no responses", "Submit it with keep_responses, and wait until it is done"
        )
    with pq.ParquetFile(file) as parquet:
        rows = _rows(parquet, cursor, limit)
        more = cursor + limit < parquet.metadata.num_rows
    items = [ResponseItem.model_validate(row) for row in rows]
    return ResponsePage(items=items, next=cursor + limit if more else None)


def grid_in(folder: FilePath, row: JobRow, request: Request) -> Response:
    """The points in a results folder of a job's, in the form that a client likes best."""
    kind = preferred(request, [JSON, ARROW, PARQUET])
    table = Results(folder).points()
    if kind == JSON and table.num_rows > MOST_JSON_POINTS:
        raise NotAcceptableError(
            "Accept", f"{table.num_rows:,} points are too many for JSON", f"Ask for {ARROW} or {PARQUET}"
        )
    if kind == JSON:
        content = Grid(id=row.id, state=State(row.state), points=table.to_pylist()).model_dump_json()
        return Response(content, media_type=JSON, headers={"vary": "accept"})
    return Response(_encoded(table, kind), media_type=kind, headers={"vary": "accept"})


def summary_in(folder: FilePath) -> Summary:
    """The summary of a results folder."""
    return Summary.model_validate(_summary(folder))


def figure_in(folder: FilePath, request: Request, prompt_set: int, style: Style) -> Response:
    """The figure of a results folder, in the form that a client likes best."""
    from services.sweep.report import draw
    from visage_core.pictures import render

    kind = preferred(request, list(FIGURES))
    if Results(folder).read_json("spec.json") is None:
        raise _not_begun()
    figures = draw(folder, style)
    if prompt_set >= len(figures):
        raise NoResultError("prompt_set", f"there are {len(figures)}, counted from 0", "Ask for one of them")
    content = render(figures[prompt_set], FIGURES[kind])
    # The page is a stranger's to this origin: its script may do nothing with what a browser has for it.
    headers = {"vary": "accept", "content-security-policy": "sandbox allow-scripts"}
    return Response(content, media_type=kind, headers=headers)


def _rows(parquet: pq.ParquetFile, begin: int, count: int) -> list[dict[str, Any]]:
    """Some rows of a file, of which only the groups that have them are read."""
    groups: list[int] = []
    first = at = 0
    for group in range(parquet.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        if at < begin + count and begin < at + size:
            first = first if groups else at
            groups.append(group)
        at += size
    if not groups:
        return []
    rows: list[dict[str, Any]] = parquet.read_row_groups(groups).slice(begin - first, count).to_pylist()
    return rows


def _summary(folder: FilePath) -> dict[str, Any]:
    from services.sweep.report import summarize

    results = Results(folder)
    written = results.read_json("summary.json")
    if written is not None:
        return written
    if results.read_json("spec.json") is None:
        raise _not_begun()
    return summarize(folder)


def _not_begun() -> NoResultError:
    return NoResultError("id", "the job has not begun", "Wait for its first point")


def _encoded(table: pa.Table, kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == PARQUET:
        pq.write_table(table, sink, compression="zstd")
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()
