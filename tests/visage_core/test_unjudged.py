"""No interval is narrower than its sample allows: unjudged responses, and samples that all say the same, make
nothing surer."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.visage_core.test_uncertainty import CASES, paired, sample, truth, width
from visage_core.calibration import Agreement, corrected_rate
from visage_core.metrics import Floats, exact_rate, mean_safety, missed_of, missed_share, visage
from visage_core.roc import Roc
from visage_core.uncertainty import Score, are_alike, difference, running_visage, score

ROUNDING = 1e-6
STEPS = np.array([1.0, 0.0, 0.0, 0.0, 1.0])  # verdicts at the points of a basin
WORSE = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
counts = st.integers(0, 40)


def agreed(curve: Floats, prompts: int, directions: int = 1) -> Floats:
    """Verdicts that all prompts agree on: shape (directions, points, prompts)."""
    return np.tile(curve[None, :, None], (directions, 1, prompts))


def scattered(verdicts: Floats, unjudged: int, seed: int = 0) -> Floats:
    """The same without so many verdicts at each point, each time of other prompts."""
    generator, hidden = np.random.default_rng(seed), verdicts.copy()
    for point in hidden.reshape(-1, hidden.shape[-1]):
        point[generator.choice(len(point), unjudged, replace=False)] = np.nan
    return hidden


def holds(wide: Score, narrow: Score) -> bool:
    """Whether an interval is not narrower than another; one that is not defined says nothing at all."""
    return math.isnan(wide.low) or (wide.low <= narrow.low + ROUNDING and wide.high >= narrow.high - ROUNDING)


def test_six_prompts_with_four_unjudged_responses_are_no_surer_than_six() -> None:
    whole = agreed(STEPS, 6)
    hidden = whole.copy()
    hidden[0, range(4), range(4)] = np.nan
    for statistic, value, low in ((mean_safety, 60, 33), (visage, 100, 55)):
        found = score(sample(hidden, statistic))
        assert found.value == pytest.approx(value)
        assert found.low < low
        assert holds(found, score(sample(whole, statistic)))


def test_a_comparison_of_six_prompts_with_unjudged_responses_is_no_surer() -> None:
    one, other = agreed(STEPS, 6), agreed(WORSE, 6)
    hidden = one.copy()
    hidden[0, range(4), range(4)] = np.nan
    whole = difference(sample(one, mean_safety), sample(other, mean_safety))
    found = difference(sample(hidden, mean_safety), sample(other, mean_safety))
    assert found.score.low < 0 < found.score.high
    assert found.p_value >= whole.p_value > 0.2


@pytest.mark.parametrize("statistic", [mean_safety, visage])
def test_three_of_eighty_unjudged_at_each_point_make_nothing_surer(statistic) -> None:  # type: ignore[no-untyped-def]
    whole = agreed(STEPS, 80)
    found, before = (score(sample(one, statistic)) for one in (scattered(whole, 3), whole))
    assert found.high - found.low > 4
    assert holds(found, before)


@given(st.data(), st.integers(1, 3), st.integers(2, 40), st.sampled_from([None, 0.95]))
@settings(max_examples=40)
def test_to_hide_verdicts_makes_no_interval_narrower(
    data: st.DataObject, directions: int, prompts: int, level: float | None
) -> None:
    """Whatever is hidden, where the prompts agree: the hidden ones would have, too."""
    curves = [np.array(data.draw(st.lists(st.integers(0, 1), min_size=5, max_size=5))) for _ in range(2)]
    one, other = (agreed(curve.astype(float), prompts, directions) for curve in curves)
    share = data.draw(st.floats(0, 0.9))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    hide = generator.random((2, *one.shape)) < share
    hide[..., 0] = False
    hidden, other_hidden = (
        np.where(where, np.nan, all_of) for where, all_of in zip(hide, (one, other), strict=True)
    )
    for statistic in (mean_safety, visage):
        found, before = (score(sample(v, statistic), level=level, draws=40) for v in (hidden, one))
        assert found.value == pytest.approx(before.value)
        assert holds(found, before)
        less, whole = (
            difference(sample(v, statistic), sample(w, statistic), level=level, draws=40)
            for v, w in ((hidden, other_hidden), (one, other))
        )
        if math.isnan(less.score.low):  # too many draws have nothing judged at a point
            assert math.isnan(less.p_value)
        else:
            assert holds(less.score, whole.score)
            assert less.p_value >= whole.p_value - ROUNDING


@given(st.integers(1, 3), st.integers(1, 60), st.integers(0, 59), st.booleans(), st.integers(0, 100))
def test_prompts_that_agree_tell_no_more_than_an_exact_interval(
    directions: int, prompts: int, unjudged: int, complied: bool, seed: int
) -> None:
    assume(unjudged < prompts)
    verdicts = scattered(np.full((directions, 3, prompts), float(complied)), unjudged, seed)
    exact = exact_rate(np.full(prompts - unjudged, float(complied)))
    assert exact is not None
    found = score(sample(verdicts, mean_safety), draws=40)
    if not math.isnan(found.low):
        assert found.high - found.low >= exact.high - exact.low - ROUNDING
    if complied:  # no point is below 100 %, and other prompts may make some
        assert score(
            sample(verdicts, visage), draws=40
        ).high >= exact.high - exact.low - ROUNDING or math.isnan(found.low)


def test_no_basin_of_four_prompts_may_be_one_of_others() -> None:
    found = score(sample(np.ones((1, 5, 4)), visage))
    assert (found.value, found.low) == (0, 0)
    assert found.high > 50
    both = difference(sample(np.ones((2, 5, 4)), visage), sample(np.ones((2, 5, 4)), visage), level=0.95)
    assert both.score.low < -50


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 3), st.data())
def test_columns_are_alike_but_for_as_few_as_have_to_be_left_out(
    columns: int, rows: int, spare: int, data: st.DataObject
) -> None:
    """Against all ways to leave some out."""
    cell = st.sampled_from([0.0, 1.0, 0.5, math.nan])
    values = np.array([[data.draw(cell) for _ in range(columns)] for _ in range(rows)])

    def agree(kept: tuple[int, ...]) -> bool:
        return all(len({v for v in row[list(kept)] if not math.isnan(v)}) <= 1 for row in values)

    fewest = max(size for size in range(columns + 1) if any(map(agree, combinations(range(columns), size))))
    assert are_alike(values, spare) == (columns - fewest <= spare)


def test_a_point_where_next_to_nothing_is_judged_is_not_sure() -> None:
    """Prompts differ elsewhere, and all but three verdicts of a point are missing."""
    verdicts = agreed(np.array([0.0, 0.0]), 80)
    verdicts[0, 0, :40] = 1
    whole = score(sample(verdicts, mean_safety))
    verdicts[0, 1, 4:] = np.nan
    found = score(sample(verdicts, mean_safety))
    assert whole.value == found.value == 75
    assert found.low < whole.low - 10


@pytest.mark.parametrize("name", CASES)
def test_intervals_hold_the_truth_with_unjudged_responses(name: str) -> None:
    statistic, made = CASES[name]
    generator, hits, rounds = np.random.default_rng(7), 0, 150
    for number in range(rounds):
        verdicts = scattered(made(generator, 3, 80), 4, number)
        found = score(sample(verdicts, statistic), draws=60)
        hits += found.low <= truth(name) <= found.high
    assert 0.93 <= hits / rounds <= 0.97, hits / rounds


@pytest.mark.parametrize(("directions", "draws"), [(1, 200), (3, 60)])
def test_differences_hold_theirs_with_unjudged_responses(directions: int, draws: int) -> None:
    hits, rounds = 0, 100
    for seed in range(rounds):
        one, other = (scattered(paired(seed, directions, 0.0, model), 4, seed + model) for model in (0, 1))
        found = difference(sample(one, mean_safety), sample(other, mean_safety), draws=draws)
        hits += found.score.low <= 0 <= found.score.high
    assert 0.93 <= hits / rounds <= 0.985, hits / rounds


@pytest.mark.parametrize("prompts", [3, 4])
def test_few_prompts_that_differ_are_told_by_t(prompts: int) -> None:
    """The bootstrap's percentiles of four prompts end at what these four say."""
    verdicts = np.array(
        [[float(abs(step - 10) > 2 + prompt) for prompt in range(prompts)] for step in range(21)]
    )
    found = score(sample(verdicts[None], mean_safety))
    each = 100 * (1 - verdicts.mean(axis=0))
    assert found.low < each.min()
    assert found.high > each.max()


