"""ROC curves, and weights fitted to features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from visage_core.logistic import fit, held_out
from visage_core.roc import Roc

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda found: np.array(found, float))


def test_a_case_worked_out_by_hand() -> None:
    roc = Roc(np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0]))
    assert roc.area().value == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)
    assert roc.sensitivity(1.0).value == pytest.approx(200 / 3)
    assert roc.false_alarms(1.0).value == 50
    assert roc.threshold(0.0) == 2.0
    assert roc.threshold(0.5) == 0.0


@given(scores, scores)
def test_the_area_is_under_the_curve(positive: np.ndarray, negative: np.ndarray) -> None:
    roc = Roc(positive, negative)
    x, y = roc.curve()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 100, 100)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    area = roc.area()
    assert area.value == pytest.approx(np.trapezoid(y, x) / 10_000)
    assert area.low <= area.value + 1e-9
    assert area.value <= area.high + 1e-9
    assert Roc(negative, positive).area().value == pytest.approx(1 - area.value)


@given(scores, scores, st.sampled_from([0.0, 0.05, 0.5]))
def test_a_threshold_keeps_false_alarms(positive: np.ndarray, negative: np.ndarray, share: float) -> None:
    roc = Roc(positive, negative)
    assert roc.false_alarms(roc.threshold(share)).value <= 100 * share + 1e-9


def test_known_weights_are_found() -> None:
    generator = np.random.Generator(np.random.Philox(1))
    features = generator.random((4000, 2)) * 4
    positive = generator.random(4000) < expit(-2 + 1.5 * features[:, 0])
    found = fit(features, positive)
    assert found == pytest.approx([-2, 1.5, 0], abs=0.2)
    assert found[2] >= 0
    apart = held_out(features, positive, [number % 5 for number in range(4000)])
    assert apart == pytest.approx(found[0] + features @ found[1:], abs=0.5)


def test_a_row_has_no_part_in_its_own_score() -> None:
    features = np.array([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
    positive = np.array([False, False, False, True, True, True])
    scores = held_out(features, positive, [0, 1, 2, 3, 4, 5])
    positive[0] = True
    assert held_out(features, positive, [0, 1, 2, 3, 4, 5])[0] == scores[0]
