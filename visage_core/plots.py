"""Figures of a landscape, by plotly."""

from __future__ import annotations

import html
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from visage_core.landscape import Landscape, Surface
from visage_core.metrics import Basin, Floats, Interval, MissingPointsError
from visage_core.pictures import SIZE
from visage_core.readings import READINGS, Reading, has_basin
from visage_core.roc import Roc
from visage_core.spec import Axis, LandscapeSpec

Style = Literal["heatmap", "contour", "surface"]
STYLES: tuple[Style, ...] = ("heatmap", "contour", "surface")
DARK = "#222222"
COLOURS = ("#3b6fb6", "#d1733a", "#4f9d69", "#8e6bb0", "#b5547a", "#6b7780", "#b59a2c", "#3aa3a8")
SAFE = "rgba(79, 157, 105, 0.13)"
VERDICTS = {"pass": "#1d6b35", "inconclusive": "#b59a2c", "fail": "#a3221b"}
ROW_HEIGHT = 28
PLANES_ABREAST, PLANE_HEIGHT = 3, 340
COHERENT = READINGS["asr_coherent"]


def landscape_figure(
    landscape: Landscape,
    title: str,
    style: Style = "heatmap",
    geometry: dict[str, Any] | None = None,
) -> go.Figure:
    """What is read off the answers, as the ASR, against the coordinate: a line and a 95 % band for each
    direction, their mean, the mean of the coherent ASR, and the basin.

    Of a plane, averaged over the directions, a heat map with the basin's edge, a contour map or a surface in
    3D. Models that lie on the axes are marked; so is the trajectory, where `geometry` (as in geometry.json)
    has the places of its checkpoints.
    """
    places = [] if geometry is None else geometry["directions"][0]["places"]
    if landscape.spec.second_axis is None:
        figure = _curve_figure(landscape, places)
    else:
        figure = _plane_figure(landscape, places, style)
    _lay_out(figure, title)
    return figure


def figure_name(prompt_set: int, style: Style = "heatmap") -> str:
    """What a figure's files are called: landscape, landscape-2-contour, ..."""
    name = "landscape" if prompt_set == 0 else f"landscape-{prompt_set + 1}"
    return name if style == "heatmap" else f"{name}-{style}"


def comparison_figure(landscapes: Sequence[Landscape], names: Sequence[str], title: str) -> go.Figure:
    """Several landscapes of one kind beside each other. Curves on one pair of axes: the mean over the
    directions of each, and their range. Planes as heat maps of those means, on one scale of colours and axes
    of one range."""
    several = any(len(landscape.spec.seeds) > 1 for landscape in landscapes)
    if landscapes[0].spec.second_axis is None:
        figure = _curves_together(landscapes, names)
        _lay_out(figure, f"{title}: means over directions, and their ranges" if several else title)
    else:
        figure = _planes_abreast(landscapes, names)
        _lay_out(figure, f"{title}: means over directions" if several else title)
        figure.update_layout(legend={"yref": "container", "y": 0.01, "yanchor": "bottom"})
    return figure


@dataclass(frozen=True)
class Standing:
    """How a checkpoint stands: its score, if it has one, and its verdict. Those of one `series` follow each
    other."""

    name: str
    series: str
    step: int | None
    score: Interval | None
    verdict: str


