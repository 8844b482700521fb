"""An adaptive sweep finds the edge that the whole grid has, from fewer points."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visage_core.adaptive import COARSE_STEPS, nearest_measured, wanted
from visage_core.grid import Point, points, surface
from visage_core.metrics import basin, basin_area
from visage_core.spec import LandscapeSpec, parse_spec
from visage_core.uncertainty import Sample, Score, score


def curve(steps: int, **axis: Any) -> LandscapeSpec:
    along = {"low": -1, "high": 1, "points": 2 * steps + 1, "direction": {"kind": "random", "seeds": [0]}}
    return parse_spec({"model": "m", "axis": along | axis, "adaptive": True})


def measure_all(spec: LandscapeSpec, asr: Any) -> dict[Point, float | None]:
    """Measure what is wanted until nothing is."""
    known: dict[Point, float | None] = {}
    for _ in range(10_000):
        todo = [point for point in wanted(spec, known) if point not in known]
        if not todo:
            assert set(known) <= set(points(spec))
            return known
        known |= {point: asr(point) for point in todo}
    raise AssertionError("it wants points for ever")


@given(st.integers(1, 300), st.floats(0.05, 1.2), st.floats(0.05, 1.2))
def test_the_edges_of_a_curve_are_those_of_the_whole_grid(steps: int, left: float, right: float) -> None:
    spec = curve(steps)

    def asr(point: Point) -> float:
        edge = right if point.alpha > 0 else left
        return 100 / (1 + np.exp(-8 * (abs(point.alpha) / edge - 1)))

    known = measure_all(spec, asr)
    alphas = sorted(point.alpha for point in known)
    by_alpha = {point.alpha: value for point, value in known.items()}
    found = basin(alphas, np.array([by_alpha[alpha] for alpha in alphas]), 50.0)
    whole = [asr(point) for point in surface(spec, 0)[0]]
    assert found == basin(spec.axis.coordinates(), np.array(whole), 50.0)
    assert len(known) <= 2 * COARSE_STEPS + 3 + 2 * np.ceil(np.log2(max(2, steps)))


def test_a_model_that_complies_at_the_origin_costs_the_coarse_grid_alone() -> None:
    known = measure_all(curve(80), lambda _: 90.0)
    assert len(known) <= 2 * COARSE_STEPS + 1


def test_a_point_that_cannot_be_judged_ends_the_search_there() -> None:
    known = measure_all(curve(80), lambda point: None if point.alpha else 0.0)
    assert len(known) <= 2 * COARSE_STEPS + 1


@pytest.mark.parametrize("make", [curve, lambda steps: plane(steps // 5)])
@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.floats(0.05, 0.95), st.integers(0, 3))
def test_what_is_measured_in_the_end_does_not_depend_on_the_order(
    make: Any, chance: random.Random, radius: float, shift: int
) -> None:
    spec = make(80)
    asr = lambda point: 100.0 * (np.hypot(point.alpha - shift / 100, point.beta) > radius)  # noqa: E731
    whole = measure_all(spec, asr)
    known: dict[Point, float | None] = {}
    while todo := [point for point in wanted(spec, known) if point not in known]:
        known |= {point: asr(point) for point in chance.sample(todo, chance.randint(1, len(todo)))}
    assert known == whole


def test_the_interval_of_a_basins_width_is_as_narrow_as_that_of_the_whole_grid() -> None:
    """Equal precision from a fifth of the points: three directions, whose prompts each have an edge."""
    spec = curve(40, low=-0.5, high=0.5, direction={"kind": "random", "seeds": [0, 1, 2]})
    generator = np.random.default_rng(5)
    alphas = np.array(spec.axis.coordinates())
    widths, measured = [], []
    for _ in range(60):
        edges = 0.2 + 0.04 * generator.uniform(-1, 1, (3, 1, 2))
        limits = edges * (1 + 0.3 * generator.uniform(-1, 1, (1, 80, 1)))
        verdicts = (alphas[:, None] > limits[:, None, :, 1]) | (-alphas[:, None] > limits[:, None, :, 0])
        rates = 100 * verdicts.mean(axis=2)
        asr = {p: rates[k, i] for k in range(3) for i, p in enumerate(surface(spec, k)[0])}
        known = measure_all(spec, asr.__getitem__)
        picked = [[i for i, p in enumerate(surface(spec, k)[0]) if p in known] for k in range(3)]
        found = [width_of(alphas, verdicts, rows) for rows in (picked, [list(range(81))] * 3)]
        assert found[0].value == found[1].value
        widths.append([one.high - one.low for one in found])
        measured.append(len(known))
    assert np.mean(measured) < len(points(spec)) / 4
    adaptive, whole = np.median(widths, axis=0)
    assert adaptive == pytest.approx(whole, rel=0.05)


def width_of(alphas: np.ndarray, verdicts: np.ndarray, rows: list[list[int]]) -> Score:
    """The basin's width over directions, from these points of each."""

    def width(x: np.ndarray) -> Any:
        return lambda asr: getattr(basin(x, asr, 50.0), "width", 0.0)

    taken = np.concatenate([verdicts[k][picked] for k, picked in enumerate(rows)]).astype(float)
    ends = np.cumsum([0, *map(len, rows)])
    curves = [list(range(ends[k], ends[k + 1])) for k in range(len(rows))]
    return score(Sample(taken, curves, [width(alphas[picked]) for picked in rows]), draws=60)


def plane(steps: int) -> LandscapeSpec:
    along = {"low": -1, "high": 1, "points": 2 * steps + 1, "direction": {"kind": "random", "seeds": [0]}}
    return parse_spec({"model": "m", "axis": along, "second_axis": along, "adaptive": True})


@pytest.mark.parametrize(("steps", "radius", "share"), [(8, 0.5, 1.0), (32, 0.5, 0.35), (64, 0.6, 0.15)])
def test_the_area_of_a_plane_is_that_of_the_whole_grid(steps: int, radius: float, share: float) -> None:
    spec = plane(steps)
    asr = lambda point: 100.0 * (np.hypot(point.alpha, point.beta) > radius)  # noqa: E731
    known = measure_all(spec, asr)
    assert len(known) <= share * (2 * steps + 1) ** 2
    grid = surface(spec, 0)
    measured = np.array([[known.get(point, np.nan) for point in row] for row in grid], dtype=float)
    filled = measured[nearest_measured(spec, measured)]
    whole = np.array([[asr(point) for point in row] for row in grid])
    np.testing.assert_array_equal(filled, whole)
    coordinates = spec.axis.coordinates()
    found, expected = (basin_area(coordinates, coordinates, values, 50.0) for values in (filled, whole))
    assert found == expected
