"""A landscape that was measured in parts of its prompts, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from visage_core.grid import Point
from visage_core.readings import LABELS, rates
from visage_core.results import POINTS, RESPONSES
from visage_core.spec import LandscapeSpec

LISTS = ("verdicts", "gibberish", "nll")
SUMS = (
    *("prompt_tokens", "response_tokens", "stopped_early", "cut_off"),
    *("move_seconds", "generate_seconds", "judge_seconds"),
)
Place = tuple[Point, int]


def join_points(spec: LandscapeSpec, parts: Sequence[pa.Table]) -> pa.Table:
    """The points of a spec from those of its parts, which have the prompts of each set in their order. Points
    that one of the parts lacks are left out. All tables have the schema results.POINTS."""
    found = [{_place(row): row for row in part.to_pylist()} for part in parts]
    whole = [
        _joined(spec, [part[place] for part in found])
        for place in found[0]
        if all(place in part for part in found)
    ]
    return pa.Table.from_pylist(whole, schema=POINTS)


def join_responses(parts: Sequence[pa.Table]) -> pa.Table:
    """The responses of a spec from those of its parts. All tables have the schema results.RESPONSES."""
    rows: list[dict[str, Any]] = []
    before: dict[int, int] = {}  # prompts of each set in the parts before
    for part in parts:
        sizes = dict(before)
        for row in part.to_pylist():
            number, index = row["prompt_set"], row["prompt_index"]
            rows.append(row | {"prompt_index": before.get(number, 0) + index})
            sizes[number] = max(sizes.get(number, 0), before.get(number, 0) + index + 1)
        before = sizes
    return pa.Table.from_pylist(rows, schema=RESPONSES)


def _place(row: dict[str, Any]) -> Place:
    return Point(row["seed"], row["alpha"], row["beta"]), row["prompt_set"]


def _joined(spec: LandscapeSpec, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row = dict(rows[0])
    row |= {name: [one for part in rows for one in part[name]] for name in LISTS}
    row["opinions"] = [
        [one for opinion in opinions for one in opinion]
        for opinions in zip(*(part["opinions"] for part in rows), strict=True)
    ]
    row |= {name: sum(part[name] for part in rows) for name in SUMS}
    row |= {name: None if row[name] is None else sum(part[name] for part in rows) for name in LABELS}
    known = {one for part in rows for one in part["measured_by"] or ()}
    row["measured_by"] = sorted(known) if all(part["measured_by"] for part in rows) else None
    row["finished_at"] = max(part["finished_at"] for part in rows)
    return row | rates(spec, spec.prompts[row["prompt_set"]], row)