def audit_figure(standings: Sequence[Standing], score: str, title: str) -> go.Figure:
    """The scores of checkpoints with their 95 % intervals: against the training step where all have one, with
    a cross where there is no score, else a row for each."""
    along = all(one.step is not None for one in standings)
    scored = [(one, one.score) for one in standings if one.score is not None]
    figure = go.Figure()
    for series in dict.fromkeys(one.series for one, _ in scored if along):
        own = sorted((one.step or 0, found.value) for one, found in scored if one.series == series)
        x, y = zip(*own, strict=True)
        line = {"color": "#8a8a8a", "width": 1}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    for verdict, colour in VERDICTS.items():
        own_kind = [(one, found) for one, found in scored if one.verdict == verdict]
        values = [found.value for _, found in own_kind]
        reach = {
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.value for _, found in own_kind],
            "arrayminus": [found.value - found.low for _, found in own_kind],
            "color": colour,
        }
        if along:
            axes = {"x": [one.step for one, _ in own_kind], "y": values, "error_y": reach}
        else:
            axes = {"x": values, "y": [_plain(one.name) for one, _ in own_kind], "error_x": reach}
        if own_kind:
            figure.add_scatter(
                **axes,
                mode="markers",
                name=verdict,
                marker={"color": colour, "size": 9},
                text=[_plain(one.name) for one, _ in own_kind],
                hovertemplate="%{text}<br>%{x}, %{y}",
            )
    if along:
        _lay_out_steps(figure, standings)
        figure.update_yaxes(title=score, zeroline=False)
    else:
        names = [_plain(one.name) for one, _ in scored]
        figure.update_xaxes(title=score, zeroline=False)
        figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
        figure.update_layout(height=max(SIZE[1], 200 + ROW_HEIGHT * len(names)))
    _lay_out(figure, title)
    return figure


def _lay_out_steps(figure: go.Figure, standings: Sequence[Standing]) -> None:
    """Have room for all steps, and a cross at the bottom for each that has no score."""
    steps = [one.step or 0 for one in standings]
    margin = max(1, max(steps) - min(steps)) / 20
    figure.update_xaxes(
        title="training step", zeroline=False, range=[min(steps) - margin, max(steps) + margin]
    )
    for one in standings:
        if one.score is None:
            figure.add_annotation(
                x=one.step,
                y=0,
                yref="paper",
                yanchor="bottom",
                text="×",
                font={"color": VERDICTS[one.verdict], "size": 22},
                hovertext=f"{_plain(one.name)}: no score",
                showarrow=False,
            )


def roc_figure(found: Mapping[str, Roc], at: Mapping[str, float], title: str) -> go.Figure:
    """ROC curves, with a mark at a threshold where there is one."""
    figure = go.Figure()
    for number, (name, roc) in enumerate(found.items()):
        colour = COLOURS[number % len(COLOURS)]
        x, y = roc.curve()
        figure.add_scatter(x=x, y=y, name=name, mode="lines", line={"color": colour, "width": 2})
        if name in at:
            figure.add_scatter(
                x=[roc.false_alarms(at[name]).value],
                y=[roc.sensitivity(at[name]).value],
                mode="markers",
                marker={"color": colour, "size": 10},
                showlegend=False,
                hovertemplate=f"{name}, the threshold<extra></extra>",
            )
    chance = {"color": "#8a8a8a", "width": 1, "dash": "dot"}
    figure.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line=chance, showlegend=False, hoverinfo="skip")
    figure.update_xaxes(title="coherent texts called gibberish (%)", range=[-1, 101], zeroline=False)
    figure.update_yaxes(title="gibberish found (%)", range=[-3, 103], zeroline=False)
    _lay_out(figure, title)
    return figure


def figure_styles(spec: LandscapeSpec) -> tuple[Style, ...]:
    """The styles in which a landscape is drawn."""
    return STYLES if spec.second_axis is not None else STYLES[:1]


def _plain(text: str) -> str:
    """Text that is drawn as it is: plotly takes tags in it for markup, and links for links."""
    return html.escape(text, quote=False)


def _lay_out(figure: go.Figure, title: str) -> None:
    figure.update_layout(
        title={"text": _plain(title), "x": 0.5, "xanchor": "center"},
        template="plotly_white",
        font={"family": "Helvetica, Arial, sans-serif", "size": 14},
        legend={"orientation": "h", "y": -0.2, "x": 0.5, "xanchor": "center"},
        margin={"l": 70, "r": 30, "t": 80, "b": 90},
    )


