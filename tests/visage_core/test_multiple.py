"""p-values that are corrected for their number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.multiple import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_the_textbook_example() -> None:
    """Four tests, stepping down by 4, 3, 2, 1; no adjusted value is below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(P_VALUES)
def test_it_is_between_none_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p_value, found in zip(p_values, adjusted, strict=True):
        assert p_value <= found <= min(1.0, len(p_values) * p_value) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_it_errs_in_any_of_the_tests_no_more_often_than_the_level() -> None:
    drawn = np.random.default_rng(0).uniform(size=(4000, 8))
    errs = np.mean([min(holm(list(one))) <= 0.05 for one in drawn])
    assert errs <= 0.06
    assert np.mean(drawn.min(axis=1) <= 0.05) > 0.3  # without it
