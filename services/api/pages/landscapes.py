"""The list of landscapes, and each of them in small."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from services.api.access import Services
from services.api.pages.jobs import Filtered, actions, list_page
from services.api.pages.session import Reader
from services.api.pages.sparkline import sparkline
from services.api.problems import NoResultError
from services.api.routes.jobs import Id
from services.api.routes.landscapes import KIND, shown
from services.jobs.states import OVER
from visage_core.measured import load

MOST_COMPARED = 8
router = APIRouter()
router.include_router(actions(KIND))


@router.get("/jobs")
def list_(request: Request, what: Services, who: Reader, asked: Filtered) -> Response:
    """The landscapes of the key, the newest first."""
    return list_page(request, "landscapes.html", what, who, asked, KIND, shown, most=MOST_COMPARED)


@router.get("/jobs/{job}/sparkline.svg")
def small_figure(job: Id, what: Services, who: Reader) -> Response:
    """The landscape in the size of a word. Its address holds the job's revision: a finished one is kept."""
    row = what.jobs.get(job, who.sees, KIND)
    if not row.done:
        raise NoResultError("id", "the job has no points yet", "Wait for its first one")
    content = sparkline(load(what.results.fetch(job)).drawn())
    keep = "private, max-age=86400" if row.state in OVER else "no-store"
    return Response(content, media_type="image/svg+xml", headers={"cache-control": keep})
