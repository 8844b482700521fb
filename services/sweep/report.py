"""The report of a results folder: its summary and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from visage_core.landscape import SUMMARY_VERSION, Landscape
from visage_core.measured import load
from visage_core.pictures import render
from visage_core.plots import Style, figure_name, figure_styles
from visage_core.provenance import measured_by
from visage_core.repeats import Repeats
from visage_core.results import Results
from visage_core.spec import parse_spec

CALIBRATION = "calibration.json"  # how the run's judges agree with people, where that was looked at


def load_landscapes(out: Path) -> list[Landscape]:
    """The landscapes in a results folder, one a prompt set, finished or not. Raises ResultsError."""
    found = load(out)
    return [found.landscape(number) for number in range(len(found.spec.prompts))]


def summarize(out: Path) -> dict[str, Any]:
    """The summary of a results folder, finished or not. Raises ResultsError."""
    found = load(out)
    landscapes = [found.landscape(number) for number in range(len(found.spec.prompts))]
    results = Results(out)
    inputs = results.read_json("inputs.json")
    summaries = [landscape.summary() for landscape in landscapes]
    for number, repeats in (inputs or {}).get("repeats", {}).items():
        summaries[int(number)]["notes"].append(f"{Repeats(**repeats)}; repeated ones are asked once.")
    return {
        "summary_version": SUMMARY_VERSION,
        "landscapes": summaries,
        "run": results.read_json("run.json") or {"state": "working", "failed": []},
        "inputs": inputs,
        "measured_by": measured_by(found.points),
        "geometry": results.read_json("geometry.json"),
        "calibration": results.read_json(CALIBRATION),
        "spec": landscapes[0].spec.model_dump(mode="json"),
    }


def write_summary(out: Path) -> None:
    """Write summary.json of a results folder, finished or not. Raises ResultsError."""
    Results(out).write_json("summary.json", summarize(out))


def draw(out: Path, style: Style = "heatmap") -> list[go.Figure]:
    """The figures of a results folder, one a prompt set; of a plane in a style. Raises ResultsError."""
    found = load(out)
    return [found.figure(number, style=style) for number in range(len(found.spec.prompts))]


def write_figures(out: Path) -> None:
    """Draw the landscapes of a results folder whose summary is written. Raises ResultsError."""
    summary = Results(out).read_json("summary.json")
    assert summary is not None
    for style in figure_styles(parse_spec(summary["spec"])):
        for number, figure in enumerate(draw(out, style)):
            write_figure(figure, out, figure_name(number, style))


def write_figure(figure: go.Figure, out: Path, name: str) -> None:
    """Write a figure into a folder, as a page and as a picture."""
    (out / f"{name}.html").write_bytes(render(figure, "html"))
    (out / f"{name}.png").write_bytes(render(figure, "png"))
