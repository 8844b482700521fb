"""The numbers of a landscape as rows of text, for whatever shows them: a terminal, a page, a report."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from visage_core.landscape import Landscape
from visage_core.metrics import Floats


@dataclass(frozen=True)
class NumberTable:
    """A row for each coordinate of `down`, with a cell for each of `across`."""

    down: str
    across: list[str]
    rows: list[tuple[float, list[str]]]


def curve_table(landscape: Landscape) -> NumberTable:
    """A column for each direction, with intervals, and the mean of coherent responses where there are some.
    Of an adaptive sweep the measured coordinates alone."""
    curves = landscape.surfaces
    coherent: list[Floats] = []
    if landscape.reading.name == "asr" and "asr_coherent" in [one.name for one in landscape.readings]:
        coherent = [curve.rate[0] for curve in landscape.read("asr_coherent").surfaces]
    digits = digits_of(landscape)
    rows = []
    for number, alpha in enumerate(curves[0].alphas):
        if landscape.spec.adaptive and not any(curve.measured[0][number] for curve in curves):
            continue
        cells = [
            rate_text(curve.rate[0][number], curve.low[0][number], curve.high[0][number], digits)
            for curve in curves
        ]
        if coherent:
            mean = sum(rate[number] for rate in coherent) / len(coherent)
            cells.append("-" if math.isnan(mean) else f"{mean:.1f}")
        rows.append((alpha, cells))
    names = [curve.name for curve in curves]
    beside = ["coherent alone" + (", mean" if len(coherent) > 1 else "")] if coherent else []
    return NumberTable("alpha", names + beside, rows)


def plane_table(landscape: Landscape) -> NumberTable:
    """A row for each beta and a column for each alpha: the mean over the directions."""
    digits = digits_of(landscape)
    plane = landscape.surfaces[0]
    cells = [["-" if math.isnan(value) else f"{value:{digits}}" for value in row] for row in mean(landscape)]
    across = [f"{alpha:g}" for alpha in plane.alphas]
    return NumberTable("beta", across, list(zip(plane.betas, cells, strict=True)))


def mean(landscape: Landscape) -> Floats:
    """The mean over the directions, shape (betas, alphas), of those that are measured; NaN where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where none is
        return np.asarray(np.nanmean([one.rate for one in landscape.surfaces], axis=0))


def digits_of(landscape: Landscape) -> str:
    """How its rates are written: percents to a tenth, perplexities in three digits."""
    return ".3g" if landscape.reading.name == "perplexity" else ".1f"


def rate_text(value: float, low: float, high: float, digits: str = ".1f") -> str:
    """A rate with its interval; a dash where nothing is measured."""
    return "-" if math.isnan(value) else f"{value:{digits}} ({low:{digits}} to {high:{digits}})"
