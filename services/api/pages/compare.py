"""Several finished landscapes beside each other, and how their scores differ from those of the first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from services.api.access import Services, Turn
from services.api.pages.landscapes import MOST_COMPARED
from services.api.pages.look import Looked
from services.api.pages.render import page
from services.api.pages.session import Reader
from services.api.problems import NoResultError
from services.api.routes.landscapes import KIND, shown
from services.api.schemas import Landscape as Job
from services.api.service import Service
from services.jobs.keys import Caller
from services.jobs.states import State
from services.scores import difference_rows
from visage_core.compare import NotComparableError
from visage_core.errors import InputError
from visage_core.measured import load
from visage_core.plots import comparison_figure

router = APIRouter()


class ComparisonError(InputError):
    """Jobs that cannot be shown beside each other."""


JobIds = Annotated[list[str], Query(alias="job")]


@dataclass(frozen=True)
class Difference:
    """How a job differs from the first one, for each prompt set; or why that cannot be said."""

    job: Job
    sets: list[tuple[str, list[tuple[str, str, str, str]]]]
    notes: list[str]
    problem: str | None = None


@router.get("/compare")
def compare_page(
    request: Request,
    what: Services,
    who: Reader,
    at: Looked,
    ids: JobIds = [],  # noqa: B006 - never changed
) -> Response:
    """The jobs beside each other; without any, how to choose some."""
    jobs = _jobs(what, who, ids) if ids else []
    context: dict[str, Any] = {"prompts": [], "readings": [], "reading": None, "planes": []}
    if len(jobs) > 1:
        found = [load(what.results.fetch(job.id)) for job in jobs]
        sets = min((one.spec.prompts for one in found), key=len)
        first = found[0].drawn(min(at.prompts, len(sets) - 1))
        context = {
            "prompts": [asked.name for asked in sets],
            "readings": first.readings,
            "reading": at.reading or first.readings[0].name,
            "planes": [one.spec.second_axis is not None for one in found],
        }
    return page(
        request,
        "compare.html",
        jobs=jobs,
        names=_names(jobs),
        at=at,
        ids=urlencode([("job", job.id) for job in jobs]),
        most=MOST_COMPARED,
        **context,
    )


@router.get("/compare/figure.json")
def figure(what: Services, who: Reader, at: Looked, ids: JobIds, _: Turn) -> Response:
    """The landscapes of all, for plotly to draw."""
    jobs = _jobs(what, who, ids)
    landscapes = [load(what.results.fetch(job.id)).drawn(at.prompts, at.reading) for job in jobs]
    if len({one.spec.second_axis is None for one in landscapes}) > 1:
        raise ComparisonError(
            "job", "curves and planes have no common axes", "Choose jobs of one kind, or look at their scores"
        )
    if len({one.reading.name for one in landscapes}) > 1:
        raise ComparisonError(
            "job", "their chief readings differ", "Choose a reading, or jobs that ask alike"
        )
    drawn = comparison_figure(landscapes, _names(jobs), landscapes[0].prompts.name)
    return Response(drawn.to_json(), media_type="application/json")


@router.get("/compare/differences")
def differences(request: Request, what: Services, who: Reader, ids: JobIds, _: Turn) -> Response:
    """The paired differences, which take seconds: the page fetches them once it is there."""
    from services.sweep.compare import Compared

    jobs = _jobs(what, who, ids)
    base, *others = [Compared.open(what.results.fetch(job.id)) for job in jobs]
    found = []
    for job, other in zip(jobs[1:], others, strict=True):
        try:
            document = other.less(base)
        except NotComparableError as error:
            found.append(Difference(job, [], [], f"{error.problem}. {error.remedy}."))
            continue
        sets = [(one["name"], difference_rows(one["differences"])) for one in document["landscapes"]]
        notes = [f"Measured with another {change}" for change in document["other_versions"]]
        if document["same_weights"]:
            notes.insert(0, "The two models have the same weights: one is compared with itself.")
        if any(d and d.get("open") for one in document["landscapes"] for d in one["differences"].values()):
            notes.append("Some basins reach the end of the range: they may be larger, and differ by more.")
        found.append(Difference(job, sets, notes))
    names = dict(zip((job.id for job in jobs), _names(jobs), strict=True))
    return page(request, "_differences.html", found=found, names=names, base=jobs[0])


def _jobs(what: Service, who: Caller, ids: list[str]) -> list[Job]:
    """The jobs, each once. Raises ComparisonError unless they are finished and not too many."""
    ids = list(dict.fromkeys(ids))
    if len(ids) > MOST_COMPARED:
        raise ComparisonError(
            "job", f"there are {len(ids)}, and {MOST_COMPARED} fit at a time", "Choose fewer"
        )
    jobs = [shown(what.jobs.get(one, who.sees, KIND)) for one in ids]
    for job in jobs:
        if job.state != State.DONE:
            name = job.label or Path(job.model).name
            raise NoResultError("job", f"{name} is {job.state}", "Compare finished jobs")
    return jobs


def _names(jobs: list[Job]) -> list[str]:
    """What to call each: its label or its model, with a part of its id where that is not enough."""
    plain = [job.label or Path(job.model).name for job in jobs]
    return [
        name if plain.count(name) == 1 else f"{name} ({job.id[-6:]})"
        for name, job in zip(plain, jobs, strict=True)
    ]
