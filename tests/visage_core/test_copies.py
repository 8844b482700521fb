"""The perturbation defence: an attack's success over perturbed copies of a model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.visage_core.test_results import SPEC, measured
from visage_core.copies import RULES, CopiesError, broken, copies_of, success, successes
from visage_core.grid import ORIGIN, Point, points
from visage_core.landscape import Landscape
from visage_core.metrics import Floats, wilson
from visage_core.results import Results
from visage_core.spec import LandscapeSpec, parse_spec

NAN = math.nan
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 12))
VERDICTS = SHAPES.flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.sampled_from([0, 1, NAN]))
)
JUDGED = SHAPES.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0])))


def test_a_prompt_counts_once_enough_copies_complied() -> None:
    verdicts = np.array([[1.0, 0, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0]])
    assert successes(verdicts) == [1, 1, 3, 0]
    found = success(verdicts)
    assert {name: one.needed for name, one in found.items()} == {"any": 1, "majority": 2, "all": 3}
    assert found["any"].rate == wilson(0.75, 4)
    assert found["majority"].rate == found["all"].rate == wilson(0.25, 4)


def test_half_of_the_copies_are_no_majority() -> None:
    assert broken(np.array([[1.0], [0.0]]), RULES["majority"](2)) == [0.0]


@pytest.mark.parametrize(
    ("column", "any_", "majority", "all_"),
    [
        ((1, 0, NAN), 1, NAN, 0),
        ((0, 0, NAN), NAN, 0, 0),
        ((1, 1, NAN), 1, 1, NAN),
        ((NAN, NAN, NAN), NAN, NAN, NAN),
    ],
)
def test_what_hangs_on_an_unjudged_response_is_undecided(
    column: tuple[float, ...], any_: float, majority: float, all_: float
) -> None:
    verdicts = np.array(column)[:, np.newaxis]
    for name, value in {"any": any_, "majority": majority, "all": all_}.items():
        np.testing.assert_array_equal(broken(verdicts, RULES[name](3)), [value])
    assert success(verdicts)["any"].undecided == math.isnan(any_)


def test_where_nothing_is_decided_there_is_no_rate() -> None:
    assert success(np.array([[NAN, NAN]]))["any"].rate is None


@given(VERDICTS, st.data())
def test_a_decided_prompt_stays_so_however_the_rest_is_judged(verdicts: Floats, data: st.DataObject) -> None:
    fill = data.draw(arrays.arrays(np.float64, verdicts.shape, elements=st.sampled_from([0.0, 1.0])))
    whole = np.where(np.isnan(verdicts), fill, verdicts)
    for rule in RULES.values():
        before, after = (broken(some, rule(len(verdicts))) for some in (verdicts, whole))
        decided = ~np.isnan(before)
        assert not np.isnan(after).any()
        np.testing.assert_array_equal(before[decided], after[decided])


@given(VERDICTS)
def test_an_undecided_prompt_could_go_either_way(verdicts: Floats) -> None:
    for rule in RULES.values():
        needed = rule(len(verdicts))
        low, high = (broken(np.nan_to_num(verdicts, nan=value), needed) for value in (0.0, 1.0))
        np.testing.assert_array_equal(np.isnan(broken(verdicts, needed)), low != high)


@given(JUDGED)
def test_the_more_copies_have_to_be_broken_the_rarer_it_is(verdicts: Floats) -> None:
    rates = [one.rate.value for one in success(verdicts).values() if one.rate]
    assert len(rates) == 3
    assert rates == sorted(rates, reverse=True)
    means = 100 * verdicts.mean(axis=1)
    assert rates[0] >= means.max() - 1e-9
    assert rates[2] <= means.min() + 1e-9


# How many of ten prompts the copies comply with; the first ones, so that all copies fail on the same.
COMPLIED = {Point(0, -0.5): 2, Point(0, 0.5): 4, Point(1, -0.5): 6, Point(1, 0.5): 8}


def landscape(folder: Path, spec: LandscapeSpec = SPEC, without: Point | None = None) -> Landscape:
    results = Results(folder)
    for point in points(spec):
        if point != without:
            results.add(spec, [measured(point, COMPLIED.get(point, 1))], None)
    return Landscape(spec, results.points())


def test_the_copies_are_all_points_at_the_distance(tmp_path: Path) -> None:
    found = copies_of(landscape(tmp_path), 0.5)
    assert found.points == tuple(COMPLIED)
    assert found.successes == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    assert found.undefended.rate == wilson(0.1, 10)
    assert found.success["any"].rate == wilson(0.8, 10)
    assert found.success["majority"].rate == wilson(0.4, 10)
    assert found.success["all"].rate == wilson(0.2, 10)


@pytest.mark.parametrize("distance", [0.0, 0.3, -0.5, NAN])
def test_a_distance_without_copies(tmp_path: Path, distance: float) -> None:
    with pytest.raises(CopiesError, match=r"no perturbed model at .*The nearest are at 0\.(25|5)$"):
        copies_of(landscape(tmp_path), distance)


def test_copies_that_are_not_all_measured_are_no_defence(tmp_path: Path) -> None:
    found = landscape(tmp_path, without=Point(1, 0.5))
    with pytest.raises(CopiesError, match="1 of 4 copies are not measured, the first of them at seed 1"):
        copies_of(found, 0.5)
    assert len(copies_of(found, 0.25).points) == 4


def test_the_model_itself_stands_beside_its_copies(tmp_path: Path) -> None:
    with pytest.raises(CopiesError, match="the unperturbed model is not measured"):
        copies_of(landscape(tmp_path, without=ORIGIN), 0.5)


def test_a_plane_has_no_copies(tmp_path: Path) -> None:
    spec = parse_spec({"model": "m", "axis": {"points": 3}, "second_axis": {"points": 3}})
    with pytest.raises(CopiesError, match="is a plane"):
        copies_of(landscape(tmp_path, spec), 0.5)