def test_windows_that_are_few_have_at_least_their_t_interval() -> None:
    nll = np.array([[[0.020, 0.021]]])
    one = sample(nll, lambda found: float(np.exp(found[0])))
    found = score(type(one)(one.verdicts, one.curves, one.statistics, are_rates=False), (1.0, math.inf))
    assert found.high - found.low > 1


def test_points_that_are_few_make_no_running_estimate_sure() -> None:
    """Five of 21 points, all safe, and of many prompts: the others may be anything."""
    found = running_visage(np.zeros((5, 1000)), [list(range(5))], [21])
    assert found is not None
    assert found.low == pytest.approx(100 * (1 - 9 / 21))
    whole = running_visage(np.zeros((21, 1000)), [list(range(21))], [21])
    assert whole is not None
    assert whole.low > 99


@given(st.integers(1, 60), st.data())
def test_as_many_as_were_missed_are_missed_with_the_chance_that_is_said(n: int, data: st.DataObject) -> None:
    drawn = data.draw(st.integers(1, n))
    unlike = missed_of(n, drawn)

    def chance(count: int) -> float:
        return math.comb(n - count, drawn) / math.comb(n, drawn)

    assert chance(unlike) >= 0.025 - 1e-12
    assert chance(unlike + 1) < 0.025 + 1e-12


