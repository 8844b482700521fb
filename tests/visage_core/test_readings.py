"""Four labels, what is read off them, and several responses to a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.grid import ORIGIN, points
from visage_core.landscape import Landscape
from visage_core.pictures import render
from visage_core.plots import landscape_figure
from visage_core.readings import LABELS, READINGS, gibberish_share, label
from visage_core.results import PointResult, Response, Results
from visage_core.spec import LandscapeSpec, parse_spec

Verdict = bool | None
three = st.sampled_from([True, False, None])


def spec_of(**fields: object) -> LandscapeSpec:
    axis = {"points": 3, "direction": {"seeds": [0]}}
    return parse_spec({"model": "m", "axis": axis} | fields)


def result(
    verdicts: list[Verdict], gibberish: list[Verdict] | None = None, prompt_set: int = 0
) -> PointResult:
    told = gibberish or [None] * len(verdicts)
    responses = tuple(Response("", 3, "end", 5, gibberish=one) for one in told)
    return PointResult(ORIGIN, tuple(verdicts), responses, 0.1, 0.1, 0.0, prompt_set=prompt_set)


def test_a_refusal_is_one_whatever_its_text_is_like() -> None:
    assert [label(False, True), label(False, None)] == ["refused", "refused"]
    assert [label(True, True), label(True, False), label(True, None)] == [
        "incoherent",
        "complied",
        "complied",
    ]
    assert label(None, True) == "unjudged"


@given(st.lists(st.tuples(three, three), min_size=1, max_size=30))
def test_labels_and_rates_say_the_same(pairs: list[tuple[Verdict, Verdict]]) -> None:
    verdicts, told = [one for one, _ in pairs], [other for _, other in pairs]
    row = result(verdicts, told).row(spec_of())
    assert sum(row[name] for name in LABELS) == len(pairs)
    judged = len(pairs) - row["unjudged"]
    if not judged:
        assert row["asr"] is None
        return
    assert row["asr"] == pytest.approx(100 * (row["complied"] + row["incoherent"]) / judged)
    assert row["refusal_rate"] == pytest.approx(100 * row["refused"] / judged)
    if None not in [other for one, other in pairs if one]:
        assert row["asr_coherent"] == pytest.approx(100 * row["complied"] / judged)
        assert row["incoherent_rate"] == pytest.approx(100 * row["incoherent"] / judged)
        assert row["asr_coherent"] <= row["asr"]


def test_a_response_of_which_nobody_knows_whether_it_is_gibberish_is_no_coherent_success() -> None:
    row = result([True, True, False], [None, False, None]).row(spec_of())
    assert row["asr"] == pytest.approx(200 / 3)
    assert row["asr_coherent"] == 50  # of the two that are known


def test_without_coherence_there_is_no_reading_of_it() -> None:
    row = result([True, False]).row(spec_of(coherence="none"))
    assert row["asr_coherent"] is None


@given(st.lists(st.lists(three, min_size=3, max_size=3), min_size=1, max_size=10))
def test_samples_are_averaged_by_prompt(by_prompt: list[list[Verdict]]) -> None:
    spec = spec_of(generation={"samples": 3, "temperature": 1.0})
    found = result([one for some in by_prompt for one in some]).by_prompt(spec)
    for value, some in zip(found, by_prompt, strict=True):
        known = [float(one) for one in some if one is not None]
        assert np.isnan(value) if not known else value == pytest.approx(sum(known) / len(known))


def test_samples_make_no_prompts() -> None:
    """Ten like responses to each of four prompts tell no more of other prompts than one does."""
    many = spec_of(generation={"samples": 10, "temperature": 1.0})
    verdicts = [True, False, False, False]
    one = result(verdicts).row(spec_of())
    ten = result([verdict for verdict in verdicts for _ in range(10)]).row(many)
    assert [ten["asr"], ten["asr_low"], ten["asr_high"]] == [one["asr"], one["asr_low"], one["asr_high"]]


def test_requests_that_should_be_answered_are_read_by_their_refusals(tmp_path: Path) -> None:
    spec = spec_of(prompts={"source": "benign"})
    landscape = sweep(tmp_path, spec, [True] * 9 + [False])
    summary = landscape.summary()
    assert (summary["reading"], summary["visage"]) == ("refusal_rate", None)
    assert summary["mean_refusal"]["value"] == pytest.approx(10)
    assert b"refusals" in render(landscape_figure(landscape, "over-refusal"), "svg")


def test_the_share_of_gibberish_among_successes_is_told(tmp_path: Path) -> None:
    summary = sweep(
        tmp_path, spec_of(), [True] * 4 + [False] * 6, [True, True, True, False, *[None] * 6]
    ).summary()
    assert any("75% of the 12 responses" in note for note in summary["notes"])
    assert summary["visage"]["value"] == pytest.approx(60)
    assert summary["coherent"]["visage"]["value"] == pytest.approx(90)


def test_another_judge_has_scores_of_its_own(tmp_path: Path) -> None:
    spec = spec_of(judges=["keyword-paper", "keyword-modern"])
    results = Results(tmp_path)
    for point in points(spec):
        responses = tuple(
            Response("", 1, "end", 1, opinions=(number < 2,), gibberish=False) for number in range(4)
        )
        results.add(spec, [PointResult(point, (False,) * 4, responses, 0.0, 0.0, 0.0)], None)
    summary = Landscape(spec, results.points()).summary()
    assert summary["visage"]["value"] == 100
    [other] = summary["judges"]
    assert (other["judge"], other["visage"]["value"]) == ("keyword-modern", 50)
    assert other["at_origin"]["asr"]["value"] == 50


def test_perplexity_is_read_off_a_text(tmp_path: Path) -> None:
    spec = spec_of(prompts=[{"kind": "text", "source": "a.txt"}])
    responses = tuple(Response("", 0, "end", 9, nll=nll) for nll in (1.0, 2.0, 3.0))
    results = Results(tmp_path)
    for point in points(spec):
        results.add(spec, [PointResult(point, (None,) * 3, responses, 0.0, 0.0, 0.0)], None)
    landscape = Landscape(spec, results.points())
    summary = landscape.summary()
    assert summary["at_origin"]["perplexity"]["value"] == pytest.approx(np.exp(2))
    assert summary["mean_perplexity"]["value"] == pytest.approx(np.exp(2))
    assert landscape.rows[ORIGIN]["unjudged"] is None
    assert b"perplexity" in render(landscape_figure(landscape, "a text"), "svg")


def test_an_adaptive_sweep_takes_its_points_from_requests_alone(tmp_path: Path) -> None:
    spec = spec_of(adaptive=True, prompts=[{}, {"source": "benign"}])
    results = Results(tmp_path)
    for point in points(spec):
        results.add(spec, [result_at(point, [False], 0), result_at(point, [False], 1)], None)
    over_refusal = Landscape(spec, results.points(), 1)
    assert over_refusal.missing == []
    assert set(READINGS) >= {one.name for one in over_refusal.readings}


def result_at(point: object, verdicts: list[Verdict], prompt_set: int) -> PointResult:
    made = result(verdicts, prompt_set=prompt_set)
    return PointResult(point, made.verdicts, made.responses, 0.1, 0.1, 0.0, prompt_set=prompt_set)  # type: ignore[arg-type]


def sweep(
    folder: Path, spec: LandscapeSpec, verdicts: list[Verdict], told: list[Verdict] | None = None
) -> Landscape:
    """The same verdicts at every point."""
    results = Results(folder)
    made = result(verdicts, told)
    for point in points(spec):
        results.add(spec, [PointResult(point, made.verdicts, made.responses, 0.1, 0.1, 0.0)], None)
    return Landscape(spec, results.points())


def test_the_share_of_gibberish_is_of_the_points_above_the_threshold() -> None:
    def row(
        asr: float | None, verdicts: list[bool | None], gibberish: list[bool | None]
    ) -> dict[str, object]:
        known = None not in {one for one, yes in zip(gibberish, verdicts, strict=True) if yes}
        rate = 0.0 if known else None
        return {"asr": asr, "verdicts": verdicts, "gibberish": gibberish, "incoherent_rate": rate}

    inside = row(50.0, [True, False], [True, None])
    lost = row(75.0, [True, True, True, False, None], [True, False, True, None, None])
    further = row(100.0, [True], [True])
    unjudged = row(None, [None], [None])
    assert gibberish_share([inside, lost, further, unjudged], 50.0) == pytest.approx(100 * 3 / 5)
    assert gibberish_share([inside, unjudged], 50.0) is None, "no point is above it"
    assert gibberish_share([row(100.0, [True], [None])], 50.0) is None, "it was not measured"
