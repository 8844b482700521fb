"""Sign in with an API key, and sign out."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from services.api.access import Services
from services.api.pages.render import ROOT, page
from services.api.pages.session import Form, Visit, sessions, set_cookie

router = APIRouter()


@router.get("/sign-in")
async def sign_in_page(request: Request, visit: Visit, after: str = "") -> Response:
    """Ask for a key."""
    if visit.caller is not None:
        return RedirectResponse(_inside(after), 303)
    return page(request, "sign-in.html", after=after, wrong=False)


@router.post("/sign-in")
async def sign_in(request: Request, what: Services, visit: Visit, sent: Form) -> Response:
    """Begin a session, under a new cookie: one that somebody else may have set is worth nothing."""
    fields = dict(sent)
    after = fields.get("after", "")
    found = await run_in_threadpool(what.keys.find, fields.get("key", "").strip())
    if found is None:
        return page(request, "sign-in.html", 401, after=after, wrong=True)
    store = sessions(what)
    await run_in_threadpool(store.close, visit.token)
    token = await run_in_threadpool(store.open, found.id)
    response = RedirectResponse(_inside(after), 303)
    set_cookie(request, response, token)
    return response


@router.post("/sign-out")
async def sign_out(what: Services, visit: Visit, sent: Form) -> Response:  # noqa: ARG001 - it was checked
    """End the session, here and in the browser."""
    await run_in_threadpool(sessions(what).close, visit.token)
    return RedirectResponse(f"{ROOT}/sign-in", 303)


def sent_there(request: Request) -> Response:
    """Ask for a key, and come back then. A part of a page has the whole page go there."""
    if "hx-request" in request.headers:
        current = request.headers.get("hx-current-url", "")
        path = "/" + current.split("/", 3)[-1] if current.count("/") > 2 else ""
        return Response(status_code=401, headers={"hx-redirect": _asking(path)})
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(_asking(path if request.method == "GET" else ""), 303)


def _asking(after: str) -> str:
    return f"{ROOT}/sign-in" + (f"?after={quote(after)}" if after else "")


def _inside(after: str) -> str:
    """Where to go on: to one of these pages, and to no other site."""
    plain = after.isprintable() and "\\" not in after
    return after if plain and after.startswith(f"{ROOT}/") else f"{ROOT}/jobs"
