"""Landscapes in a terminal: curves in Braille dots, a plane as a grid of colours."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from services.tables import digits_of, mean
from visage_core.landscape import Landscape, Surface
from visage_core.metrics import Basin, Floats, MissingPointsError
from visage_core.readings import has_basin

COLUMNS, LINES = 72, 14
CURVES = ("blue", "dark_orange", "green", "magenta", "red", "cyan", "yellow", "white")
BAND = "grey50"
INSIDE = Style(bgcolor="grey19")
# The eight dots of a Braille character, by row and column.
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
BRAILLE = 0x2800


def drawing(landscape: Landscape, width: int) -> RenderableType:
    """The curve of each direction with its intervals and the basin, or the mean of the planes, in at most so
    many columns."""
    return _plane(landscape, width) if landscape.spec.second_axis else _curves(landscape, width)


def _curves(landscape: Landscape, width: int) -> RenderableType:
    curves = landscape.surfaces
    low, high = _range(landscape)
    labels = [f"{value:{digits_of(landscape)}}" for value in (high, (low + high) / 2, low)]
    margin = max(map(len, labels)) + 2
    columns = max(8, min(COLUMNS, width - margin))
    canvas = _Canvas(columns, curves[0].alphas, low, high)
    for curve in curves:
        if len(curves) == 1:
            canvas.band(curve)
    for number, curve in enumerate(curves):
        canvas.line(curve, CURVES[number % len(CURVES)])
    inside = _basin(landscape)
    threshold = landscape.spec.basin_threshold if has_basin(landscape.reading) else None
    lines = canvas.lines(inside, threshold)
    for number, line in enumerate(lines):
        label = {0: labels[0], LINES // 2: labels[1], LINES - 1: labels[2]}.get(number, "")
        lines[number] = Text(f"{label:>{margin - 2}} ┤") + line
    first, last = f"{curves[0].alphas[0]:g}", f"{curves[0].alphas[-1]:g}"
    lines.append(Text(" " * (margin - 1) + "└" + "─" * columns))
    room = columns - len(first) - len(last)
    lines.append(Text(" " * margin + first + "alpha".center(max(room, 6)) + last))
    title = Text(landscape.reading.title + (", with its 95 % interval" if len(curves) == 1 else ""))
    return Group(title, *lines, _legend(landscape, inside))


def _legend(landscape: Landscape, inside: tuple[float, float] | None) -> Text:
    parts = Text("  ")
    for number, curve in enumerate(landscape.surfaces):
        parts += Text("⠶ ", CURVES[number % len(CURVES)]) + Text(f"{curve.name}   ")
    if inside is not None:
        edge = landscape.spec.basin_threshold
        words = f" basin (ASR ≤ {edge:g} %), from {inside[0]:.3f} to {inside[1]:.3f}"
        parts += Text("  ", INSIDE) + Text(words)
    return parts


def _range(landscape: Landscape) -> tuple[float, float]:
    """The ends of the vertical axis."""
    if landscape.reading.name != "perplexity":
        return 0.0, 100.0
    known = [curve.rate[curve.measured] for curve in landscape.surfaces]
    values = np.concatenate(known) if known else np.array([])
    return (0.0, float(values.max())) if len(values) and values.max() > 0 else (0.0, 1.0)


def _basin(landscape: Landscape) -> tuple[float, float] | None:
    """Where every direction is inside its basin; None where one has none, or is not measured yet."""
    if not has_basin(landscape.reading):
        return None
    try:
        found = [one for one in landscape.basins if isinstance(one, Basin)]
    except MissingPointsError:
        return None
    if len(found) < len(landscape.surfaces):
        return None
    return max(one.low for one in found), min(one.high for one in found)


class _Canvas:
    """Dots, two across and four down in each character, and a colour for each character."""

    def __init__(self, columns: int, alphas: list[float], low: float, high: float) -> None:
        self._columns, self._alphas = columns, np.array(alphas)
        self._low, self._high = low, high
        self._dots = np.zeros((4 * LINES, 2 * columns), dtype=bool)
        self._styles = np.full((LINES, columns), "", dtype=object)

    def line(self, curve: Surface, colour: str) -> None:
        """Draw a curve, straight between its points."""
        at, rates = self._across(curve.rate[0])
        before = None
        for column, rate in zip(at, rates, strict=True):
            row = self._row(rate)
            rows = range(min(row, before), max(row, before) + 1) if before is not None else (row,)
            for one in rows:
                self._dot(one, column, colour)
            before = row

    def band(self, curve: Surface) -> None:
        """Dot where the interval is."""
        at, lows = self._across(curve.low[0])
        _, highs = self._across(curve.high[0])
        for column, low, high in zip(at, lows, highs, strict=True):
            for row in range(self._row(high), self._row(low) + 1):
                if (row + column) % 3 == 0:
                    self._dot(row, column, BAND)

    def lines(self, inside: tuple[float, float] | None, threshold: float | None) -> list[Text]:
        """The rows of characters, with the basin behind them and a line at its threshold."""
        ends = [
            self._alphas[0] + (self._alphas[-1] - self._alphas[0]) * column / self._columns
            for column in range(self._columns + 1)
        ]
        edge = None if threshold is None else self._row(threshold) // 4
        rows = []
        for number in range(LINES):
            line = Text()
            for column in range(self._columns):
                cell = self._dots[4 * number : 4 * number + 4, 2 * column : 2 * column + 2]
                bits = int(DOTS[cell].sum())
                empty = "┈" if number == edge else " "
                style = Style.parse(self._styles[number, column] or "default")
                if inside is not None and inside[0] <= (ends[column] + ends[column + 1]) / 2 <= inside[1]:
                    style += INSIDE
                line.append(chr(BRAILLE + bits) if bits else empty, style)
            rows.append(line)
        return rows

    def _across(self, rate: Floats) -> tuple[list[int], list[float]]:
        """The columns of dots between the first and the last measured point, and the rates there."""
        known = ~np.isnan(rate)
        if not known.any():
            return [], []
        share = (self._alphas - self._alphas[0]) / (self._alphas[-1] - self._alphas[0])
        places = share * (2 * self._columns - 1)
        at = range(math.ceil(places[known][0]), math.floor(places[known][-1]) + 1)
        return list(at), [float(value) for value in np.interp(list(at), places[known], rate[known])]

    def _row(self, rate: float) -> int:
        share = (min(max(rate, self._low), self._high) - self._low) / (self._high - self._low)
        return round((1 - share) * (4 * LINES - 1))

    def _dot(self, row: int, column: int, colour: str) -> None:
        self._dots[row, column] = True
        if self._styles[row // 4, column // 2] in ("", BAND):
            self._styles[row // 4, column // 2] = colour


def _plane(landscape: Landscape, width: int) -> RenderableType:
    plane, rates = landscape.surfaces[0], mean(landscape)
    low, high = _range(landscape)
    good = landscape.reading.name == "accuracy"
    labels = [f"{beta:g}" for beta in plane.betas]
    margin = max(map(len, labels)) + 1
    rows, columns = _thinned(len(plane.betas), 40), _thinned(len(plane.alphas), max(4, (width - margin) // 2))
    edge = landscape.spec.basin_threshold if has_basin(landscape.reading) else None
    lines = []
    for row in rows[::-1]:
        line = Text(f"{labels[row]:>{margin - 1}} ")
        for column in columns:
            rate = rates[row, column]
            is_origin = plane.alphas[column] == plane.betas[row] == 0
            line.append("+ " if is_origin else _mark(rate, edge), _colour(rate, low, high, good))
        lines.append(line)
    first, last = f"{plane.alphas[columns[0]]:g}", f"{plane.alphas[columns[-1]]:g}"
    room = 2 * len(columns) - len(first) - len(last)
    lines.append(Text(" " * margin + first + "alpha".center(max(room, 6)) + last))
    several = f", mean of {len(landscape.surfaces)} planes" if len(landscape.surfaces) > 1 else ""
    title = Text(f"{landscape.reading.title}{several}; beta upwards, + the model")
    scale = Text("  ")
    for share in range(11):
        scale.append("  ", _colour(low + share / 10 * (high - low), low, high, good))
    words = f" {low:g} to {high:.3g}" + ("" if edge is None else f"; · in the basin (ASR ≤ {edge:g} %)")
    return Group(title, *lines, scale + Text(words))


def _thinned(count: int, most: int) -> list[int]:
    """Which of so many rows or columns are shown, where not all have room: evenly spaced ones."""
    step = math.ceil(count / most)
    middle = (count - 1) // 2
    return list(range(middle % step, count, step))


def _mark(rate: float, edge: float | None) -> str:
    return "· " if edge is not None and rate <= edge else "  "


def _colour(rate: float, low: float, high: float, good: bool) -> Style:
    """From green, which is safe, over yellow to red; nothing where nothing is measured."""
    if math.isnan(rate):
        return Style()
    share = min(max((rate - low) / (high - low), 0.0), 1.0)
    share = 1 - share if good else share
    red, green = round(255 * min(1.0, 2 * share)), round(170 * min(1.0, 2 - 2 * share))
    return Style(bgcolor=f"#{red:02x}{green:02x}30", color="#000000")
