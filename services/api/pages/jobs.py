"""What the pages of all kinds of jobs have in common: lists, progress, and what can be done to a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import yaml
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from services.api.access import Services
from services.api.pages.render import ROOT, page
from services.api.pages.session import Form, Submitter
from services.api.routes.jobs import NAMES, Id
from services.api.schemas import Job
from services.api.service import Service
from services.jobs.keys import Caller, Scope
from services.jobs.states import OVER, Kind, State
from services.jobs.tables import JobRow

LIMIT = 50
# Where the pages of a kind are. Those of landscapes were there before there were others.
PATHS = {Kind.LANDSCAPE: "jobs", Kind.GATE: "gates", Kind.AUDIT: "audits"}


@dataclass(frozen=True)
class Filters:
    """Which jobs a list shows; nothing where that is not asked for."""

    state: State | None
    model: str
    label: str
    cursor: str | None
    limit: int


def filters(
    state: State | Literal[""] = "",
    model: Annotated[str, Query(max_length=1024, pattern=NAMES)] = "",
    label: Annotated[str, Query(max_length=200, pattern=NAMES)] = "",
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = LIMIT,
) -> Filters:
    """What the address says. Filters are empty where they are not set, as forms send them."""
    return Filters(State(state) if state else None, model, label, cursor, limit)


Filtered = Annotated[Filters, Depends(filters)]


def list_page(
    request: Request,
    template: str,
    what: Service,
    who: Caller,
    asked: Filters,
    kind: Kind,
    shown: Callable[[JobRow], Job],
    **more: Any,
) -> Response:
    """The jobs of a kind that the key may see, the newest first."""
    found = what.jobs.page(
        kind=kind,
        owner=who.sees,
        state=asked.state,
        model=asked.model or None,
        label=asked.label or None,
        before=asked.cursor,
        limit=asked.limit,
    )
    wanted: dict[str, Any] = {"state": asked.state, "model": asked.model, "label": asked.label}
    chosen = {name: value for name, value in wanted.items() if value}
    if asked.limit != LIMIT:
        chosen["limit"] = asked.limit

    def address(**at: str) -> str:
        return f"{ROOT}/{PATHS[kind]}?{urlencode(chosen | at)}"

    return page(
        request,
        template,
        path=PATHS[kind],
        jobs=[shown(row) for row in found.jobs],
        running=any(row.state not in OVER for row in found.jobs),
        states=list(State),
        filters=wanted,
        filtered=any(wanted.values()),
        here=address(**({"cursor": asked.cursor} if asked.cursor else {})),
        newest=address() if asked.cursor else None,
        older=address(cursor=found.next) if found.next else None,
        **more,
    )


def status(row: JobRow, who: Caller, shown: Callable[[JobRow], Job]) -> dict[str, Any]:
    """What a job's page and its progress say of it."""
    return {"path": PATHS[Kind(row.kind)], "job": shown(row), "may_submit": who.may(Scope.SUBMIT)}


def news(
    request: Request, template: str, row: JobRow, who: Caller, since: int, shown: Callable[[JobRow], Job]
) -> Response:
    """How far a job is, where that has changed; a page whose job has ended meanwhile is loaded again."""
    if row.revision == since:
        return Response(status_code=204)
    if row.state in OVER:
        return Response(headers={"hx-refresh": "true"})
    return page(request, template, **status(row, who, shown))


def as_yaml(document: Any) -> str:
    """What was asked for, to be read."""
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def actions(kind: Kind) -> APIRouter:
    """The routes by which a job of a kind is ended and removed."""
    router = APIRouter(prefix=f"/{PATHS[kind]}/{{job}}")

    @router.post("/cancel")
    def cancel(job: Id, what: Services, who: Submitter, sent: Form) -> Response:  # noqa: ARG001 - checked
        """End a job. Its finished points stay."""
        what.jobs.cancel(job, who.sees, kind)
        return RedirectResponse(f"{ROOT}/{PATHS[kind]}/{job}", 303)

    @router.post("/delete")
    def delete(job: Id, what: Services, who: Submitter, sent: Form) -> Response:  # noqa: ARG001 - checked
        """Remove a job that is over, with its results."""
        what.remove(job, who.sees, kind)
        return RedirectResponse(f"{ROOT}/{PATHS[kind]}", 303)

    return router
