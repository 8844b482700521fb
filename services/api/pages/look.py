"""How a landscape is looked at: which reading of which prompts, drawn how, and which point of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import Depends, Query

from visage_core.grid import point_at
from visage_core.landscape import Landscape
from visage_core.measured import Measured, load
from visage_core.metrics import Interval
from visage_core.plots import Style
from visage_core.results import Results


@dataclass(frozen=True)
class Look:
    """What the address of a page says; all of it has defaults, and `None` of alpha means no point."""

    prompts: int = 0
    reading: str | None = None
    judge: int = 0
    style: Style = "heatmap"
    alpha: float | None = None
    beta: float = 0.0

    def query(self, **changes: Any) -> str:
        """The same with changes, as the query of an address, without what is as by default."""
        usual = asdict(Look())
        said = {
            name: value for name, value in asdict(replace(self, **changes)).items() if value != usual[name]
        }
        return urlencode(said)


def look(
    prompts: Annotated[int, Query(ge=0, le=63)] = 0,
    reading: Annotated[str, Query(max_length=40)] = "",
    judge: Annotated[int, Query(ge=0, le=7)] = 0,
    style: Literal["heatmap", "contour", "surface"] = "heatmap",
    alpha: Annotated[str, Query(max_length=40)] = "",
    beta: Annotated[float, Query(allow_inf_nan=False)] = 0.0,
) -> Look:
    """What the address says. A choice that is left empty in a form is as by default."""
    at = float(alpha) if _is_number(alpha) else None
    return Look(prompts, reading or None, judge, style, at, beta)


Looked = Annotated[Look, Depends(look)]


@dataclass(frozen=True)
class PlaceRow:
    """What was measured at a point along one direction; `row` as in results.POINTS, None where it is not
    measured yet."""

    seed: int | None
    name: str
    row: dict[str, Any] | None
    rates: list[Interval | None]


@dataclass(frozen=True)
class Place:
    """A point of a landscape, for all of its directions."""

    alpha: float
    beta: float
    readings: list[str]
    rows: list[PlaceRow]


def measured_in(folder: Path) -> Measured | None:
    """What is measured in a results folder; None where nothing was begun."""
    return None if Results(folder).read_json("spec.json") is None else load(folder)


def place(found: Measured, at: Look) -> Place:
    """The point nearest to that of a look."""
    assert at.alpha is not None
    landscape = found.drawn(at.prompts, judge=at.judge)
    alpha, beta = nearest(landscape, at.alpha, at.beta)
    rows = []
    for curve in landscape.surfaces:
        point = point_at(landscape.spec, curve.seed, alpha, beta)
        row = landscape.rows.get(point)
        rates = [_rate(row, reading.name) for reading in landscape.readings]
        rows.append(PlaceRow(point.seed, curve.name, row, rates))
    return Place(alpha, beta, [reading.title for reading in landscape.readings], rows)


def nearest(landscape: Landscape, alpha: float, beta: float) -> tuple[float, float]:
    """The coordinates of the landscape nearest to some."""
    curve = landscape.surfaces[0]
    near = (
        coordinates[int(np.argmin(np.abs(np.array(coordinates) - value)))]
        for coordinates, value in ((curve.alphas, alpha), (curve.betas, beta))
    )
    return next(near), next(near)


def _rate(row: dict[str, Any] | None, name: str) -> Interval | None:
    if row is None or row[name] is None:
        return None
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
