"""Whether the service lives, is of use, and how it does."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from services.api.access import Services
from services.api.problems import documented, problem
from services.jobs.database import DatabaseError

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """That all is well."""

    status: str = "ok"


@router.get("/healthz")
async def healthz() -> Health:
    """Whether this process answers."""
    return Health()


@router.get("/readyz", response_model=Health, responses={503: documented()[503]})
def readyz(request: Request, what: Services) -> Health | Response:
    """Whether jobs can be taken in and measured: the database answers, and a runner is alive."""
    try:
        runners = what.jobs.runners()
    except (SQLAlchemyError, DatabaseError):
        return problem(request, 503, "The database cannot be reached.", headers={"retry-after": "5"})
    if not runners:
        return problem(request, 503, "No runner is alive: jobs wait.", headers={"retry-after": "5"})
    return Health()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """For Prometheus: jobs by state, runners, workers, and this process' requests."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
