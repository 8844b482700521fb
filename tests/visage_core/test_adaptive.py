"""An adaptive sweep finds the edge that the whole grid has, from fewer points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.adaptive import COARSE_STEPS, nearest_measured, wanted
from visage_core.grid import Point, points, surface
from visage_core.metrics import basin, basin_area
from visage_core.spec import LandscapeSpec, parse_spec


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


def test_what_is_wanted_does_not_depend_on_the_order_of_measuring() -> None:
    spec = curve(80)
    asr = lambda point: 100.0 * (abs(point.alpha) > 0.37)  # noqa: E731
    whole = measure_all(spec, asr)
    # As after a restart: some are known, others not.
    part = dict(list(whole.items())[: len(whole) // 2])
    assert set(wanted(spec, part)) <= set(whole)
    assert set(wanted(spec, whole)) == set(whole)


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
