"""A results folder as one object: its tables, its scores and its figures, for notebooks and for pages.

from visage_core.measured import load

found = load("DIR")
found.frame()                          # the points, as a pandas table
found.figure()                         # the curves; shows itself in a notebook
found.figure(reading="asr_coherent")   # another reading of the same answers
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from visage_core.errors import InputError
from visage_core.landscape import Landscape
from visage_core.results import Results, ResultsError
from visage_core.spec import LandscapeSpec, parse_spec

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from visage_core.plots import Style


class NoSuchLandscapeError(InputError):
    """A prompt set, a reading or a judge that a results folder does not have."""


@dataclass(frozen=True)
class Measured:
    """What a run has measured so far, and how. Nothing is read again: load it anew for what came since."""

    folder: Path
    spec: LandscapeSpec
    points: pa.Table  # schema results.POINTS

    def landscape(self, prompt_set: int = 0, reading: str | None = None, judge: int = 0) -> Landscape:
        """The landscape of a prompt set: of its chief reading and by the first judge unless said else.
        Raises NoSuchLandscapeError."""
        return self._landscape(self.points, prompt_set, reading, judge)

    def figure(
        self,
        prompt_set: int = 0,
        reading: str | None = None,
        judge: int = 0,
        style: Style = "heatmap",
    ) -> go.Figure:
        """The landscape as a plotly figure. Raises NoSuchLandscapeError."""
        from visage_core.plots import landscape_figure

        landscape = self.drawn(prompt_set, reading, judge)
        return landscape_figure(landscape, self.title(landscape), style, self._document("geometry.json"))

    def drawn(self, prompt_set: int = 0, reading: str | None = None, judge: int = 0) -> Landscape:
        """The same landscape with its rates alone, which is all that a figure needs: a plane of ten thousand
        points has millions of verdicts. Raises NoSuchLandscapeError."""
        if judge:
            return self.landscape(prompt_set, reading, judge)
        lists = [field.name for field in self.points.schema if pa.types.is_list(field.type)]
        return self._landscape(self.points.drop_columns(lists), prompt_set, reading, 0)

    def frame(self) -> pd.DataFrame:
        """The points as a pandas table: a row for each point and prompt set."""
        return self.points.to_pandas()

    def responses(self) -> pa.Table | None:
        """The responses, schema results.RESPONSES, where they were kept and the run is over. They may be
        harmful. Raises ResultsError."""
        kept = (self.folder / "responses.parquet").exists()
        return Results(self.folder).responses() if kept else None

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """Every score with its interval, as in summary.json; None where the run is not over."""
        return self._document("summary.json")

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What went in: digests of the model and the prompts, and versions, as in inputs.json."""
        return self._document("inputs.json") or {}

    def title(self, landscape: Landscape) -> str:
        """What to write over a figure: the model, the prompts, and the score where there is one."""
        spec = landscape.spec
        name = Path(spec.model).name
        title = f"{name} → {spec.axis.direction.label}" if spec.axis.direction.label else name
        if len(spec.prompts) > 1:
            title += f", {landscape.prompts.name}"
        if landscape.reading != landscape.readings[0]:
            return f"{title}: {landscape.reading.title}"
        score = self.summary and self.summary["landscapes"][landscape.prompt_set]["visage"]
        if score:
            return f"{title}: VISAGE {score['value']:.1f} (95 %: {score['low']:.1f} to {score['high']:.1f})"
        expected = len(landscape.expected)
        return f"{title}: {expected - len(landscape.missing)} of {expected} points"

    def _landscape(self, points: pa.Table, prompt_set: int, reading: str | None, judge: int) -> Landscape:
        if not 0 <= prompt_set < len(self.spec.prompts):
            raise NoSuchLandscapeError(
                "prompt_set", f"there are {len(self.spec.prompts)}, counted from 0", "Ask for one of them"
            )
        if not 0 <= judge < len(self.spec.judges):
            raise NoSuchLandscapeError(
                "judge", f"there are {len(self.spec.judges)}, counted from 0", "Ask for one of them"
            )
        chief = Landscape(self.spec, points, prompt_set)
        names = [one.name for one in chief.readings]
        if reading is not None and reading not in names:
            raise NoSuchLandscapeError(
                "reading", f"these prompts have no {reading!r}", f"Ask for {' or '.join(names)}"
            )
        found = chief if reading is None else chief.read(reading)
        return found.judged_by(judge) if judge else found

    def _document(self, name: str) -> dict[str, Any] | None:
        return Results(self.folder).read_json(name)


def load(folder: str | Path) -> Measured:
    """Open the results folder of a run, finished or not. Raises ResultsError."""
    results = Results(Path(folder))
    document = results.read_json("spec.json")
    if document is None:
        raise ResultsError("out", f"{folder} holds no landscape", "Give the folder of a `visage run`")
    return Measured(Path(folder), parse_spec(document), results.points())
