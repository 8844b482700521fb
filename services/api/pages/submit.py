"""Submit a landscape: by the fields that most jobs need, or by a whole spec."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from services.api.access import Services, Turn
from services.api.pages.fields import FIELDS, SECTIONS, Message, document_of, field_of, messages, values_of
from services.api.pages.jobs import as_yaml
from services.api.pages.render import ROOT, page
from services.api.pages.session import Form, Submitter
from services.api.routes.landscapes import KIND
from services.api.schemas import LandscapeRequest
from services.api.service import Service
from services.jobs.keys import Caller, Scope
from visage_core.documents import parse_yaml
from visage_core.errors import InputError
from visage_core.judges import JUDGES
from visage_core.prompts import BUILT_IN
from visage_core.spec import SpecError

router = APIRouter()


@router.get("/submit")
def empty(request: Request, what: Services, who: Submitter, like: str = "", model: str = "") -> Response:
    """The form: with the defaults, or with the spec of another job."""
    values = values_of({})
    values["model"] = model
    text = ""
    if like:
        row = what.jobs.get(like, who.sees, KIND)
        text = as_yaml(row.spec)
        values |= {"label": row.label or "", "by": "text"}
    return _page(request, what, who, values, text)


@router.post("/submit")
def submit(request: Request, what: Services, who: Submitter, sent: Form, _: Turn) -> Response:
    """Check what was sent, and say what is wrong at the fields, or what it would cost; or take it in."""
    fields = dict(sent)
    values, text = {name: fields.get(name, "") for name in (*FIELDS, "by")}, fields.get("spec", "")
    once = fields.get("once") or secrets.token_urlsafe(16)
    try:
        document = _document(values, text)
        asked = LandscapeRequest.model_validate(
            {"spec": document, "label": values["label"] or None, "priority": values["priority"] or 0}
        )
        if fields.get("action") == "text":
            whole = as_yaml(asked.spec.model_dump(mode="json"))
            return _page(request, what, who, values | {"by": "text"}, whole, once)
        if fields.get("action") == "check":
            estimate = what.estimate(asked.spec, who)
            return _page(request, what, who, values, text, once, estimate=estimate)
        row, _new = what.submit(asked, who, _key(once, asked))
    except ValidationError as error:
        return _page(request, what, who, values, text, once, found=messages(error), status=422)
    except InputError as error:
        said = Message(field_of(error.field), error.field, f"{error.problem}. {error.remedy}.")
        return _page(request, what, who, values, text, once, found=[said], status=422)
    return RedirectResponse(f"{ROOT}/jobs/{row.id}", 303)


def _document(values: dict[str, str], text: str) -> Any:
    """The spec as it was sent. Raises SpecError for a text that is none."""
    if values["by"] != "text":
        return document_of(values)
    try:
        found = parse_yaml(text)
    except ValueError as error:
        raise SpecError("spec", f"it is neither YAML nor JSON: {error}", "Mend the text") from None
    if not isinstance(found, dict):
        raise SpecError("spec", "it holds no settings", "Give a document such as `model: NAME`")
    return found


def _key(once: str, asked: LandscapeRequest) -> str:
    """The idempotency key: a form that is sent twice makes one job, and one that was changed another."""
    digest = hashlib.sha256(json.dumps([once, asked.model_dump(mode="json")]).encode()).hexdigest()
    return f"page-{digest}"


def _page(
    request: Request,
    what: Service,
    who: Caller,
    values: dict[str, str],
    text: str,
    once: str | None = None,
    *,
    estimate: Any = None,
    found: list[Message] | None = None,
    status: int = 200,
) -> Response:
    at_fields: dict[str, list[str]] = {}
    for one in found or []:
        at_fields.setdefault(one.field, []).append(one.text)
    return page(
        request,
        "submit.html",
        status,
        sections=SECTIONS,
        values=values,
        text=text,
        once=once or secrets.token_urlsafe(16),
        estimate=estimate,
        messages=found or [],
        at_fields=at_fields,
        lists={
            "models": what.allowed.models_here(),
            "prompts": [*BUILT_IN, *what.allowed.prompts_here()],
            "judges": list(JUDGES),
            "systems": ["default", "none", "helpful-and-safe", "obedient-agent"],
        },
        admin=who.may(Scope.ADMIN),
    )
