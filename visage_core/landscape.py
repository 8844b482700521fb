"""A measured landscape: its curves or planes, and the summary of all that is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from visage_core import metrics
from visage_core.grid import ORIGIN, Point, betas, points, surface
from visage_core.metrics import Basin, BasinArea, Floats, Interval, MissingPointsError
from visage_core.results import as_floats
from visage_core.spec import LandscapeSpec, PromptSpec

SUMMARY_VERSION = 1
SCORES = {
    "visage": metrics.visage,
    "visage_cropped": metrics.visage_cropped,
    "mean_safety": metrics.mean_safety,
}


@dataclass(frozen=True)
class Surface:
    """The ASR along one direction, or on the plane of two.

    Arrays have shape (betas, alphas), a single row for a curve; NaN where nothing is measured.
    """

    seed: int | None
    alphas: list[float]
    betas: list[float]
    asr: Floats
    low: Floats
    high: Floats

    @property
    def name(self) -> str:
        return "interpolation" if self.seed is None else f"seed {self.seed}"


class Landscape:
    """The landscape of one prompt set of a spec, finished or not. `table` has the schema results.POINTS."""

    def __init__(self, spec: LandscapeSpec, table: pa.Table, prompt_set: int = 0) -> None:
        self.spec = spec
        self.prompt_set = prompt_set
        self.rows = {
            Point(row["seed"], row["alpha"], row["beta"]): row
            for row in table.to_pylist()
            if row["prompt_set"] == prompt_set
        }

    @property
    def prompts(self) -> PromptSpec:
        """What was asked, and under which system prompt."""
        return self.spec.prompts[self.prompt_set]

    @cached_property
    def expected(self) -> list[Point]:
        """Every point that the spec asks for."""
        return points(self.spec)

    @property
    def missing(self) -> list[Point]:
        """The points not measured yet."""
        return [point for point in self.expected if point not in self.rows]

    @property
    def origin(self) -> dict[str, Any] | None:
        """The row of the unperturbed model, None where it is not measured yet."""
        return self.rows.get(ORIGIN)

    @cached_property
    def surfaces(self) -> list[Surface]:
        """One curve or plane a direction, in the order of the spec's seeds."""
        return [self._surface(seed) for seed in self.spec.seeds]

    def score(self, statistic: Callable[[Floats], float]) -> Interval:
        """A statistic of a curve or plane, averaged over the directions, with its bootstrap interval over
        prompts. Raises MissingPointsError unless every point is measured and has something judged."""
        if self.missing:
            raise MissingPointsError(
                f"{len(self.missing)} of {len(self.expected)} points are not measured, the first of them at "
                f"{self.missing[0]}"
            )
        verdicts = np.array([as_floats(row["verdicts"]) for row in self.rows.values()])
        curves = _rows_by_direction(self.spec, self.rows)
        return metrics.bootstrap(
            verdicts, lambda rates: float(np.mean([statistic(rates[rows]) for rows in curves]))
        )

    def estimate(self) -> Interval | None:
        """What VISAGE will probably be, from the points measured so far; None where they are too few."""
        return estimate(self.spec, {point: as_floats(row["verdicts"]) for point, row in self.rows.items()})

    def basin(self, one: Surface) -> Basin | BasinArea | None:
        """The basin of a curve or plane at the spec's threshold. Raises MissingPointsError."""
        if self.spec.second_axis is not None:
            return metrics.basin_area(one.alphas, one.betas, one.asr, self.spec.basin_threshold)
        return metrics.basin(one.alphas, one.asr[0], self.spec.basin_threshold)

    def summary(self) -> dict[str, Any]:
        """Every score with its interval, as a JSON document. Scores are null, with the reason, where a
        point is missing; `estimate` then says what VISAGE will probably be."""
        document: dict[str, Any] = {
            "prompts": self.prompts.model_dump(mode="json"),
            "points": {"expected": len(self.expected), "measured": len(self.expected) - len(self.missing)},
            "asr_at_origin": self.origin
            and {"value": self.origin["asr"], "low": self.origin["asr_low"], "high": self.origin["asr_high"]},
            "totals": self._totals(),
            "notes": self._notes(),
        }
        try:
            document |= {name: asdict(self.score(score)) for name, score in self._scores().items()}
            document["directions"] = [self._direction(one) for one in self.surfaces]
        except MissingPointsError as error:
            document |= dict.fromkeys(self._scores())
            document["directions"] = []
            document["notes"].append(f"No score: {error}.")
            estimate = self.estimate()
            document["estimate"] = estimate and asdict(estimate)
        return document

    def _scores(self) -> dict[str, Callable[[Floats], float]]:
        plane = self.spec.second_axis is not None
        return {name: score for name, score in SCORES.items() if not (plane and name == "visage_cropped")}

    def _surface(self, seed: int | None) -> Surface:
        places = surface(self.spec, seed)

        def column(name: str) -> Floats:
            values = [[self.rows.get(point, {}).get(name) for point in row] for row in places]
            return np.array([[np.nan if v is None else v for v in row] for row in values], dtype=np.float64)

        alphas = self.spec.axis.coordinates()
        return Surface(seed, alphas, betas(self.spec), column("asr"), column("asr_low"), column("asr_high"))

    def _direction(self, one: Surface) -> dict[str, Any]:
        basin = self.basin(one)
        found = None if basin is None else asdict(basin)
        if isinstance(basin, Basin):
            found = asdict(basin) | {"width": basin.width}
        values = {name: score(one.asr.ravel()) for name, score in self._scores().items()}
        return {"seed": one.seed, **values, "basin": found}

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
        if len(self.spec.seeds) == 1:
            notes.append("One direction: the intervals tell of the prompts alone, not of other directions.")
        if unjudged := sum(row["unjudged"] for row in self.rows.values()):
            notes.append(f"{unjudged} responses are unjudged; they count for neither side.")
        return notes


def estimate(spec: LandscapeSpec, verdicts: Mapping[Point, NDArray[np.floating[Any]]]) -> Interval | None:
    """What VISAGE will probably be, from the verdicts of the points measured so far; None where they are
    too few."""
    if not verdicts:
        return None
    expected = [len({point for row in surface(spec, seed) for point in row}) for seed in spec.seeds]
    return metrics.running_visage(
        np.array(list(verdicts.values()), dtype=np.float64), _rows_by_direction(spec, verdicts), expected
    )


def _rows_by_direction(spec: LandscapeSpec, measured: Iterable[Point]) -> list[list[int]]:
    """Which of the measured points, by their number, belong to each direction, each once."""
    place = {point: row for row, point in enumerate(measured)}
    curves = []
    for seed in spec.seeds:
        own = dict.fromkeys(point for row in surface(spec, seed) for point in row)
        curves.append([place[point] for point in own if point in place])
    return curves
