"""The report of a results folder: its summary and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from visage_core.landscape import SUMMARY_VERSION, Landscape
from visage_core.plots import Style, figure_name, figure_styles, landscape_figure, render
from visage_core.results import Results, ResultsError
from visage_core.spec import LandscapeSpec, parse_spec

CALIBRATION = "calibration.json"  # how the run's judges agree with people, where that was looked at


def load_landscapes(out: Path) -> list[Landscape]:
    """The landscapes in a results folder, one a prompt set, finished or not. Raises ResultsError."""
    results = Results(out)
    document = results.read_json("spec.json")
    if document is None:
        raise ResultsError("out", f"{out} holds no landscape", "Give the folder of a `visage run`")
    spec, table = parse_spec(document), results.points()
    return [Landscape(spec, table, number) for number in range(len(spec.prompts))]


def summarize(out: Path) -> dict[str, Any]:
    """The summary of a results folder, finished or not. Raises ResultsError."""
    landscapes = load_landscapes(out)
    results = Results(out)
    return {
        "summary_version": SUMMARY_VERSION,
        "landscapes": [landscape.summary() for landscape in landscapes],
        "run": results.read_json("run.json") or {"state": "working", "failed": []},
        "inputs": results.read_json("inputs.json"),
        "geometry": results.read_json("geometry.json"),
        "calibration": results.read_json(CALIBRATION),
        "spec": landscapes[0].spec.model_dump(mode="json"),
    }


def write_summary(out: Path) -> None:
    """Write summary.json of a results folder, finished or not. Raises ResultsError."""
    Results(out).write_json("summary.json", summarize(out))


def draw(out: Path, summary: dict[str, Any], style: Style = "heatmap") -> list[go.Figure]:
    """The figures of a results folder, one a prompt set; of a plane in a style. Raises ResultsError."""
    return [
        landscape_figure(landscape, _title(landscape, scores), style, summary.get("geometry"))
        for landscape, scores in zip(load_landscapes(out), summary["landscapes"], strict=True)
    ]


def write_figures(out: Path) -> None:
    """Draw the landscapes of a results folder whose summary is written. Raises ResultsError."""
    summary = Results(out).read_json("summary.json")
    assert summary is not None
    for style in figure_styles(parse_spec(summary["spec"])):
        for number, figure in enumerate(draw(out, summary, style)):
            write_figure(figure, out, figure_name(number, style))


def write_figure(figure: go.Figure, out: Path, name: str) -> None:
    """Write a figure into a folder, as a page and as a picture."""
    (out / f"{name}.html").write_bytes(render(figure, "html"))
    (out / f"{name}.png").write_bytes(render(figure, "png"))


def _title(landscape: Landscape, summary: dict[str, Any]) -> str:
    spec = landscape.spec
    title = _model_name(spec)
    if len(spec.prompts) > 1:
        title += f", {landscape.prompts.name}"
    score = summary["visage"]
    if score is not None:
        return f"{title}: VISAGE {score['value']:.1f} (95 %: {score['low']:.1f} to {score['high']:.1f})"
    return f"{title}: {summary['points']['measured']} of {summary['points']['expected']} points"


def _model_name(spec: LandscapeSpec) -> str:
    name = Path(spec.model).name
    return f"{name} → {spec.axis.direction.label}" if spec.axis.direction.label else name
