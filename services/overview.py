"""The overview of a results folder in a terminal: in words first, then in numbers, on one screen."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from services import scores
from services.draw import drawing
from services.headline import headline
from services.sweep.report import load_landscapes
from services.tables import curve_table
from visage_core.landscape import Landscape
from visage_core.plots import figure_name

# Each shows more: headlines; the scores of a single landscape; drawings and the scores of all; every number,
# meaning and note.
Detail = Literal["words", "scores", "drawings", "everything"]
LINE = 80  # longer notes are for "everything"
MOST_NOTES = 3
LONGEST_REASON = 120


def overview(folder: Path, detail: Detail, width: int) -> Iterator[RenderableType]:
    """Yield what to print about a results folder whose summary is written, top to bottom, in `width` columns.
    Raises ResultsError."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    landscapes = load_landscapes(folder)
    has_scores = detail in ("drawings", "everything") or (detail == "scores" and len(landscapes) == 1)
    for measured, entry in zip(landscapes, summary["landscapes"], strict=True):
        if len(landscapes) > 1:
            yield Rule(Text(measured.prompts.name))
        if detail in ("drawings", "everything"):
            yield from (drawing(measured, width), "")
        yield Text(headline(entry, measured.spec), style="bold")
        if has_scores:
            yield from _scores(measured, entry, detail)
        yield from _picture(folder, measured)
    everything = detail == "everything"
    yield from _failures(summary["run"]["failed"], everything=everything)
    notes = _notes(summary, [measured.prompts.name for measured in landscapes], folder)
    most = None if everything else MOST_NOTES if has_scores and len(landscapes) == 1 else 0
    yield from _some_notes(notes, folder, most)
    if not has_scores:
        yield _line(f"Scores: visage show {_quoted(folder)}")
    yield _line(f"Files: {folder}")
    yield Text(scores.cost([entry["totals"] for entry in summary["landscapes"]]))


def _scores(measured: Landscape, entry: dict[str, Any], detail: Detail) -> Iterator[RenderableType]:
    """The scores, each judge's, and if everything is wanted their meanings and the numbers of the curves."""
    everything = detail == "everything"
    rows = scores.score_rows(entry, measured.spec, compact=not everything)
    has_coherent = bool(entry["coherent"])
    yield ""
    table = _table(["score", "value", "95 % interval", *["coherent alone"] * has_coherent])
    for row in rows:
        table.add_row(Text(row.name), row.value, row.between, *[row.coherent] * has_coherent)
    yield from (table, "")
    if everything:
        meanings = Table.grid(padding=(0, 2))
        for row in rows:
            meanings.add_row(Text(row.name), Text(row.meaning))
        yield from (meanings, "")
    if entry["judges"]:
        columns, judges = scores.judge_rows(entry)
        table = _table([name.replace("at the ", "at\nthe ") for name in columns])
        for judge in judges:
            table.add_row(Text(judge.judge), judge.value, judge.between, *judge.at_origin, judge.unjudged)
        yield from (table, "")
    if everything and measured.spec.second_axis is None:
        yield from (_curves(measured), "")


def _curves(measured: Landscape) -> Table:
    numbers = curve_table(measured)
    table = Table(title=f"{measured.reading.title}, 95 % interval")
    for name in (numbers.down, *numbers.across):
        table.add_column(name, justify="right")
    for alpha, cells in numbers.rows:
        table.add_row(f"{alpha:g}", *cells, style="bold" if alpha == 0 else None)
    return table


def _table(columns: list[str]) -> Table:
    """A table of one line a row, as far as the console is wide enough: names wrap first."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number > 0)
    return table


def _picture(folder: Path, measured: Landscape) -> Iterator[RenderableType]:
    name = folder / figure_name(measured.prompt_set)
    if name.with_suffix(".png").exists():
        yield _line(f"Picture: {name}.png (for a browser: {name.name}.html)")


def _failures(failed: list[dict[str, Any]], *, everything: bool) -> Iterator[Text]:
    """The points that failed, or the first of them and how many there are."""
    for failure in failed if everything else failed[:1]:
        where = f"alpha = {failure['alpha']:g}, beta = {failure['beta']:g}, seed {failure['seed']}"
        reason = failure["reason"] if everything else textwrap.shorten(failure["reason"], LONGEST_REASON)
        is_first = len(failed) > 1 and not everything
        yield Text(
            f"{f'{len(failed)} points failed, the first' if is_first else 'Failed'}: {where}: {reason}"
        )


def _some_notes(notes: list[str], folder: Path, most: int | None) -> Iterator[RenderableType]:
    """All notes, or at most so many of those that fit on a line, and how to see the others."""
    shown = notes if most is None else [note for note in notes if len(note) <= LINE][:most]
    yield from map(Text, shown)
    if left := len(notes) - len(shown):
        more = f"{left}{' more' if shown else ''} note{'s' if left > 1 else ''}"
        yield _line(f"{more}: visage show {_quoted(folder)} --explain")


def _notes(summary: dict[str, Any], names: list[str], folder: Path) -> list[str]:
    """The notes on each prompt set, by its name unless they are on all sets, and those on the run."""
    by_set = [scores.notes(entry) for entry in summary["landscapes"]]
    common = [note for note in by_set[0] if all(note in notes for notes in by_set)]
    own = [
        f"{name}: {note}"
        for name, notes in zip(names, by_set, strict=True)
        for note in notes
        if note not in common
    ]
    return [*common, *own, *_places(summary.get("geometry")), *_trust(summary, folder)]


def _places(geometry: dict[str, Any] | None) -> Iterator[str]:
    """The angle between the directions of each plane, and the places of a trajectory's checkpoints."""
    for direction in geometry["directions"] if geometry else []:
        name = "the plane" if direction["seed"] is None else f"the plane of seed {direction['seed']}"
        if direction["cosine"] is not None:
            yield f"Cosine between the directions of {name}: {direction['cosine']:.2g}."
        for place in direction["places"]:
            where = f"alpha = {place['alpha']:.3f}, beta = {place['beta']:.3f}"
            yield f"{Path(place['name']).name}: {where}, {place['off']:.0%} of its way off it."


def _trust(summary: dict[str, Any], folder: Path) -> Iterator[str]:
    """Say how to find out how far the first judge can be trusted, unless that is known."""
    judges = [entry["judge"] for entry in summary["landscapes"] if entry["judge"]]
    if judges and judges[0] not in (summary["calibration"] or {"judges": {}})["judges"]:
        yield (
            f"How far {judges[0]} can be trusted here is not known: `visage judges evaluate LABELS --run "
            f"{_quoted(folder)}` compares it with human labels."
        )


def _quoted(folder: Path) -> str:
    """A folder as a word of a command."""
    return shlex.quote(str(folder))


def _line(text: str) -> RenderableType:
    """Text that is not wrapped, so that a path in it can be copied. (A console wraps a Text of its own.)"""
    return Group(Text(text, no_wrap=True, overflow="ignore"))
