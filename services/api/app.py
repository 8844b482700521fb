"""The FastAPI application, apart from where it runs."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.api.access import Known
from services.api.events import Watch
from services.api.metrics import TableMetrics
from services.api.middleware import Requests
from services.api.pages.mount import mount_pages
from services.api.problems import handle_problems
from services.api.routes import catalogue, gates, health, landscapes, results
from services.api.schemas import Problem
from services.api.service import Service

HEAVY_REQUESTS = 4
DESCRIPTION = (
    "Measures the safety landscapes of language models: submit a landscape, watch it, and fetch its VISAGE "
    "score and its grid; or hold a model against a release policy. Errors are application/problem+json and "
    "name the field, the problem and the remedy."
)


def make_app(service: Service) -> FastAPI:
    """The application for a service."""
    app = FastAPI(
        title="visage",
        version=version("visage"),
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.state.watch = Watch(service)
    app.state.known = Known()
    app.state.turns = asyncio.Semaphore(HEAVY_REQUESTS)
    app.state.registry = CollectorRegistry()
    app.state.registry.register(TableMetrics(service))
    for part in (landscapes, results, gates, catalogue, health):
        app.include_router(part.router)
    handle_problems(app)
    mount_pages(app)
    app.add_middleware(Requests, body_bytes=service.settings.body_bytes, registry=app.state.registry)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Put the one shape of errors into the OpenAPI document, in place of FastAPI's own."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            schemas = document["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
