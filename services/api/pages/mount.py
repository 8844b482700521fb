"""The pages as an application of their own, with errors for people, that is mounted beside the API."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.pages import audits, compare, gates, landscape, landscapes, signin, submit
from services.api.pages.render import PLOTLY, ROOT, STATIC, page
from services.api.pages.session import FromElsewhereError, SignInError
from services.api.problems import status_of
from services.jobs.database import DatabaseError
from visage_core.errors import InputError
from visage_core.results import ResultsError

# What plotly writes into style attributes: nothing, to clear one, and that a heat map's cells stay sharp. The
# last one is the sheet for its maps, which it adds wherever it is loaded; another version's would be refused,
# and nothing here needs it.
SHARP = "optimizeSpeed -moz-crisp-edges -o-crisp-edges -webkit-optimize-contrast optimize-contrast "
SHARP += "crisp-edges pixelated"
STYLES = (sha256(b""), sha256("".join(f"image-rendering: {how}; " for how in SHARP.split()).encode()))
HASHES = [f"'sha256-{b64encode(style.digest()).decode()}'" for style in STYLES]
HASHES += ["'sha256-V2sIX92Uh6ZaGSFTKMHghsB85b9toJtmazgG09AI2uk='"]
# Nothing inline but that, nothing from elsewhere. Pictures: plotly draws heat maps as data, and saves figures
# as blobs.
POLICY = (
    "default-src 'none'; script-src 'self'; "
    f"style-src 'self' 'unsafe-hashes' {' '.join(HASHES)}; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
# Their addresses tell what they hold.
KEPT = {"cache-control": "public, max-age=31536000, immutable"}
log = structlog.get_logger("visage.pages")


def mount_pages(app: FastAPI) -> None:
    """Put the pages at ROOT of an application, and a way there at its root."""
    pages = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pages.state = app.state
    for part in (signin, landscapes, landscape, gates, audits, submit, compare):
        pages.include_router(part.router)
    pages.get("/")(lambda: RedirectResponse(f"{ROOT}/jobs"))
    pages.get("/static/plotly.min.js")(lambda: FileResponse(PLOTLY, headers=KEPT))
    pages.mount("/static", _Kept(directory=STATIC))
    _handle_errors(pages)
    pages.add_middleware(_Headers)
    app.mount(ROOT, pages)
    app.get("/", include_in_schema=False)(lambda: RedirectResponse(f"{ROOT}/jobs"))


class _Kept(StaticFiles):
    """Files that a browser need not ask for again."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers.update(KEPT)
        return response


class _Headers:
    """ASGI middleware: what browsers are told with every page, unless it says otherwise itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, answer)


def _handle_errors(pages: FastAPI) -> None:
    @pages.exception_handler(SignInError)
    async def _(request: Request, _: SignInError) -> Response:
        return signin.sent_there(request)

    @pages.exception_handler(FromElsewhereError)
    async def _(request: Request, _: FromElsewhereError) -> HTMLResponse:
        return page(request, "elsewhere.html")

    @pages.exception_handler(InputError)
    async def _(request: Request, error: InputError) -> Response:
        return _told(request, status_of(error), error.problem, error.remedy)

    @pages.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _told(
            request, 422, f"{first['loc'][-1]}: {first['msg']}", "Go back, and follow the page's links"
        )

    @pages.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        remedy = "The list of landscapes is a good place to go on from"
        return _told(request, error.status_code, "There is no such page", remedy)

    @pages.exception_handler(ResultsError)
    async def _(request: Request, error: ResultsError) -> Response:
        log.error("results", problem=error.problem)
        return _told(request, 500, "The results of the job are damaged", "The service's log says more")

    @pages.exception_handler(OperationalError)
    @pages.exception_handler(PoolTimeoutError)
    @pages.exception_handler(DatabaseError)
    @pages.exception_handler(OSError)
    async def _(request: Request, error: Exception) -> Response:
        log.warning("away", problem=str(error).splitlines()[0])
        problem = "The database or the storage of results cannot be reached"
        return _told(request, 503, problem, "Try again in a moment")

    @pages.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        log.error("crashed", exc_info=error)
        return _told(request, 500, "The service has a fault", "Its log says more under this page's number")


def _told(request: Request, status: int, problem: str, remedy: str) -> Response:
    """An error as a page, as a part of one, or as what a figure's script reads."""
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"problem": f"{problem}. {remedy}."}, status)
    part = "hx-request" in request.headers
    return page(
        request,
        "_error.html" if part else "error.html",
        status,
        title=HTTPStatus(status).phrase,
        problem=problem,
        remedy=remedy,
        number=getattr(request.state, "request_id", None),
    )