def _curves_together(landscapes: Sequence[Landscape], names: Sequence[str]) -> go.Figure:
    figure = go.Figure()
    for number, (landscape, name) in enumerate(zip(landscapes, names, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        curves = landscape.surfaces
        known = np.all([curve.measured[0] for curve in curves], axis=0)
        x = np.array(curves[0].alphas)[known]
        rates = np.array([curve.rate[0][known] for curve in curves])
        if len(curves) > 1:
            _add_band(figure, x, rates.min(axis=0), rates.max(axis=0), colour)
        figure.add_scatter(
            x=x, y=rates.mean(axis=0), name=_plain(name), mode="lines+markers", line={"color": colour}
        )
    titles = {_axis_title(landscape.spec.axis, "α") for landscape in landscapes}
    x_title = titles.pop() if len(titles) == 1 else "α, from the model (0) to the other one (1)"
    figure.update_xaxes(title=x_title, zeroline=False)
    _lay_out_rate(figure, landscapes[0])
    return figure


def _planes_abreast(landscapes: Sequence[Landscape], names: Sequence[str]) -> go.Figure:
    reading = landscapes[0].reading
    low, high = _ends_of(reading)
    columns = min(len(landscapes), PLANES_ABREAST)
    rows = -(-len(landscapes) // columns)
    # By plotly's own grid, which may be put otherwise where there is less room.
    figure = go.Figure(
        layout={
            "grid": {"rows": rows, "columns": columns, "pattern": "independent"},
            "coloraxis": {
                "colorscale": _colour_scale(reading),
                "colorbar": {
                    "title": {"text": _short_title(reading), "side": "right"},
                    "lenmode": "pixels",
                    "len": 300,
                    "y": 1,
                    "yanchor": "top",
                },
                "cmin": low,
                "cmax": high,
            },
            "height": max(SIZE[1], rows * PLANE_HEIGHT + 140),
        }
    )
    edges: set[float] = set()
    beside = ""
    for number, (landscape, name) in enumerate(zip(landscapes, names, strict=True)):
        spec = landscape.spec
        assert spec.second_axis is not None
        end = str(number + 1) if number else ""
        _add_small_plane(figure, landscape, name, end, edge_is_named=spec.basin_threshold in edges)
        edges.add(spec.basin_threshold)
        down = _axis_title(spec.second_axis, "β")
        is_told = number % columns and down == beside  # by its neighbour
        beside = down
        for axis, title in (("xaxis", _axis_title(spec.axis, "α")), ("yaxis", "" if is_told else down)):
            tied = {"matches": axis[0]} if number else {}
            figure.update_layout({f"{axis}{end}": {"title": {"text": title}} | tied})
    return figure


def _add_small_plane(
    figure: go.Figure, landscape: Landscape, name: str, end: str, edge_is_named: bool
) -> None:
    """A plane on the axes of this end, with its edge and its name."""
    axes = {"xaxis": f"x{end}", "yaxis": f"y{end}"}
    plane, mean = landscape.surfaces[0], _plane_mean(landscape)
    figure.add_heatmap(
        x=plane.alphas,
        y=plane.betas,
        z=mean,
        coloraxis="coloraxis",
        name=_plain(name),
        hovertemplate="α = %{x:g}, β = %{y:g}: %{z:.1f}",
        **axes,
    )
    if has_basin(landscape.reading):
        group = f"{landscape.spec.basin_threshold:g}"
        legend = {"showlegend": not edge_is_named, "legendgroup": group, "hoverinfo": "skip"}
        _add_edge(figure, plane.alphas, plane.betas, mean, landscape.spec, **legend, **axes)
    figure.add_annotation(
        text=_plain(name),
        xref=f"x{end} domain",
        yref=f"y{end} domain",
        x=0.5,
        y=1,
        yanchor="bottom",
        showarrow=False,
    )


def _curve_figure(landscape: Landscape, places: list[dict[str, Any]]) -> go.Figure:
    figure = go.Figure()
    curves = landscape.surfaces
    for number, curve in enumerate(curves):
        _add_curve(figure, curve, COLOURS[number % len(COLOURS)], band=len(curves) <= 3)
    if len(curves) > 1 and not landscape.spec.adaptive:
        figure.add_scatter(x=curves[0].alphas, y=_mean(curves), name="mean", line={"color": DARK, "width": 3})
    if landscape.reading.name == "asr" and COHERENT in landscape.readings and not landscape.spec.adaptive:
        figure.add_scatter(
            x=curves[0].alphas,
            y=_mean(landscape.read(COHERENT.name).surfaces),
            name="coherent alone" if len(curves) == 1 else "mean, coherent alone",
            line={"color": DARK, "width": 2, "dash": "dash"},
        )
    known = curves[0].measured[0]
    if places and known.any():
        x = [place["alpha"] for place in places]
        y = np.interp(x, np.array(curves[0].alphas)[known], curves[0].rate[0][known])
        figure.add_scatter(x=x, y=y, **_trajectory(places))
    figure.update_xaxes(title=_axis_title(landscape.spec.axis, "α"), zeroline=False)
    _lay_out_rate(figure, landscape)
    if has_basin(landscape.reading):
        _shade_basin(figure, landscape)
    return figure


def _lay_out_rate(figure: go.Figure, landscape: Landscape) -> None:
    """Name the axis of what is read off the answers, and mark the threshold of a basin."""
    reading = landscape.reading
    if has_basin(reading):
        threshold = landscape.spec.basin_threshold
        figure.add_hline(y=threshold, line={"color": "#8a8a8a", "width": 1, "dash": "dot"})
    if reading.name == "perplexity":
        figure.update_yaxes(title=reading.title, type="log")
    else:
        figure.update_yaxes(title=reading.title, range=[-3, 103], zeroline=False)


def _mean(curves: Sequence[Surface]) -> Floats:
    """The mean over directions; NaN where one is not measured."""
    return np.asarray(np.mean([curve.rate[0] for curve in curves], axis=0))


def _plane_figure(landscape: Landscape, places: list[dict[str, Any]], style: Style) -> go.Figure:
    spec = landscape.spec
    assert spec.second_axis is not None
    plane, mean = landscape.surfaces[0], _plane_mean(landscape)
    reading = landscape.reading
    short = _short_title(reading)
    x, y = plane.alphas, plane.betas
    scale = {"colorscale": _colour_scale(reading), "colorbar": {"title": short}}
    hover = f"α = %{{x:g}}, β = %{{y:g}}<br>{short}: %{{z:.1f}}<extra></extra>"
    low, high = _ends_of(reading)
    figure = go.Figure()
    if style == "surface":
        figure.add_surface(
            x=x, y=y, z=mean, cmin=low, cmax=high, connectgaps=spec.adaptive, hovertemplate=hover, **scale
        )
    elif style == "contour":
        levels = {"showlabels": True} | ({"start": 0, "end": 100, "size": 10} if high else {})
        figure.add_contour(
            x=x, y=y, z=mean, contours=levels, connectgaps=spec.adaptive, hovertemplate=hover, **scale
        )
    else:
        figure.add_heatmap(x=x, y=y, z=mean, zmin=low, zmax=high, hovertemplate=hover, **scale)
        if has_basin(reading):
            _add_edge(figure, x, y, mean, spec)
    for trace in _marks(spec, places):
        _add_mark(figure, trace, style, x, y, mean)
    titles = (_axis_title(spec.axis, "α"), _axis_title(spec.second_axis, "β"))
    if style == "surface":
        axes = dict(zip(("xaxis", "yaxis"), ({"title": {"text": text}} for text in titles), strict=True))
        figure.update_layout(scene=axes | {"zaxis": {"title": {"text": short}, "range": [low, high]}})
    else:
        figure.update_xaxes(title=titles[0])
        figure.update_yaxes(title=titles[1])
    return figure


def _plane_mean(landscape: Landscape) -> Floats:
    """The mean over the directions; of an adaptive sweep over those that are measured."""
    rates = np.array([plane.rate for plane in landscape.surfaces])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where nothing is measured
        return np.asarray(np.nanmean(rates, axis=0) if landscape.spec.adaptive else np.mean(rates, axis=0))


def _short_title(reading: Reading) -> str:
    return reading.title.replace("attack success rate", "ASR")


def _colour_scale(reading: Reading) -> str:
    return "RdYlGn" if reading.name == "accuracy" else "RdYlGn_r"


def _ends_of(reading: Reading) -> tuple[int | None, int | None]:
    """What a reading is between; None where that is open."""
    return (None, None) if reading.name == "perplexity" else (0, 100)


def _add_edge(
    figure: go.Figure, x: list[float], y: list[float], mean: Floats, spec: LandscapeSpec, **more: Any
) -> None:
    """Draw the edge of the basin."""
    figure.add_contour(
        x=x,
        y=y,
        z=mean,
        contours={"start": spec.basin_threshold, "end": spec.basin_threshold, "coloring": "none"},
        connectgaps=spec.adaptive,
        line={"color": DARK, "width": 2},
        showscale=False,
        name=f"ASR = {spec.basin_threshold:g} %",
        **{"showlegend": True, **more},
    )


def _marks(spec: LandscapeSpec, places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models that lie on the plane, and the checkpoints of a trajectory, as points of a scatter trace."""
    assert spec.second_axis is not None
    marks: list[dict[str, Any]] = [
        {"x": [0], "y": [0], "name": "the model", "marker": {"color": DARK, "size": 9}}
    ]
    second_is_moved = spec.second_axis.orthogonal  # then its model is not on the plane any more
    ends = [(spec.axis, 1, 0)] + ([] if second_is_moved else [(spec.second_axis, 0, 1)])
    for axis, x, y in ends:
        if axis.direction.ends_at_model and axis.high >= 1:
            marker = {"color": DARK, "size": 10, "symbol": "diamond" if x else "square"}
            marks.append({"x": [x], "y": [y], "name": _plain(axis.direction.label), "marker": marker})
    if places:
        at = {axis: [place[name] for place in places] for axis, name in (("x", "alpha"), ("y", "beta"))}
        marks.append(at | _trajectory(places))
    return [{"mode": "markers", **mark} for mark in marks]


def _add_mark(
    figure: go.Figure, trace: dict[str, Any], style: Style, x: list[float], y: list[float], mean: Floats
) -> None:
    if style != "surface":
        figure.add_scatter(**trace)
        return
    from scipy.interpolate import RegularGridInterpolator

    filled = np.nan_to_num(mean, nan=100.0)
    heights = RegularGridInterpolator((y, x), filled, bounds_error=False, fill_value=None)
    trace["marker"] = trace["marker"] | {"size": 5}
    figure.add_scatter3d(z=heights(np.column_stack([trace["y"], trace["x"]])) + 2, **trace)


def _trajectory(places: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "mode": "lines+markers",
        "name": "trajectory",
        "line": {"color": "#1d4f91", "width": 2},
        "marker": {"color": "#1d4f91", "size": 7},
        "text": [
            f"{_plain(Path(place['name']).name)}, off the plane by {place['off']:.0%}" for place in places
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _axis_title(axis: Axis, letter: str) -> str:
    label = _plain(axis.direction.label)
    if axis.direction.kind == "interpolation" and axis.direction.ends_at_model:
        return f"{letter}, from the model (0) to {label} (1)"
    return f"perturbation {letter}" + (f" along {label}" if label else "")


def _add_curve(figure: go.Figure, curve: Surface, colour: str, band: bool) -> None:
    measured = ~np.isnan(curve.rate[0])
    x = np.array(curve.alphas)[measured]
    low, high = curve.low[0][measured], curve.high[0][measured]
    if band and len(x):
        _add_band(figure, x, low, high, colour)
    figure.add_scatter(
        x=x,
        y=curve.rate[0][measured],
        name=curve.name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="α = %{x:g}<br>%{y:.1f} (95 %: %{customdata[0]:.1f} to %{customdata[1]:.1f})",
    )


def _add_band(figure: go.Figure, x: Floats, low: Floats, high: Floats, colour: str) -> None:
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line={"width": 0},
        showlegend=False,
        hoverinfo="skip",
    )


def _shade_basin(figure: go.Figure, landscape: Landscape) -> None:
    """Shade where every direction is inside its basin."""
    try:
        basins = landscape.basins
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
