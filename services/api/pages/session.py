"""Who looks at the pages: an API key signs in, and a cookie keeps the session."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from services.api.access import Services, look_up, require, require_no_stranger
from services.api.problems import ForbiddenError, UnauthorizedError
from services.api.service import Service
from services.jobs.keys import Caller, Scope

SECONDS = 12 * 3600
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
MOST_FIELDS = 200


class Sessions:
    """The sessions that are open, each a small file in the data folder: they outlive the service.

    A file is named by a digest of its cookie, so that who can read the folder cannot take a session over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, key_id: str) -> str:
        """Begin a session of a key; gives the cookie's value."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        token = secrets.token_urlsafe(32)
        handle = os.open(self._file(token), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"key": key_id, "until": time.time() + SECONDS}, file)
        return token

    def key_of(self, token: str) -> str | None:
        """The id of the key that a session is of; None where there is none, or it is over."""
        try:
            found = json.loads(self._file(token).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return str(found["key"]) if found["until"] > time.time() else None

    def close(self, token: str) -> None:
        """End a session."""
        self._file(token).unlink(missing_ok=True)

    def _sweep(self) -> None:
        for file in self._folder.glob("*.json"):
            if file.stat().st_mtime < time.time() - SECONDS:
                file.unlink(missing_ok=True)

    def _file(self, token: str) -> Path:
        return self._folder / f"{hashlib.sha256(token.encode()).hexdigest()}.json"


class SignInError(Exception):
    """A page that needs a key, asked for without one."""


class FromElsewhereError(Exception):
    """A link on another site was followed: the browser has kept the cookie back."""


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page: the value of the cookie, which is a new one where none came, and whose key it
    stands for. `open` says that no key is needed here."""

    token: str
    caller: Caller | None
    new: bool = False
    open: bool = False

    @property
    def csrf(self) -> str:
        """What the forms of this visitor carry: other sites can send a form, but do not know this."""
        return hashlib.sha256(f"form:{self.token}".encode()).hexdigest()


async def visitor(request: Request, what: Services) -> Visitor:
    """Who asks for a page, signed in or not. Raises FromElsewhereError."""
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        raise FromElsewhereError
    given = request.cookies.get(cookie_name(request), "")
    token = given if TOKEN.fullmatch(given) else ""
    known, open_ = await run_in_threadpool(_find, what, token)
    if open_:
        require_no_stranger(request)
    found = Visitor(token or secrets.token_urlsafe(32), known, new=not token, open=open_)
    request.state.visitor = found
    request.state.key = known.id if known else None
    return found


def _find(what: Service, token: str) -> tuple[Caller | None, bool]:
    """Whose session it is, and whether none is needed."""
    try:
        return look_up(what, None), True
    except UnauthorizedError:
        key = sessions(what).key_of(token) if token else None
        return (what.keys.by_id(key) if key else None), False


def sessions(what: Service) -> Sessions:
    """The sessions of a service."""
    return Sessions(what.settings.data / "sessions")


Visit = Annotated[Visitor, Depends(visitor)]


def needs(scope: Scope) -> Callable[[Visitor], Awaitable[Caller]]:
    """A dependency that gives whose session it is, if it has a scope. Raises SignInError, ForbiddenError."""

    async def allowed(visit: Visit) -> Caller:
        if visit.caller is None:
            raise SignInError
        require(visit.caller, scope)
        return visit.caller

    return allowed


async def form(request: Request, visit: Visit) -> list[tuple[str, str]]:
    """The fields of a form that one of these pages sent. Raises ForbiddenError for any other."""
    try:
        body = (await request.body()).decode()
        fields = parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        fields = []
    sent = next((value for name, value in fields if name == "csrf"), "")
    if not secrets.compare_digest(sent.encode(), visit.csrf.encode()):
        raise ForbiddenError(
            "form", "it is older than your session, or from elsewhere", "Load the page and send it again"
        )
    return [(name, value) for name, value in fields if name != "csrf"]


Reader = Annotated[Caller, Depends(needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(needs(Scope.SUBMIT))]
ResponseReader = Annotated[Caller, Depends(needs(Scope.READ_RESPONSES))]
Form = Annotated[list[tuple[str, str]], Depends(form)]


def set_cookie(request: Request, response: Response, token: str) -> None:
    """Have the browser keep a visitor's token: for this site's own pages, and out of scripts' reach."""
    response.set_cookie(
        cookie_name(request), token, path="/", secure=is_secure(request), httponly=True, samesite="strict"
    )


def cookie_name(request: Request) -> str:
    """With TLS the browser itself sees to it that no other host sets the cookie."""
    return "__Host-visage" if is_secure(request) else "visage"


def is_secure(request: Request) -> bool:
    """Whether the browser came by TLS, to a proxy in front as well. Believing that header costs nothing: it
    can only make the cookie stricter."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
