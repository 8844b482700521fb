"""Gates: the list of them, and of each the verdict, what it rests on, and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from services.api.access import Services, Turn
from services.api.pages.jobs import Filtered, actions, as_yaml, list_page, news, status
from services.api.pages.look import Look, Looked, measured_in
from services.api.pages.render import page
from services.api.pages.session import Reader
from services.api.problems import NoResultError
from services.api.routes.gates import KIND, REPORTS, Report, evidence_of, findings, shown
from services.api.routes.jobs import Id, attached, report_of
from services.gate.reports import worst_first
from services.jobs.states import State
from visage_core.measured import Measured
from visage_core.plots import comparison_figure
from visage_core.readings import has_basin

ROLES = ("model", "baseline")
router = APIRouter()
router.include_router(actions(KIND))


@router.get("/gates")
def list_(request: Request, what: Services, who: Reader, asked: Filtered) -> Response:
    """The gates of the key, the newest first."""
    return list_page(request, "gates.html", what, who, asked, KIND, shown)


@router.get("/gates/{job}")
def gate_page(job: Id, request: Request, what: Services, who: Reader, at: Looked, _: Turn) -> Response:
    """Everything about a gate."""
    row = what.jobs.get(job, who.sees, KIND)
    models = _models(what.results.fetch(job)) if row.done else {}
    return page(
        request,
        "gate.html",
        **status(row, who, shown),
        at=at,
        findings=worst_first(findings(row)),
        drawn=_shown_figure(models, at) if models else None,
        policy=as_yaml(row.spec["policy"]),
        reports=list(REPORTS) if row.state == State.DONE else [],
    )


@router.get("/gates/{job}/progress")
def progress(job: Id, request: Request, what: Services, who: Reader, since: int = 0) -> Response:
    """How far a gate is, where that has changed."""
    row = what.jobs.get(job, who.sees, KIND)
    return news(request, "_gate_progress.html", row, who, since, shown)


@router.get("/gates/{job}/figure.json")
def figure(job: Id, what: Services, who: Reader, at: Looked, _: Turn) -> Response:
    """The model beside the baseline, where there is one, for plotly to draw."""
    what.jobs.get(job, who.sees, KIND)
    models = _models(what.results.fetch(job))
    if not models:
        raise NoResultError("id", "nothing is measured yet", "Wait for its first look")
    if len(models) == 1:
        drawn = models["model"].figure(at.prompts)
    else:
        landscapes = [one.drawn(at.prompts) for one in models.values()]
        names = [f"the {role}, {Path(one.spec.model).name}" for role, one in models.items()]
        drawn = comparison_figure(landscapes, names, landscapes[0].prompts.name)
    return Response(drawn.to_json(), media_type="application/json")


@router.get("/gates/{job}/reports/{name}")
def report(job: Id, name: Report, what: Services, who: Reader, _: Turn) -> Response:
    """The decision, to keep or to send."""
    row = what.jobs.get(job, who.sees, KIND)
    return attached(report_of(what, row, name, REPORTS[name]), f"visage-gate-{job}-{name}")


@router.get("/gates/{job}/evidence")
def evidence(job: Id, what: Services, who: Reader, _: Turn) -> Response:
    """What the verdict rests on, to keep or to send."""
    return evidence_of(what, what.jobs.get(job, who.sees, KIND))


def _models(folder: Path) -> dict[str, Measured]:
    """What a gate has measured of its models, as far as it has looked at them."""
    found = {role: measured_in(folder / role) for role in ROLES}
    return {role: one for role, one in found.items() if one is not None}


def _shown_figure(models: dict[str, Measured], at: Look) -> dict[str, Any]:
    """What the page says beside the figure."""
    landscape = models["model"].drawn(at.prompts)
    return {
        "prompts": [asked.name for asked in landscape.spec.prompts],
        "reading": landscape.reading,
        "plane": landscape.spec.second_axis is not None,
        "basin": has_basin(landscape.reading),
        "threshold": landscape.spec.basin_threshold,
        "directions": len(landscape.surfaces),
        "beside": "baseline" in models,
    }
