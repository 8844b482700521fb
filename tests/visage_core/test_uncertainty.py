"""Intervals hold the truth as often as they say; what more measuring would bring is what it brings."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.metrics import Floats, MissingPointsError, basin, mean_safety, visage
from visage_core.uncertainty import Difference, Sample, Score, difference, score

ALPHAS = [round(-0.5 + 0.05 * i, 2) for i in range(21)]


def width(asr: Floats) -> float:
    found = basin(ALPHAS, asr, 50.0)
    return 0.0 if found is None else found.width


def sample(verdicts: Floats, statistic: Callable[[Floats], float]) -> Sample:
    """`verdicts` has shape (directions, points, prompts)."""
    directions, points, prompts = verdicts.shape
    curves = [list(range(k * points, (k + 1) * points)) for k in range(directions)]
    return Sample(verdicts.reshape(-1, prompts), curves, [statistic] * directions)


def landscapes(generator: np.random.Generator, directions: int, prompts: int) -> Floats:
    """Made-up verdicts: a prompt is complied with from some distance on, which depends on the direction, the
    prompt, and both together. Beyond 0.4 every prompt is."""
    edges = 0.2 + 0.04 * generator.uniform(-1, 1, (directions, 1, 2))
    hard = 1 + 0.3 * generator.uniform(-1, 1, (1, prompts, 1))
    own = 1 + 0.15 * generator.uniform(-1, 1, (directions, prompts, 1))
    limits = np.minimum(edges * hard * own, 0.39)
    x = np.array(ALPHAS)[None, :, None]
    left, right = (limits[:, None, :, side] for side in (0, 1))
    return ((x > right) | (-x > left)).astype(float)


def basins(generator: np.random.Generator, directions: int, prompts: int) -> Floats:
    """Made-up verdicts with steep edges, as the paper finds them: inside some prompts are complied with, by
    direction, prompt, both together and the point; outside all are."""
    reach = generator.integers(2, 8, (directions, 1, 2))
    share = np.clip(generator.normal(0.15, 0.04, (directions, 1, 1)), 0.01, 0.3)
    hard, own = (
        generator.uniform(0.3, 1.7, (1, 1, prompts)),
        generator.uniform(0.5, 1.5, (directions, 1, prompts)),
    )
    steps = np.arange(-10, 11)[None, :, None]
    complied = generator.uniform(size=(directions, 21, prompts)) < share * hard * own * (
        1 + np.abs(steps) / 16
    )
    inside = (steps >= -reach[:, :, :1]) & (steps <= reach[:, :, 1:])
    return np.where(inside, complied, True).astype(float)


# VISAGE counts points below 100 % alone: where the edge is not steep, how many prompts are asked decides
# which points these are, and there is no truth for so many prompts to come near.
CASES = {
    "mean safety": (mean_safety, landscapes),
    "width": (width, landscapes),
    "visage": (visage, basins),
}


@cache
def truth(name: str) -> float:
    """The mean over many directions of what very many prompts give."""
    statistic, made = CASES[name]
    generator = np.random.default_rng(99)
    curves = (100 * made(generator, 10, 1000).mean(axis=2) for _ in range(300))
    return float(np.mean([statistic(curve) for some in curves for curve in some]))


@pytest.mark.parametrize("directions", [3, 5])
@pytest.mark.parametrize("name", CASES)
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent(name: str, directions: int) -> None:
    statistic, made = CASES[name]
    generator = np.random.default_rng(7)
    hits, rounds = 0, 400
    for _ in range(rounds):
        found = score(sample(made(generator, directions, 80), statistic), draws=60)
        hits += found.low <= truth(name) <= found.high
    assert 0.93 <= hits / rounds <= 0.97, hits / rounds


@pytest.mark.parametrize("name", ["mean safety", "width"])
def test_of_one_direction_the_interval_holds_its_own_truth(name: str) -> None:
    """Over prompts alone: the truth is that of the same direction with very many prompts."""
    statistic, _ = CASES[name]
    hits, rounds = 0, 400
    for seed in range(rounds):
        edges = np.random.default_rng(seed).uniform(0.16, 0.24, 2)
        of_many, of_few = (one_direction(seed, edges, prompts) for prompts in (4000, 80))
        found = score(sample(of_few, statistic), draws=200)
        hits += found.low <= statistic(100 * of_many[0].mean(axis=1)) <= found.high
    assert 0.93 <= hits / rounds <= 0.97, hits / rounds


def one_direction(seed: int, edges: Floats, prompts: int) -> Floats:
    generator = np.random.default_rng([seed, prompts])
    hard = 1 + 0.3 * generator.uniform(-1, 1, (prompts, 1))
    left, right = (np.minimum(edges * hard, 0.39)[None, :, side] for side in (0, 1))
    x = np.array(ALPHAS)[:, None]
    return ((x > right) | (-x > left)).astype(float)[None]


@pytest.mark.parametrize(("directions", "draws"), [(1, 200), (3, 60)])
@pytest.mark.parametrize(("safer", "least", "most"), [(0.0, 0.93, 0.97), (0.03, 0.0, 0.6)])
def test_differences_hold_theirs_too_and_find_a_safer_model(
    directions: int, draws: int, safer: float, least: float, most: float
) -> None:
    """Two models with the same directions and prompts, one of them as safe as the other or safer."""
    hits, rounds, found_out = 0, 400, 0
    for seed in range(rounds):
        one, other = (paired(seed, directions, shift, model) for model, shift in enumerate((safer, 0.0)))
        found = difference(sample(one, mean_safety), sample(other, mean_safety), draws=draws)
        hits += found.score.low <= 0 <= found.score.high
        found_out += found.p_value < 0.05
    assert least <= hits / rounds <= most, hits / rounds
    assert abs((1 - hits / rounds) - found_out / rounds) < 0.02, "the p-value and the interval disagree"


def paired(seed: int, directions: int, safer: float, model: int) -> Floats:
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, model])
    edges = 0.2 + safer + 0.03 * shared.uniform(-1, 1, (directions, 1, 2))
    if directions > 1:  # the interval of one direction tells nothing of how models differ in others
        edges = edges + 0.02 * own.uniform(-1, 1, (directions, 1, 2))
    hard = 1 + 0.3 * shared.uniform(-1, 1, (1, 80, 1)) + 0.1 * own.uniform(-1, 1, (1, 80, 1))
    limits = np.minimum(edges * hard, 0.39)
    left, right = (limits[:, None, :, side] for side in (0, 1))
    x = np.array(ALPHAS)[None, :, None]
    return ((x > right) | (-x > left)).astype(float)


@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 2**32))
def test_the_value_is_the_mean_over_directions_and_the_interval_the_same_each_time(
    directions: int, prompts: int, seed: int
) -> None:
    verdicts = np.random.default_rng(seed).integers(0, 2, (directions, 3, prompts)).astype(float)
    found = score(sample(verdicts, visage), draws=50)
    assert found == score(sample(verdicts, visage), draws=50)
    each = [visage(100 * one.mean(axis=1)) for one in verdicts]
    assert found.by_direction == pytest.approx(tuple(each))
    assert found.value == pytest.approx(np.mean(each))
    assert 0 <= found.low <= found.value <= found.high <= 100


def test_all_points_are_asked_the_same_prompts() -> None:
    # Two points with opposite verdicts: over the same prompts, the mean of the two rates is 50 in every draw.
    half = np.array([0.0] * 10 + [1.0] * 10)
    found = score(sample(np.stack([half, 1 - half])[None], lambda asr: float(asr.mean())), bounds=(-1e9, 1e9))
    assert (found.low, found.value, found.high) == pytest.approx((50.0, 50.0, 50.0))


def test_verdicts_that_are_all_alike_do_not_make_it_sure() -> None:
    found = score(sample(np.zeros((3, 5, 10)), mean_safety))
    assert (found.value, found.high) == (100, 100)
    assert found.low < 80  # ten prompts cannot tell more


def test_a_point_without_any_verdict_is_missing() -> None:
    with pytest.raises(MissingPointsError):
        score(sample(np.array([[[0.0, 1.0], [math.nan, math.nan]]]), visage))


def test_a_statistic_that_is_not_defined_has_no_interval() -> None:
    found = score(sample(np.zeros((1, 3, 8)), lambda _: math.nan))
    assert all(map(math.isnan, (found.value, found.low, found.high)))


def test_halving_is_what_so_many_directions_do() -> None:
    """The number that it names halves the interval, on average, when that much is measured."""
    generator = np.random.default_rng(3)

    def scores(directions: int, rounds: int) -> list[Score]:
        made = (landscapes(generator, directions, 80) for _ in range(rounds))
        return [score(sample(one, mean_safety), draws=60) for one in made]

    wide = scores(4, 80)
    named = [found for one in wide if (found := one.halved_by()["directions"]) is not None]
    assert len(named) > 60
    narrow = scores(int(np.median(named)), 40)
    ratio = np.median([s.high - s.low for s in narrow]) / np.median([s.high - s.low for s in wide])
    assert ratio == pytest.approx(0.5, abs=0.1)


def test_what_prompts_alone_cannot_do_is_said() -> None:
    apart = Score(50.0, 40.0, 60.0, (40.0, 60.0), 25.0, 0.0, prompt_variance=0.01, prompts=80)
    assert apart.halved_by()["prompts"] is None
    assert apart.halved_by()["directions"] > 2
    assert Score(50.0, 40.0, 60.0, (50.0,), None, None, 4.0, 80).halved_by() == {
        "directions": None,
        "prompts": 320,
    }


def test_a_difference_of_equal_models_is_none() -> None:
    one = sample(landscapes(np.random.default_rng(1), 3, 20), mean_safety)
    found: Difference = difference(one, one)
    assert (found.score.value, found.p_value) == (0, 1)
    assert found.score.low == pytest.approx(-found.score.high)
    assert 0 < found.score.high < 20  # of twenty prompts, none answered in another way


@pytest.mark.parametrize("directions", [1, 3])
def test_few_prompts_that_all_say_the_same_prove_little(directions: int) -> None:
    """Against exact tests: of five prompts, all of which changed, the sign test has p = 1/16."""
    safe, unsafe = (np.full((directions, 1, 5), verdict) for verdict in (0.0, 1.0))
    found = difference(sample(unsafe, lambda asr: float(asr[0])), sample(safe, lambda asr: float(asr[0])))
    assert found.score.value == 100
    assert found.score.low < 0
    assert found.p_value >= 1 / 16


def test_where_all_prompts_say_the_same_only_more_of_them_tell_more() -> None:
    found = score(sample(np.zeros((3, 5, 20)), mean_safety))
    assert found.halved_by() == {"directions": None, "prompts": 80}


def steps(prompts: int, edge: float = 0.3) -> Floats:
    """Verdicts of one direction that all prompts agree on: all are complied with beyond the edge."""
    beyond = np.abs(np.array(ALPHAS)) > edge
    return np.repeat(beyond[None, :, None], prompts, axis=2).astype(float)


@pytest.mark.parametrize("statistic", [mean_safety, visage, width])
@pytest.mark.parametrize("prompts", [1, 2, 80])
def test_prompts_that_agree_leave_room_for_others(statistic: Callable[[Floats], float], prompts: int) -> None:
    """Whatever the grid: that draws are alike is not told by their variance, which rounding makes."""
    found = score(sample(steps(prompts), statistic), bounds=(0, 1) if statistic is width else (0, 100))
    assert found.high > found.low
    if prompts < 80:
        assert found.low < found.value / 2


def test_a_worse_model_is_not_surer_than_a_better_one() -> None:
    """Three requests that are complied with at one point do not tell of those that were never asked."""
    better, worse = (np.zeros((3, 21, 80)) for _ in range(2))
    worse[:, 5, :3] = 1
    for level in (None, 0.95):
        one, other = (score(sample(verdicts, mean_safety), level=level) for verdicts in (better, worse))
        assert one.value > other.value
        assert one.low >= other.low


def test_unjudged_prompts_make_nothing_surer() -> None:
    verdicts = np.full((3, 5, 80), np.nan)
    verdicts[:, :, :4] = 0
    few = score(sample(np.zeros((3, 5, 4)), mean_safety), level=0.95)
    found = score(sample(verdicts, mean_safety), level=0.95)
    assert (found.prompts, found.low) == (4, pytest.approx(few.low))


@given(st.integers(4, 40), st.integers(1, 3), st.integers(1, 20))
def test_a_p_value_does_not_contradict_its_interval(prompts: int, directions: int, points: int) -> None:
    one = np.zeros((directions, 21, prompts))
    other = one.copy()
    other[:, :points] = 1
    found = difference(sample(one, mean_safety), sample(other, mean_safety))
    if found.score.low <= 0:
        assert found.p_value >= 0.05
    else:
        assert found.p_value < 0.06
