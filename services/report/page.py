"""The page itself: scores, figures, numbers, notes, spec and versions in one file."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from services.headline import headline
from services.scores import cost, judge_rows, notes, score_rows
from services.sweep.report import summarize
from services.tables import curve_table, plane_table
from visage_core.measured import Measured, load
from visage_core.plots import figure_styles
from visage_core.provenance import in_words, measured_by


def report(folder: Path, label: str | None = None) -> str:
    """The report of a results folder as HTML, of an unfinished run as far as it is. Raises ResultsError."""
    found = load(folder)
    summary = found.summary or summarize(folder)
    times = found.points["finished_at"]
    environment = Environment(
        loader=PackageLoader("services.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=label or Path(found.spec.model).name,
        spec=found.spec,
        landscapes=[_landscape(found, entry, number) for number, entry in enumerate(summary["landscapes"])],
        cost=cost([entry["totals"] for entry in summary["landscapes"]]),
        failed=summary["run"]["failed"],
        measured=pc.max(times).as_py() if len(times) else None,
        document=yaml.safe_dump(found.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        versions=found.inputs.get("versions", {}),
        workers=[in_words(one) for one in measured_by(found.points)],
        digests=found.inputs.get("sha256", {}),
        version=version("visage"),
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the package's own script
    )


def _landscape(found: Measured, entry: dict[str, Any], number: int) -> dict[str, Any]:
    landscape = found.drawn(number)
    plane = found.spec.second_axis is not None
    columns, judges = judge_rows(entry) if entry["judges"] else ([], [])
    return {
        "name": landscape.prompts.name,
        "headline": headline(entry, found.spec),
        "reading": landscape.reading.title,
        "plane": plane,
        "figures": [_figure(found, number, style) for style in figure_styles(found.spec)],
        "table": plane_table(landscape) if plane else curve_table(landscape),
        "scores": score_rows(entry, found.spec),
        "coherent": bool(entry["coherent"]),
        "columns": columns,
        "judges": judges,
        "notes": notes(entry),
    }


def _figure(found: Measured, prompt_set: int, style: Any) -> Markup:
    """A figure's JSON, that can stand in a script element: no text in it ends one."""
    drawn = json.loads(found.figure(prompt_set, style=style).to_json())
    drawn["layout"].pop("title", None)  # the page has one
    return Markup(json.dumps(drawn).replace("<", "\\u003c"))  # noqa: S704 - escaped right here
