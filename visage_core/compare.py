"""Two models on the same directions and prompts: how their scores differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from visage_core.errors import InputError
from visage_core.grid import ORIGIN
from visage_core.landscape import BASIN_SIZES, Landscape, interval_document, or_none
from visage_core.metrics import MissingPointsError
from visage_core.spec import differences
from visage_core.uncertainty import PERCENT, Difference, Sample, difference

# What may differ between two landscapes that are compared.
FREE = {"model", "resources", "order", "trajectory", "keep_responses"}


class NotComparableError(InputError):
    """Two landscapes that were not measured in the same way."""


def compare(one: Landscape, other: Landscape, level: float | None = None) -> dict[str, Any]:
    """Each score of `one` less that of `other`, with its interval and two-sided p-value, as a JSON document.
    Raises NotComparableError. `level` is as in uncertainty.score.

    The p-values are of single comparisons: who makes many must correct for that. Of a basin's size, `open` is
    how many of the basins reach the end of the range: they may be larger, and differ by more.
    """
    require_same_spec(one, other)
    try:
        found = {
            name: difference(one.sample(measure), other.sample(measure), measure.bounds(one.spec), level)
            for name, measure in one.measures.items()
        }
        if one.reading.name != "perplexity":
            origins = difference(_origin(one), _origin(other), PERCENT, level)
            found[f"{one.reading.name}_at_origin"] = origins
    except MissingPointsError as error:
        raise NotComparableError("landscapes", str(error), "Measure what is left first") from None
    documents = {name: _document(apart) for name, apart in found.items()}
    for name in BASIN_SIZES & found.keys():
        if (document := documents[name]) is not None:
            document["open"] = one.open_basins(name) + other.open_basins(name)
    return documents


def require_same_spec(one: Landscape, other: Landscape) -> None:
    """Raise NotComparableError unless both specs differ in the model alone, and in what changes no result."""
    here, there = (landscape.spec.model_dump(mode="json", exclude=FREE) for landscape in (one, other))
    if changes := differences(here, there):
        raise NotComparableError(
            "landscapes", f"they were measured in different ways: {'; '.join(changes)}", "Measure both alike"
        )


def _origin(landscape: Landscape) -> Sample:
    read = landscape.reading.by_prompt(landscape.rows[ORIGIN], landscape.samples)
    return Sample(np.array([read]), [[0]], [lambda rate: float(rate[0])])


def _document(apart: Difference) -> dict[str, Any] | None:
    document = interval_document(apart.score)
    if document is None:
        return None
    return document | {"p_value": or_none(apart.p_value), "directions": list(apart.score.by_direction)}
