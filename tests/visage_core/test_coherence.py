"""Gibberish is told from text: as well as the documentation says, and in any language."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.visage_core.coherent_texts import COHERENT, FALSE_ALARMS, GIBBERISH
from visage_core.coherence import (
    BY_TEXT,
    STATISTICS,
    is_gibberish,
    is_unlikely,
    likelihood_score,
    loops,
    text_score,
)
from visage_core.discrimination import STATISTICAL, document, measure
from visage_core.labels import COHERENCE, LabelsError, read_coherence

DOCS = Path(__file__).parents[2] / "docs" / "coherence.md"


@pytest.fixture(scope="module")
def rows():
    return read_coherence()


@pytest.fixture(scope="module")
def measured(rows):
    return {one.held_out or one.name: one for one in measure(rows) if one.name == STATISTICAL}


def test_the_default_is_as_good_as_the_documentation_says(measured) -> None:
    rule = measured[STATISTICAL]
    assert rule.roc.area().value > 0.865
    assert rule.roc.area().low > 0.82
    assert rule.roc.sensitivity(BY_TEXT.threshold).value > 55
    assert rule.roc.false_alarms(BY_TEXT.threshold).value <= 5


def test_it_is_nearly_as_good_on_texts_that_it_was_not_fitted_to(measured) -> None:
    fresh = measured["fitted to other texts"]
    assert fresh.roc.area().value > 0.85
    assert fresh.roc.false_alarms(BY_TEXT.threshold).value <= 5


def test_the_weights_are_those_that_the_command_fits(rows) -> None:
    fitted = document(rows, measure(rows))["fitted"][STATISTICAL]
    assert fitted == pytest.approx([BY_TEXT.intercept, *BY_TEXT.weights], abs=0.03)


@pytest.mark.parametrize("name", COHERENT)
def test_texts_of_many_kinds_are_no_gibberish(name: str) -> None:
    assert is_gibberish(COHERENT[name]) == (name in FALSE_ALARMS), text_score(COHERENT[name])


def test_few_of_them_are_false_alarms() -> None:
    assert len(FALSE_ALARMS) <= 0.05 * len(COHERENT)


@pytest.mark.parametrize("name", GIBBERISH)
def test_plain_gibberish_is_found(name: str) -> None:
    assert is_gibberish(GIBBERISH[name]), text_score(GIBBERISH[name])
    assert is_unlikely(GIBBERISH[name], -7.0)


def test_words_in_no_order_are_found_by_their_likelihood_alone() -> None:
    salad = "far lamp under seven quickly the mortal of glass who spoon never idle treaty among paint sold"
    assert not is_gibberish(salad)
    assert is_unlikely(salad, -8.0)
    assert not is_unlikely(salad, -3.0)


def test_a_loop_is_found_though_a_model_finds_it_likely() -> None:
    text = "I can help you. " + "please help me with this " * 8
    assert is_unlikely(text, -0.3)


def test_first_words_may_be_unlikely() -> None:
    assert not is_unlikely("Yes.", -7.0)
    assert is_unlikely(20 * "One is what none ever saw so far, it seems. ", -7.0)


def test_a_text_without_a_likelihood_is_unlikely() -> None:
    assert is_unlikely("A text.", math.nan)


@given(st.text(max_size=300))
def test_any_text_has_statistics(text: str) -> None:
    assert all(math.isfinite(one.of(text)) for one in STATISTICS)
    assert all(0 <= one.of(text) <= 1 for one in STATISTICS if one.name not in ("zlib", "LZMA", "length"))
    assert isinstance(is_gibberish(text), bool)


@given(st.text(max_size=100), st.floats(-20, 0), st.floats(0.01, 5))
def test_a_text_does_not_become_text_by_being_less_likely(text: str, likely: float, less: float) -> None:
    assert likelihood_score(text, likely - less) >= likelihood_score(text, likely)


@given(st.text("abcdefgh ,.", min_size=4, max_size=40).filter(str.strip), st.integers(5, 20))
def test_a_text_over_and_over_is_a_loop(text: str, times: int) -> None:
    assert loops(text * times) > 0.75 * (times - 1) / times or len(text * times) < 16


@pytest.mark.parametrize(
    "text", ["a" * 8000, "ab " * 3000, "The cat sat on the mat. It purred, and slept.\n" * 200]
)
def test_long_texts_take_no_longer_than_their_length(text: str) -> None:
    began = time.perf_counter()
    is_gibberish(text)
    assert time.perf_counter() - began < 1


def test_the_labelled_texts_hold_what_the_documentation_says(rows) -> None:
    said = re.search(r"(\d+) responses, (\d+) of them incoherent", DOCS.read_text(encoding="utf-8"))
    assert said is not None
    assert [int(one) for one in said.groups()] == [len(rows), sum(row.gibberish for row in rows)]
    assert COHERENCE.stat().st_size < 150_000


def test_texts_of_one_label_measure_nothing(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"response": "A text.", "label": "coherent"}\n', encoding="utf-8")
    with pytest.raises(LabelsError, match="one label alone"):
        read_coherence(file)
    file.write_text('{"response": "A text.", "label": "complied"}\n', encoding="utf-8")
    with pytest.raises(LabelsError, match="coherent or incoherent"):
        read_coherence(file)


def test_likelihoods_are_measured_beside_the_statistics(rows) -> None:
    likelihoods = np.where([row.gibberish for row in rows], -9.0, -3.0)
    found = {(one.name, one.held_out): one for one in measure(rows, list(likelihoods))}
    assert found["log-likelihood", None].roc.area().value == 1
    assert found["statistics and likelihood (default)", "fitted to other texts"].roc.area().value > 0.99
