"""A landscape in the size of a word: its mean over the directions, as SVG."""

from __future__ import annotations

import numpy as np

from services.tables import mean
from visage_core.landscape import Landscape
from visage_core.metrics import Floats

WIDTH, HEIGHT, EDGE = 120, 32, 2
MOST_CELLS = 24
# Seen on white and on black alike: the picture does not know the page's colours.
LINE, BASIN = "#3f87d1", "#8a8a8a"


def sparkline(landscape: Landscape) -> str:
    """The curve, with the height of the basin's threshold; of a plane a heat map of few cells."""
    found = mean(landscape)
    top = 100.0
    if landscape.reading.name == "perplexity":
        found = np.log(found)
        top = float(np.nanmax(found)) if np.isfinite(found).any() else 1.0
    if landscape.spec.second_axis is None:
        shapes, width, sharp = _curve(found[0], top, landscape), WIDTH, "auto"
    else:
        shapes, width, sharp = _cells(found, top), HEIGHT, "crispEdges"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" '
        f'viewBox="0 0 {width} {HEIGHT}" shape-rendering="{sharp}">{shapes}</svg>'
    )


def _curve(rate: Floats, top: float, landscape: Landscape) -> str:
    x = np.linspace(EDGE, WIDTH - EDGE, len(rate))
    y = EDGE + (HEIGHT - 2 * EDGE) * (1 - rate / top)
    known = ~np.isnan(rate)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[known], y[known], strict=True))
    threshold = EDGE + (HEIGHT - 2 * EDGE) * (1 - landscape.spec.basin_threshold / 100)
    return (
        f'<line x1="0" x2="{WIDTH}" y1="{threshold:.1f}" y2="{threshold:.1f}" stroke="{BASIN}" '
        f'stroke-width="0.6" stroke-dasharray="2 2"/><polyline points="{points}" fill="none" '
        f'stroke="{LINE}" stroke-width="1.6" stroke-linejoin="round"/>'
    )


def _cells(rate: Floats, top: float) -> str:
    rows, columns = (
        np.unique(np.linspace(0, size - 1, MOST_CELLS).round().astype(int)) for size in rate.shape
    )
    high, wide = HEIGHT / len(rows), HEIGHT / len(columns)
    cells = []
    for down, row in enumerate(rows[::-1]):
        for across, column in enumerate(columns):
            if not np.isnan(value := rate[row, column]):
                share = min(max(value / top, 0.0), 1.0)
                colour = f"hsl({130 * (1 - share):.0f} 55% 48%)"
                cells.append(
                    f'<rect x="{across * wide:.2f}" y="{down * high:.2f}" width="{wide + 0.05:.2f}" '
                    f'height="{high + 0.05:.2f}" fill="{colour}"/>'
                )
    return "".join(cells)
