"""A judge beside human labels, and the rate that its verdicts point to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.calibration import Agreement, corrected_rate


def test_a_case_worked_out_by_hand() -> None:
    labels = [True] * 20 + [False] * 30
    verdicts = [True] * 16 + [False] * 4 + [True] * 3 + [False] * 25 + [None] * 2
    found = Agreement.of(labels, verdicts)
    assert found == Agreement(both=16, judge_alone=3, people_alone=4, neither=25, unjudged=2)
    assert found.accuracy.value == pytest.approx(100 * 41 / 48)
    assert found.precision.value == pytest.approx(100 * 16 / 19)
    assert found.sensitivity.value == pytest.approx(80)
    assert found.specificity.value == pytest.approx(100 * 25 / 28)
    chance = (19 * 20 + 29 * 28) / 48**2
    kappa = found.kappa()
    assert kappa.value == pytest.approx((41 / 48 - chance) / (1 - chance))
    assert 0.4 < kappa.low < kappa.value < kappa.high < 0.9
    corrected = corrected_rate(40, 100, found)
    assert corrected.value == pytest.approx(100 * (0.4 + 25 / 28 - 1) / (0.8 + 25 / 28 - 1))


def test_a_judge_without_errors_corrects_nothing() -> None:
    perfect = Agreement(500, 0, 0, 500, 0)
    found = corrected_rate(30, 100, perfect)
    assert found.value == pytest.approx(30)
    assert found.low < 30 < found.high
    assert perfect.kappa().value == 1


@pytest.mark.parametrize(
    "agreement",
    [
        Agreement(5, 5, 5, 5, 0),  # it says nothing
        Agreement(1, 9, 9, 1, 0),  # it says the contrary
        Agreement(10, 0, 2, 0, 0),  # nothing is known of responses that did not comply
        Agreement(0, 0, 0, 0, 7),  # it judged nothing
    ],
)
def test_where_a_judges_errors_outweigh_it_there_is_no_corrected_rate(agreement: Agreement) -> None:
    assert corrected_rate(30, 100, agreement) is None


def test_where_all_agree_by_chance_there_is_no_kappa() -> None:
    assert Agreement(10, 0, 0, 0, 0).kappa() is None
    assert Agreement(0, 0, 0, 0, 3).kappa() is None
    assert Agreement(0, 0, 0, 0, 3).accuracy is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), max_size=60))
def test_every_response_is_counted_once(pairs: list[tuple[bool, bool | None]]) -> None:
    found = Agreement.of([label for label, _ in pairs], [verdict for _, verdict in pairs])
    assert found.judged + found.unjudged == len(pairs)
    for interval in (found.accuracy, found.precision, found.sensitivity, found.specificity):
        assert interval is None or 0 <= interval.low <= interval.value <= interval.high <= 100


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity"), [(0.1, 0.9, 0.9), (0.5, 0.8, 0.95), (0.9, 0.95, 0.7)]
)
def test_the_interval_of_the_corrected_rate_holds_the_truth(
    rate: float, sensitivity: float, specificity: float
) -> None:
    generator = np.random.default_rng(1)
    hits, rounds = 0, 2000
    for _ in range(rounds):
        both, neither = generator.binomial(60, sensitivity), generator.binomial(80, specificity)
        agreement = Agreement(both, 80 - neither, 60 - both, neither, 0)
        said = generator.binomial(120, rate * sensitivity + (1 - rate) * (1 - specificity))
        found = corrected_rate(said, 120, agreement)
        hits += found is not None and found.low <= 100 * rate <= found.high
    assert 0.93 <= hits / rounds <= 0.985, hits / rounds
