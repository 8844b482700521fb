"""Who asks, and whether they may."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.api.problems import ForbiddenError, UnauthorizedError
from services.api.service import Service
from services.jobs.keys import Caller, Scope

KNOWN_SECONDS = 1.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_bearer = HTTPBearer(
    auto_error=False, scheme_name="API key", description="A key that `visage keys create` made."
)


async def service(request: Request) -> Service:
    """The service that an application is for."""
    return cast("Service", request.app.state.service)


async def caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    what: Annotated[Service, Depends(service)],
) -> Caller:
    """Whose key came with a request; everybody may do all where no key is needed. Raises
    UnauthorizedError."""
    key = None if credentials is None else credentials.credentials
    known: Known = request.app.state.known
    found = known.get(key)
    if found is None:
        found = await run_in_threadpool(look_up, what, key)
        known.put(key, found)
    if key is None:
        require_no_stranger(request)
    request.state.key = found.id
    return found


async def still_in(request: Request) -> bool:
    """Whether whoever sent a request a while ago would still be let in: its key may have been revoked."""
    try:
        await caller(request, await _bearer(request), await service(request))
    except UnauthorizedError:
        return False
    return True


def look_up(what: Service, key: str | None) -> Caller:
    """Whose key it is, or who may do all where none is needed. Raises UnauthorizedError."""
    if key is not None:
        found = what.keys.find(key)
        if found is None:
            raise UnauthorizedError("Authorization", "the key is not known, or was revoked", "Use another")
        return found
    if what.settings.require_keys or what.keys.any():
        raise UnauthorizedError(
            "Authorization",
            "a key is needed",
            "Send `Authorization: Bearer KEY`; `visage keys create` makes one",
        )
    return Caller("local", "local", frozenset(Scope), what.settings.local_limits)


class Known:
    """The callers of the last second: clients that ask often cost one look into the table a second."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._callers: dict[str | None, Caller] = {}

    def get(self, key: str | None) -> Caller | None:
        """Whose key it is, where that was looked up a moment ago."""
        if time.monotonic() - self._since > KNOWN_SECONDS:
            self._since, self._callers = time.monotonic(), {}
        return self._callers.get(key)

    def put(self, key: str | None, found: Caller) -> None:
        """Remember whose key it is."""
        self._callers[key] = found


async def turn(request: Request) -> AsyncIterator[None]:
    """A dependency of requests that cost seconds: a few of them at a time, so that others find a thread."""
    async with request.app.state.turns:
        yield


def require_no_stranger(request: Request) -> None:
    """Without keys, a page of some other site that is open in a browser here must not get in: neither by a
    name of its own for this address, nor by a form."""
    if request.url.hostname not in LOOPBACK or request.headers.get("sec-fetch-site", "none") not in (
        "none",
        "same-origin",
    ):
        raise ForbiddenError(
            "Host", "without keys the service answers this machine alone", "Ask for localhost, or make a key"
        )


def needs(scope: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency that gives the caller if it has a scope. Raises ForbiddenError."""

    async def allowed(who: Annotated[Caller, Depends(caller)]) -> Caller:
        require(who, scope)
        return who

    return allowed


def require(who: Caller, scope: Scope) -> None:
    """Raise ForbiddenError unless a caller has a scope."""
    if not who.may(scope):
        raise ForbiddenError("Authorization", f"the key lacks the scope {scope}", "Use another key")


Services = Annotated[Service, Depends(service)]
Turn = Annotated[None, Depends(turn)]
Reader = Annotated[Caller, Depends(needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(needs(Scope.SUBMIT))]
ResponseReader = Annotated[Caller, Depends(needs(Scope.READ_RESPONSES))]