@given(counts, counts, counts, counts, st.integers(1, 200), st.data())
def test_a_corrected_rate_is_no_surer_than_its_labels(
    both: int, alone: int, people: int, neither: int, judged: int, data: st.DataObject
) -> None:
    agreement = Agreement(both, alone, people, neither, 0)
    found = corrected_rate(data.draw(st.integers(0, judged)), judged, agreement)
    if found is not None:
        least = 100 * missed_share(min(judged, agreement.judged))
        assert found.high - found.low >= least - ROUNDING
        assert 0 <= found.low <= found.value <= found.high <= 100


def test_forty_labels_do_not_make_a_rate_certain() -> None:
    found = corrected_rate(40, 40, Agreement(5, 2, 3, 30, 0))
    assert found is not None
    assert found.value == 100
    assert found.low < 100 * 0.025 ** (1 / 40) + ROUNDING


@given(counts, counts, counts, counts)
def test_kappa_of_few_labels_is_not_certain(both: int, alone: int, people: int, neither: int) -> None:
    agreement = Agreement(both, alone, people, neither, 0)
    found = agreement.kappa()
    if found is not None:
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low >= missed_share(agreement.judged) / 2


def test_three_labels_say_next_to_nothing_of_kappa() -> None:
    found = Agreement(0, 1, 0, 2, 0).kappa()
    assert found is not None
    assert found.value == 0
    assert found.high - found.low > 0.9


@pytest.mark.parametrize(
    ("positive", "negative"), [([1.0], [1.0]), ([1.0] * 5, [1.0] * 3), ([2.0] * 4, [1.0] * 4), ([0.0], [1.0])]
)
def test_the_area_of_few_texts_is_not_certain(positive: list[float], negative: list[float]) -> None:
    found = Roc(np.array(positive), np.array(negative)).area()
    assert found.high - found.low >= missed_share(min(len(positive), len(negative))) - ROUNDING


def test_a_width_that_all_prompts_agree_on_is_one_of_these_prompts() -> None:
    curve = (np.abs(np.linspace(-0.5, 0.5, 21)) > 0.3).astype(float)
    whole = agreed(curve, 80, 3)
    found, before = (score(sample(one, width), (0, 1)) for one in (scattered(whole, 3), whole))
    assert holds(found, before)
    assert found.low < found.value < found.high
