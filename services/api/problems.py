"""Errors as application/problem+json: one shape for all of them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from services.api.schemas import Problem
from services.jobs.database import DatabaseError
from services.jobs.store import (
    NoSuchJobError,
    NotOverError,
    QueueFullError,
    ReplayError,
)
from visage_core.errors import InputError
from visage_core.results import ResultsError
from visage_core.spec import field_path

MEDIA_TYPE = "application/problem+json"
# What FastAPI puts before the field's own path.
PLACES = ("body", "query", "path", "header")
log = structlog.get_logger("visage.api")


class UnauthorizedError(InputError):
    """No key, or none that is known."""


class ForbiddenError(InputError):
    """A key that may not do this."""


class NoResultError(InputError):
    """Something that the job does not have (yet)."""


class NotAcceptableError(InputError):
    """A media type in which the result is not to be had."""


STATUS: dict[type[InputError], int] = {
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NoSuchJobError: 404,
    NoResultError: 404,
    NotAcceptableError: 406,
    NotOverError: 409,
    ReplayError: 409,
    QueueFullError: 429,
}
# The field and the remedy of errors that come from nothing in particular.
USUAL = {
    400: ("body", "Send valid JSON"),
    404: ("path", "GET /v1/openapi.json lists the routes"),
    405: ("method", "GET /v1/openapi.json lists the routes and their methods"),
    413: ("body", "Send less"),
    500: ("server", "The service's log says more under this request's id"),
    503: ("server", "Try again later"),
}
# A finished job makes room; nobody knows when.
RETRY_SECONDS = 30


def status_of(error: InputError) -> int:
    """The HTTP status of an error that a client can mend."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 422)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI document."""
    return {status: _documented(status) for status in (400, 401, 403, 422, 429, 503, *statuses)}


def _documented(status: int) -> dict[str, Any]:
    example = Problem(title=HTTPStatus(status).phrase, status=status, detail="What is wrong. What to do.")
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    content[MEDIA_TYPE]["example"] = example.model_dump(exclude_none=True)
    return {"description": HTTPStatus(status).phrase, "content": content}


def problem(
    request: Request,
    status: int,
    detail: str,
    field: str | None = None,
    remedy: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A response that says what is wrong, and what to do."""
    usual_field, usual_remedy = USUAL.get(status, (None, None))
    if remedy is None and usual_remedy is not None:
        remedy, detail = usual_remedy, f"{detail.rstrip('. ')}. {usual_remedy}."
    field = field or usual_field
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        field=field,
        remedy=remedy,
        request_id=getattr(request.state, "request_id", None),
    )
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Have every error of an application answered in this shape."""

    @app.exception_handler(InputError)
    async def _(request: Request, error: InputError) -> JSONResponse:
        status = status_of(error)
        headers = {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if status == 429:
            headers["retry-after"] = str(RETRY_SECONDS)
        detail = f"{error.problem}. {error.remedy}."
        return problem(request, status, detail, error.field, error.remedy, headers)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place, *location = first["loc"]
        path = field_path(location if place in PLACES else first["loc"])
        text = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            text = "there is no such field"
        elif path[-1:] == ["secret"]:
            pass
        elif isinstance(seen := first.get("input"), str | int | float | bool):
            text += f", got {str(seen)[:100]!r}" if isinstance(seen, str) else f", got {seen!r}"
        remedy = "GET /v1/openapi.json describes every field"
        return problem(request, 422, f"{text}. {remedy}.", ".".join(path) or "body", remedy)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        return problem(request, error.status_code, str(error.detail), headers=headers)

    _handle_faults(app)


def _handle_faults(app: FastAPI) -> None:
    """What no client has done."""

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeoutError)
    @app.exception_handler(DatabaseError)
    @app.exception_handler(OSError)
    async def _(request: Request, error: Exception) -> JSONResponse:
        log.warning("away", problem=str(error).splitlines()[0])
        detail = "The database or the storage of results cannot be reached."
        return problem(request, 503, detail, headers={"retry-after": "5"})

    @app.exception_handler(ResultsError)
    async def _(request: Request, error: ResultsError) -> JSONResponse:
        log.error("results", problem=error.problem)
        return problem(request, 500, "The results of the job are damaged.")

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> JSONResponse:
        log.error("crashed", exc_info=error)
        return problem(request, 500, "The service has a fault.")
