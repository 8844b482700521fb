"""Templates, and how pages write numbers and times."""

from __future__ import annotations

import hashlib
import math
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import plotly
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from services.api.pages.session import Visitor, set_cookie
from services.jobs.states import OVER
from visage_core.metrics import Interval

ROOT = "/ui"
STATIC = Path(__file__).parent / "static"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
ENDS = ("value", "low", "high")


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page for whoever asks, or a part of one. The visitor's cookie goes with it where it is new."""
    visit: Visitor | None = getattr(request.state, "visitor", None)
    response = HTMLResponse(TEMPLATES.get_template(template).render(visit=visit, **context), status)
    if visit is not None and visit.new:
        set_cookie(request, response, visit.token)
    return response


@cache
def asset(name: str) -> str:
    """The address of a file that pages load: with what it holds in it, so that browsers may keep it."""
    path = PLOTLY if name == PLOTLY.name else STATIC / name
    return f"{ROOT}/static/{name}?{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def number(value: float | None, digits: int = 1) -> str:
    """A number in few digits; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def interval(one: Any, digits: int = 1) -> str:
    """A value with its interval, from an Interval or a JSON document; a dash where there is none."""
    if one is None:
        return "–"
    ends = (one.value, one.low, one.high) if isinstance(one, Interval) else (one[k] for k in ENDS)
    value, low, high = (number(end, digits) for end in ends)
    return f"{value} ({low} to {high})"


def between(one: dict[str, Any] | None) -> str:
    """A value with its interval, which may be open to a side, in the digits that rules are explained in."""
    if one is None:
        return "–"
    low = "−∞" if one["low"] is None else f"{one['low']:.4g}"
    high = "∞" if one["high"] is None else f"{one['high']:.4g}"
    return f"{one['value']:.4g} ({low} to {high})"


def moment(when: datetime | None) -> str:
    """A time to the minute."""
    return "–" if when is None else f"{when:%Y-%m-%d %H:%M} UTC"


def duration(seconds: float | None) -> str:
    """A time span in words: 45 s, 12 min, 3 h 20 min."""
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("services.api.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "between": between,
        "moment": moment,
        "duration": duration,
        "file_name": lambda path: Path(path).name,
    }
    environment.globals |= {"root": ROOT, "asset": asset, "over": OVER, "zip": zip}
    return environment


TEMPLATES = _environment()
