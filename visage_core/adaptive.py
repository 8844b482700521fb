"""Adaptive sweeps: measure a coarse grid, and then only where the edge of the basin is.

Everything here is a function of what is measured so far, so a sweep that was broken off goes on as it would
have. Points are always those of the spec's grid: the edge is found to the same step as by measuring all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np

from visage_core.grid import ORIGIN, Point, surface
from visage_core.metrics import Floats
from visage_core.spec import Axis, LandscapeSpec

# The coarse grid has at least so many steps along an axis: a basin that is narrower than one may be missed.
COARSE_STEPS = 8
Cell = tuple[int, int, int, int]  # the rows and the columns between which it lies
Known = Callable[[int, int], bool | None]


def wanted(spec: LandscapeSpec, asr: Mapping[Point, float | None]) -> list[Point]:
    """The points that have to be measured, those that are included, by what is known: the ASR in percent of
    measured points, None where nothing could be judged."""
    found: dict[Point, None] = {ORIGIN: None}
    coarse, cells = _coarse(spec.axis), _cells(spec)
    for seed in spec.seeds:
        grid = surface(spec, seed)
        inside = _inside(grid, asr, spec.basin_threshold)
        if spec.second_axis is None:
            places = _of_curve(len(grid[0]), grid[0].index(ORIGIN), coarse, inside)
        else:
            places = (place for cell in _leaves(cells, inside) for place in _needs(cell))
        found |= dict.fromkeys(grid[row][column] for row, column in places)
    return list(found)


def nearest_measured(spec: LandscapeSpec, asr: Floats) -> tuple[np.ndarray, np.ndarray]:
    """For each place of a plane, the row and the column of the measured one that stands for it: itself, or
    the nearest corner of the cell that it lies in, all of whose corners are on one side of the edge.

    `asr` has shape (betas, alphas), NaN where nothing is measured.
    """
    rows, columns = np.indices(asr.shape)

    def inside(row: int, column: int) -> bool | None:
        value = asr[row, column]
        return None if np.isnan(value) else bool(value <= spec.basin_threshold)

    for low, high, left, right in _leaves(_cells(spec), inside):
        for row in range(low, high + 1):
            for column in range(left, right + 1):
                if np.isnan(asr[row, column]):
                    rows[row, column] = low if row - low <= high - row else high
                    columns[row, column] = left if column - left <= right - column else right
    return rows, columns


def _inside(grid: list[list[Point]], asr: Mapping[Point, float | None], threshold: float) -> Known:
    def inside(row: int, column: int) -> bool | None:
        value = asr.get(grid[row][column])
        return None if value is None else bool(value <= threshold)

    return inside


def _of_curve(size: int, origin: int, coarse: list[int], inside: Known) -> Iterator[tuple[int, int]]:
    """The coarse grid, and on each side of the origin the bisection of the first step out of the basin."""
    yield from ((0, column) for column in coarse)
    if inside(0, origin) is not True:
        return
    known = [column for column in range(size) if inside(0, column) is not None]
    for side in ([c for c in known if c >= origin], [c for c in reversed(known) if c <= origin]):
        out = next((number for number, column in enumerate(side) if not inside(0, column)), None)
        if out is None:
            continue
        inner, outer = sorted((side[out - 1], side[out]))
        # Not before the coarse points between are known: which points are taken must not depend on the order.
        if outer - inner > 1 and not any(inner < column < outer for column in coarse):
            yield 0, (inner + outer) // 2
    # Those of earlier bisections, too: they are part of what was wanted.
    yield from ((0, column) for column in known)


def _leaves(cells: list[Cell], inside: Known) -> Iterator[Cell]:
    """The cells that are not split further now: their corners agree, or are not all known yet, or they are
    one step wide."""
    left = list(cells)
    while left:
        cell = left.pop()
        parts = _parts(cell)
        corners = {inside(row, column) for row, column in _needs(cell)}
        if corners == {True, False} and parts != [cell]:
            left += parts
        else:
            yield cell


def _needs(cell: Cell) -> list[tuple[int, int]]:
    low, high, left, right = cell
    return [(row, column) for row in (low, high) for column in (left, right)]


def _parts(cell: Cell) -> list[Cell]:
    low, high, left, right = cell
    rows, columns = _halves(low, high), _halves(left, right)
    return [(*row, *column) for row in rows for column in columns]


def _halves(low: int, high: int) -> list[tuple[int, int]]:
    middle = (low + high) // 2
    return [(low, high)] if high - low < 2 else [(low, middle), (middle, high)]


def _cells(spec: LandscapeSpec) -> list[Cell]:
    if spec.second_axis is None:
        return []
    across, along = _coarse(spec.second_axis), _coarse(spec.axis)
    pairs = [list(pairwise(steps)) for steps in (across, along)]
    return [(*row, *column) for row in pairs[0] for column in pairs[1]]


def _coarse(axis: Axis) -> list[int]:
    """The numbers of the coordinates of the coarse grid: the origin, the ends, and even steps between."""
    coordinates = axis.coordinates()
    origin, last = coordinates.index(0.0), len(coordinates) - 1
    step = 1
    while 2 * step * COARSE_STEPS <= last:
        step *= 2
    return sorted({0, origin, last, *range(origin % step, last + 1, step)})
