"""Audits: the list of them, and of each how its checkpoints stand beside each other."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from services.api.access import Services, Turn
from services.api.pages.jobs import Filtered, actions, as_yaml, list_page, news, status
from services.api.pages.render import page
from services.api.pages.session import Reader
from services.api.problems import NoResultError
from services.api.routes.audits import KIND, REPORTS, Report, shown
from services.api.routes.jobs import Id, attached, report_of, require_done
from services.api.service import Service
from services.jobs.states import State
from services.jobs.tables import JobRow
from visage_core.results import Results

LEADERBOARD = "leaderboard.json"
router = APIRouter()
router.include_router(actions(KIND))


@router.get("/audits")
def list_(request: Request, what: Services, who: Reader, asked: Filtered) -> Response:
    """The audits of the key, the newest first."""
    return list_page(request, "audits.html", what, who, asked, KIND, shown)


@router.get("/audits/{job}")
def audit_page(job: Id, request: Request, what: Services, who: Reader, _: Turn) -> Response:
    """Everything about an audit."""
    row = what.jobs.get(job, who.sees, KIND)
    return page(
        request,
        "audit.html",
        **status(row, who, shown),
        board=_shown_board(_leaderboard(what, row)) if row.state == State.DONE else None,
        models=row.spec["models"],
        policy=as_yaml(row.spec["policy"]),
    )


@router.get("/audits/{job}/progress")
def progress(job: Id, request: Request, what: Services, who: Reader, since: int = 0) -> Response:
    """How far an audit is, where that has changed."""
    row = what.jobs.get(job, who.sees, KIND)
    return news(request, "_audit_progress.html", row, who, since, shown)


@router.get("/audits/{job}/figure.json")
def figure(job: Id, what: Services, who: Reader, _: Turn) -> Response:
    """The scores of the checkpoints, for plotly to draw."""
    from services.audit.leaderboard import figure_of

    drawn = figure_of(_leaderboard(what, what.jobs.get(job, who.sees, KIND)))
    if drawn is None:
        raise NoResultError("id", "no checkpoint has a score", "The leaderboard says why")
    return Response(drawn.to_json(), media_type="application/json")


@router.get("/audits/{job}/reports/{name}")
def report(job: Id, name: Report, what: Services, who: Reader, _: Turn) -> Response:
    """The leaderboard, to keep or to send."""
    row = what.jobs.get(job, who.sees, KIND)
    return attached(report_of(what, row, name, REPORTS[name]), f"visage-audit-{job}-{name}")


def _leaderboard(what: Service, row: JobRow) -> dict[str, Any]:
    """How the checkpoints of an audit stand. Raises NoResultError."""
    require_done(row)
    file = what.results.file(row.id, LEADERBOARD)
    found = Results(file.parent).read_json(LEADERBOARD)
    if found is None:
        raise NoResultError("id", "its leaderboard is not in the storage any more", "Submit the audit again")
    return found


def _shown_board(document: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a leaderboard."""
    from services.audit.leaderboard import cells_of, columns_of, figure_of, notes_of, title_of

    compared = document["reference"] is not None
    drawn = figure_of(document) is not None
    measured = any(row["error"] is None for row in document["checkpoints"])
    missing = {"leaderboard.html": not drawn, "leaderboard.png": not drawn, "points.parquet": not measured}
    return {
        "columns": columns_of(document),
        "rows": [cells_of(row, compared) for row in document["checkpoints"]],
        "notes": notes_of(document),
        "score": title_of(document),
        "drawn": drawn,
        "reports": [name for name in REPORTS if not missing.get(name)],
    }
