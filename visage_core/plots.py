"""Figures of a landscape, by plotly."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from visage_core.landscape import Landscape, Surface
from visage_core.metrics import Basin, MissingPointsError
from visage_core.spec import Axis, InterpolationDirection

COLOURS = ("#3b6fb6", "#d1733a", "#4f9d69", "#8e6bb0", "#b5547a", "#6b7780", "#b59a2c", "#3aa3a8")
SAFE = "rgba(79, 157, 105, 0.13)"
SIZE = (900, 520)
_drawing = threading.Lock()  # one process draws all pictures


def landscape_figure(landscape: Landscape, title: str) -> go.Figure:
    """ASR against the coordinate: a line and a 95 % band for each direction, their mean, and the basin.
    Of a plane, a heat map with the basin's edge, averaged over the directions."""
    plane = landscape.spec.second_axis is not None
    figure = _plane_figure(landscape) if plane else _curve_figure(landscape)
    figure.update_layout(
        title={"text": title, "x": 0.5, "xanchor": "center"},
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 14},
        legend={"orientation": "h", "y": -0.2, "x": 0.5, "xanchor": "center"},
        margin={"l": 70, "r": 30, "t": 80, "b": 90},
    )
    return figure


def render(figure: go.Figure, kind: Literal["html", "png", "svg"]) -> bytes:
    """The figure as a page that needs no connection, or as a picture."""
    if kind == "html":
        return bytes(figure.to_html(include_plotlyjs=True).encode())
    with warnings.catch_warnings(), _drawing:
        # kaleido 0.2 is deprecated by plotly, and the only one that needs no Chrome on the machine.
        warnings.simplefilter("ignore", DeprecationWarning)
        width, height = SIZE
        return bytes(figure.to_image(kind, width=width, height=height, scale=2 if kind == "png" else 1))


def _curve_figure(landscape: Landscape) -> go.Figure:
    figure = go.Figure()
    curves = landscape.surfaces
    for number, curve in enumerate(curves):
        _add_curve(figure, curve, COLOURS[number % len(COLOURS)], band=len(curves) <= 3)
    if len(curves) > 1:
        mean = np.mean([curve.asr[0] for curve in curves], axis=0)
        figure.add_scatter(x=curves[0].alphas, y=mean, name="mean", line={"color": "#222222", "width": 3})
    threshold = landscape.spec.basin_threshold
    figure.add_hline(y=threshold, line={"color": "#8a8a8a", "width": 1, "dash": "dot"})
    _shade_basin(figure, landscape)
    figure.update_xaxes(title=_axis_title(landscape.spec.axis, "α"), zeroline=False)
    figure.update_yaxes(title="attack success rate (%)", range=[-3, 103], zeroline=False)
    return figure


def _plane_figure(landscape: Landscape) -> go.Figure:
    assert landscape.spec.second_axis is not None
    planes = landscape.surfaces
    mean = np.mean([plane.asr for plane in planes], axis=0)
    threshold = landscape.spec.basin_threshold
    x, y = planes[0].alphas, planes[0].betas
    figure = go.Figure()
    figure.add_heatmap(
        x=x,
        y=y,
        z=mean,
        zmin=0,
        zmax=100,
        colorscale="RdYlGn_r",
        colorbar={"title": "ASR (%)"},
        hovertemplate="α = %{x:g}, β = %{y:g}<br>ASR %{z:.1f} %<extra></extra>",
    )
    edge = {"start": threshold, "end": threshold, "coloring": "none"}
    figure.add_contour(
        x=x, y=y, z=mean, contours=edge, line={"color": "#222222", "width": 2}, showscale=False, name="basin"
    )
    figure.add_scatter(x=[0], y=[0], mode="markers", marker={"color": "#222222", "size": 9}, name="the model")
    figure.update_xaxes(title=_axis_title(landscape.spec.axis, "α"))
    figure.update_yaxes(title=_axis_title(landscape.spec.second_axis, "β"))
    return figure


def _axis_title(axis: Axis, letter: str) -> str:
    if isinstance(axis.direction, InterpolationDirection):
        return f"{letter}, from the model (0) to {Path(axis.direction.to).name} (1)"
    return f"perturbation {letter}"


def _add_curve(figure: go.Figure, curve: Surface, colour: str, band: bool) -> None:
    measured = ~np.isnan(curve.asr[0])
    x = np.array(curve.alphas)[measured]
    low, high = curve.low[0][measured], curve.high[0][measured]
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
        y=curve.asr[0][measured],
        name=curve.name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="α = %{x:g}<br>ASR %{y:.1f} % (95 %: %{customdata[0]:.1f} to %{customdata[1]:.1f})",
    )


def _shade_basin(figure: go.Figure, landscape: Landscape) -> None:
    """Shade where every direction is inside its basin."""
    try:
        basins = [landscape.basin(curve) for curve in landscape.surfaces]
    except MissingPointsError:
        return
    found = [basin for basin in basins if isinstance(basin, Basin)]
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
