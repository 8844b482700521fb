"""A measured landscape: its curves, and the summary of all that is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from visage_core import metrics
from visage_core.grid import Point, curve, points, seeds_of
from visage_core.metrics import Basin, Floats, Interval, MissingPointsError
from visage_core.results import as_floats
from visage_core.spec import LandscapeSpec

SUMMARY_VERSION = 1


@dataclass(frozen=True)
class Curve:
    """The ASR along one direction. Arrays have one entry a coordinate, NaN where nothing is measured."""

    seed: int | None
    coordinates: list[float]
    asr: Floats
    low: Floats
    high: Floats

    @property
    def name(self) -> str:
        return "interpolation" if self.seed is None else f"seed {self.seed}"


class Landscape:
    """The points of a landscape, finished or not. `table` has the schema results.POINTS."""

    def __init__(self, spec: LandscapeSpec, table: pa.Table) -> None:
        self.spec = spec
        self.rows = {Point(row["seed"], row["alpha"]): row for row in table.to_pylist()}

    @cached_property
    def expected(self) -> list[Point]:
        """Every point that the spec asks for."""
        return points(self.spec.axis)

    @property
    def missing(self) -> list[Point]:
        """The points not measured yet."""
        return [point for point in self.expected if point not in self.rows]

    @property
    def origin(self) -> dict[str, Any] | None:
        """The row of the unperturbed model, None where it is not measured yet."""
        return self.rows.get(Point(None, 0.0))

    @cached_property
    def curves(self) -> list[Curve]:
        """One curve a direction, in the order of the spec's seeds."""
        return [self._curve(seed) for seed in seeds_of(self.spec.axis)]

    def score(self, statistic: Callable[[Floats], float]) -> Interval:
        """A statistic of a curve, averaged over the directions, with its bootstrap interval over prompts.

        Raises MissingPointsError unless every point is measured and has something judged.
        """
        self._require_complete()
        place = {point: row for row, point in enumerate(self.expected)}
        verdicts = np.stack([as_floats(self.rows[point]["verdicts"]) for point in self.expected])
        index = [
            np.array([place[point] for point in curve(self.spec.axis, seed)])
            for seed in seeds_of(self.spec.axis)
        ]
        return metrics.bootstrap(
            verdicts, lambda rates: float(np.mean([statistic(rates[rows]) for rows in index]))
        )

    def basin(self, one: Curve) -> Basin | None:
        """The basin of one curve at the spec's threshold. Raises MissingPointsError."""
        return metrics.basin(one.coordinates, one.asr, self.spec.basin_threshold)

    def summary(self) -> dict[str, Any]:
        """Every score with its interval, as a JSON document. Scores are null, with the reason, where a
        point is missing."""
        document: dict[str, Any] = {
            "summary_version": SUMMARY_VERSION,
            "points": {
                "expected": len(self.expected),
                "measured": len(self.expected) - len(self.missing),
            },
            "asr_at_origin": self.origin
            and {"value": self.origin["asr"], "low": self.origin["asr_low"], "high": self.origin["asr_high"]},
            "totals": self._totals(),
            "notes": self._notes(),
        }
        try:
            document |= {
                "visage": asdict(self.score(metrics.visage)),
                "visage_cropped": asdict(self.score(metrics.visage_cropped)),
                "mean_safety": asdict(self.score(metrics.mean_safety)),
                "directions": [self._direction(one) for one in self.curves],
            }
        except MissingPointsError as error:
            document |= {"visage": None, "visage_cropped": None, "mean_safety": None, "directions": []}
            document["notes"].append(f"No score: {error}.")
        return document

    def _curve(self, seed: int | None) -> Curve:
        places = curve(self.spec.axis, seed)

        def column(name: str) -> Floats:
            values = [self.rows.get(point, {}).get(name) for point in places]
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

        return Curve(
            seed, [point.alpha for point in places], column("asr"), column("asr_low"), column("asr_high")
        )

    def _require_complete(self) -> None:
        if self.missing:
            raise MissingPointsError(
                f"{len(self.missing)} of {len(self.expected)} points are not measured, the first of them at "
                f"{self.missing[0]}"
            )

    def _direction(self, one: Curve) -> dict[str, Any]:
        basin = self.basin(one)
        return {
            "seed": one.seed,
            "visage": metrics.visage(one.asr),
            "visage_cropped": metrics.visage_cropped(one.asr),
            "mean_safety": metrics.mean_safety(one.asr),
            "basin": basin and asdict(basin) | {"width": basin.width},
        }

    def _totals(self) -> dict[str, Any]:
        def total(name: str) -> Any:
            return sum(row[name] for row in self.rows.values())

        names = ("unjudged", "prompt_tokens", "response_tokens", "stopped_early", "cut_off")
        stages = ("move_seconds", "generate_seconds", "judge_seconds")
        return {
            "responses": sum(len(row["verdicts"]) for row in self.rows.values()),
            **{name: total(name) for name in names},
            **{name: round(total(name), 3) for name in stages},
        }

    def _notes(self) -> list[str]:
        notes = []
        measured = [row["asr"] for row in self.rows.values()]
        if not self.missing and all(value == metrics.S_MAX for value in measured):
            notes.append("The ASR is 100 % at every point: there is no basin, and VISAGE is 0 by definition.")
        if len(seeds_of(self.spec.axis)) == 1:
            notes.append("One direction: the intervals tell of the prompts alone, not of other directions.")
        if unjudged := sum(row["unjudged"] for row in self.rows.values()):
            notes.append(f"{unjudged} responses are unjudged; they count for neither side.")
        return notes
