"""Figures of a landscape, by plotly."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from visage_core.landscape import Curve, Landscape
from visage_core.metrics import MissingPointsError
from visage_core.spec import InterpolationDirection

COLOURS = ("#3b6fb6", "#d1733a", "#4f9d69", "#8e6bb0", "#b5547a", "#6b7780", "#b59a2c", "#3aa3a8")
SAFE = "rgba(79, 157, 105, 0.13)"
SIZE = (900, 520)


def landscape_figure(landscape: Landscape, title: str) -> go.Figure:
    """ASR against the coordinate: a line and a 95 % band for each direction, their mean, and the basin."""
    figure = go.Figure()
    curves = landscape.curves
    for number, curve in enumerate(curves):
        _add_curve(figure, curve, COLOURS[number % len(COLOURS)], band=len(curves) <= 3)
    if len(curves) > 1:
        mean = np.mean([curve.asr for curve in curves], axis=0)
        figure.add_scatter(
            x=curves[0].coordinates, y=mean, name="mean", line={"color": "#222222", "width": 3}
        )
    threshold = landscape.spec.basin_threshold
    figure.add_hline(y=threshold, line={"color": "#8a8a8a", "width": 1, "dash": "dot"})
    _shade_basin(figure, landscape)
    interpolation = isinstance(landscape.spec.axis.direction, InterpolationDirection)
    along = "α, from the model (0) to the other checkpoint (1)" if interpolation else "perturbation α"
    figure.update_layout(
        title={"text": title, "x": 0.5, "xanchor": "center"},
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 14},
        xaxis={"title": along, "zeroline": False},
        yaxis={"title": "attack success rate (%)", "range": [-3, 103], "zeroline": False},
        legend={"orientation": "h", "y": -0.2, "x": 0.5, "xanchor": "center"},
        margin={"l": 70, "r": 30, "t": 80, "b": 90},
    )
    return figure


def write_figure(figure: go.Figure, html: Path, png: Path) -> None:
    """Write the figure as a page that needs no connection, and as a picture."""
    figure.write_html(html, include_plotlyjs=True)
    with warnings.catch_warnings():
        # kaleido 0.2 is deprecated by plotly, and the only one that needs no Chrome on the machine.
        warnings.simplefilter("ignore", DeprecationWarning)
        width, height = SIZE
        figure.write_image(png, width=width, height=height, scale=2)


def _add_curve(figure: go.Figure, curve: Curve, colour: str, band: bool) -> None:
    measured = ~np.isnan(curve.asr)
    x = np.array(curve.coordinates)[measured]
    low, high = curve.low[measured], curve.high[measured]
    if band and len(x):
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.15,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        x=x,
        y=curve.asr[measured],
        name=curve.name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="α = %{x:g}<br>ASR %{y:.1f} % (95 %: %{customdata[0]:.1f} to %{customdata[1]:.1f})",
    )


def _shade_basin(figure: go.Figure, landscape: Landscape) -> None:
    """Shade where every direction is inside its basin."""
    try:
        basins = [landscape.basin(curve) for curve in landscape.curves]
    except MissingPointsError:
        return
    found = [basin for basin in basins if basin is not None]
    if len(found) == len(basins):
        low, high = max(basin.low for basin in found), min(basin.high for basin in found)
        threshold = landscape.spec.basin_threshold
        figure.add_vrect(
            x0=low,
            x1=high,
            fillcolor=SAFE,
            line_width=0,
            layer="below",
            annotation_text=f"basin (ASR ≤ {threshold:g} %)",
            annotation_position="top",
        )
