"""Who asks, and whether they may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.api.problems import ForbiddenError, UnauthorizedError
from services.api.service import Service
from services.jobs.keys import Caller, Scope

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_bearer = HTTPBearer(
    auto_error=False, scheme_name="API key", description="A key that `visage keys create` made."
)


def service(request: Request) -> Service:
    """The service that an application is for."""
    return cast("Service", request.app.state.service)


def caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    what: Annotated[Service, Depends(service)],
) -> Caller:
    """Whose key came with a request; everybody may do all where no key is needed. Raises
    UnauthorizedError."""
    if credentials is not None:
        found = what.keys.find(credentials.credentials)
        if found is None:
            raise UnauthorizedError("Authorization", "the key is not known, or was revoked", "Use another")
    elif what.settings.require_keys or what.keys.any():
        raise UnauthorizedError(
            "Authorization",
            "a key is needed",
            "Send `Authorization: Bearer KEY`; `visage keys create` makes one",
        )
    else:
        _require_no_stranger(request)
        found = Caller("local", "local", frozenset(Scope), what.settings.local_limits)
    structlog.contextvars.bind_contextvars(key=found.id)
    return found


def _require_no_stranger(request: Request) -> None:
    """Without keys, a page of some other site that is open in a browser here must not get in: neither by a
    name of its own for this address, nor by a form."""
    if request.url.hostname not in LOOPBACK or request.headers.get("sec-fetch-site", "none") not in (
        "none",
        "same-origin",
    ):
        raise ForbiddenError(
            "Host", "without keys the service answers this machine alone", "Ask for localhost, or make a key"
        )


def needs(scope: Scope) -> Callable[[Caller], Caller]:
    """A dependency that gives the caller if it has a scope. Raises ForbiddenError."""

    def allowed(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if not who.may(scope):
            raise ForbiddenError("Authorization", f"the key lacks the scope {scope}", "Use another key")
        return who

    return allowed


Services = Annotated[Service, Depends(service)]
Reader = Annotated[Caller, Depends(needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(needs(Scope.SUBMIT))]
ResponseReader = Annotated[Caller, Depends(needs(Scope.READ_RESPONSES))]
