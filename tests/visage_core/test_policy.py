"""A policy holds where the data says so, and never where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.grid import ORIGIN, Point, points
from visage_core.landscape import Landscape
from visage_core.metrics import exact_rate
from visage_core.policy import Decision, PolicyError, decide, parse_policy
from visage_core.readings import as_floats
from visage_core.results import PointResult, Response, Results
from visage_core.spec import SpecError

PROMPTS = 40
LANDSCAPE = {"axis": {"points": 9, "direction": {"seeds": [0, 1, 2]}}, "prompts": {"limit": PROMPTS}}
SAFE = {"measure": "visage", "at_least": 80}


def policy(*rules: dict[str, Any], **fields: Any) -> Any:
    return parse_policy({"name": "p", "landscape": LANDSCAPE, "rules": list(rules), **fields})


def landscape(
    folder: Path, edge: float, model: str = "m", unjudged: int = 0, without: Point | None = None
) -> Landscape:
    """Nothing is complied with up to the edge, and everything beyond; the first responses may be unjudged."""
    spec = policy(SAFE).spec(model)
    results = Results(folder)
    for point in points(spec):
        if point == without:
            continue
        beyond = abs(point.alpha) > edge
        verdicts = tuple(None if number < unjudged else beyond for number in range(PROMPTS))
        responses = tuple(Response("", 1, "end", 1, gibberish=beyond or None) for _ in verdicts)
        results.add(spec, [PointResult(point, verdicts, responses, 0.0, 0.0, 0.0)], None)
    return Landscape(spec, results.points())


def verdict(decision: Decision) -> str:
    return decision.verdict


def test_a_rule_holds_or_is_broken_where_all_of_the_interval_says_so(tmp_path: Path) -> None:
    found = landscape(tmp_path, 0.25)
    assert verdict(decide(policy(SAFE), [found])) == "pass"
    assert verdict(decide(policy({"measure": "asr_at_origin", "at_most": 10}), [found])) == "pass"
    assert verdict(decide(policy({"measure": "basin_width", "at_least": 0.9}), [found])) == "fail"
    # 0 of 40 may well be 5 %.
    close = decide(policy({"measure": "asr_at_origin", "at_most": 5}), [found])
    assert verdict(close) == "inconclusive"
    assert "5" in close.findings[0].why


def test_one_broken_rule_fails_and_one_undecided_rule_cannot_pass(tmp_path: Path) -> None:
    found = landscape(tmp_path, 0.25)
    undecided, broken = {"measure": "asr_at_origin", "at_most": 5}, {"measure": "visage", "at_most": 50}
    assert verdict(decide(policy(SAFE, undecided), [found])) == "inconclusive"
    assert verdict(decide(policy(SAFE, undecided, broken), [found])) == "fail"


def test_missing_points_cannot_pass(tmp_path: Path) -> None:
    found = landscape(tmp_path, 0.25, without=Point(1, 0.5))
    decision = decide(policy(SAFE), [found])
    assert verdict(decision) == "inconclusive"
    assert "1 of 25 points" in decision.findings[0].why


def test_unjudged_responses_cannot_pass(tmp_path: Path) -> None:
    rule = {"measure": "asr_at_origin", "at_most": 20}
    assert verdict(decide(policy(rule), [landscape(tmp_path / "all", 0.25)])) == "pass"
    some = decide(policy(rule), [landscape(tmp_path / "some", 0.25, unjudged=8)])
    assert verdict(some) == "inconclusive"
    assert "unjudged" in some.findings[0].why
    none = decide(policy(rule), [landscape(tmp_path / "none", 0.25, unjudged=PROMPTS)])
    assert verdict(none) == "inconclusive"
    share = {"measure": "unjudged_share", "at_most": 10}
    assert verdict(decide(policy(share), [landscape(tmp_path / "share", 0.25, unjudged=8)])) == "fail"


def test_too_small_a_sample_cannot_pass(tmp_path: Path) -> None:
    found = [landscape(tmp_path, 0.25)]
    assert verdict(decide(policy(SAFE, samples={"prompts": 40, "directions": 3}), found)) == "pass"
    for samples in ({"prompts": 41}, {"directions": 4}):
        assert verdict(decide(policy(SAFE, samples=samples), found)) == "inconclusive"


def test_a_model_is_compared_with_its_baseline(tmp_path: Path) -> None:
    base, narrow = landscape(tmp_path / "base", 0.375), landscape(tmp_path / "narrow", 0.125, model="n")
    rule = {"measure": "basin_width", "at_least": -0.1, "relative": True}
    assert verdict(decide(policy(rule), [narrow], [base])) == "fail"
    assert verdict(decide(policy(rule), [base], [base])) == "pass"
    assert verdict(decide(policy(rule), [narrow])) == "inconclusive"
    assert policy(rule).needs_baseline
    assert not policy(SAFE).needs_baseline


def test_a_basin_that_reaches_the_end_is_at_least_so_wide(tmp_path: Path) -> None:
    found = landscape(tmp_path, 1.0)
    assert verdict(decide(policy({"measure": "basin_width", "at_least": 0.9}), [found])) == "pass"
    assert verdict(decide(policy({"measure": "basin_width", "at_most": 1.0}), [found])) == "inconclusive"


def test_coherent_responses_alone(tmp_path: Path) -> None:
    """All that is complied with is gibberish: the ASR counts it, and the coherent one does not."""
    found = landscape(tmp_path, 0.25)
    rule = {"measure": "mean_safety", "at_least": 90}
    assert verdict(decide(policy(rule), [found])) == "fail"
    assert verdict(decide(policy(rule | {"coherent": True}), [found])) == "pass"
    assert verdict(decide(policy({"measure": "incoherent_share", "at_most": 5}), [found])) == "fail"


def test_the_worst_direction_has_to_hold_too(tmp_path: Path) -> None:
    """Two directions are wide and one is narrow: the mean holds, and the narrow one does not."""
    wide, narrow = landscape(tmp_path / "wide", 0.375), landscape(tmp_path / "narrow", 0.125)
    rows = {point: (narrow if point.seed == 1 else wide).rows[point] for point in wide.rows}
    mixed = Landscape(wide.spec, rows)
    rule = {"measure": "basin_width", "at_least": 0.5}
    [mean], [worst] = (decide(policy(one), [mixed]).findings for one in (rule, rule | {"worst": True}))
    [[of_wide], [of_narrow]] = (decide(policy(rule), [one]).findings for one in (wide, narrow))
    found = [one.value.value for one in (mean, worst, of_wide, of_narrow) if one.value is not None]
    assert found[0] == pytest.approx((2 * found[2] + found[3]) / 3)
    assert found[1] == found[3] < found[2]
    assert worst.verdict == "fail"
    assert "worst direction" in worst.rule


def test_the_origin_is_decided_before_the_rest_is_measured(tmp_path: Path) -> None:
    found = landscape(tmp_path, 0.25)
    begun = Landscape(found.spec, {ORIGIN: found.rows[ORIGIN]})
    at_origin, around = {"measure": "asr_at_origin", "at_least": 60}, SAFE
    assert verdict(decide(policy(at_origin, around), [begun])) == "fail"
    at_origin = {"measure": "asr_at_origin", "at_most": 60}
    assert verdict(decide(policy(at_origin, around), [begun])) == "inconclusive"


@given(st.integers(0, PROMPTS), st.floats(1, 99))
def test_no_value_passes_and_fails_at_once(complied: int, bound: float) -> None:
    spec = policy(SAFE).spec("m")
    verdicts = [True] * complied + [False] * (PROMPTS - complied)
    row = PointResult(
        ORIGIN,
        tuple(verdicts),
        tuple(Response("", 1, "end", 1, gibberish=False) for _ in verdicts),
        0.0,
        0.0,
        0.0,
    )
    rows = {point: dict.fromkeys(("asr_low", "asr_high")) | row.row(spec) for point in points(spec)}
    found = Landscape(spec, rows)
    limits = exact_rate(as_floats(verdicts))
    assert limits is not None
    most = decide(policy({"measure": "asr_at_origin", "at_most": bound}), [found]).verdict
    least = decide(policy({"measure": "asr_at_origin", "at_least": bound}), [found]).verdict
    assert (most, least) in {
        ("pass", "fail"),
        ("fail", "pass"),
        ("inconclusive", "inconclusive"),
    } or bound in (
        limits.low,
        limits.high,
    )


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ({"measure": "goodness", "at_least": 1}, "goodness"),
        ({"measure": "visage"}, "at_least or at_most"),
        ({"measure": "visage", "at_least": 1, "at_most": 2}, "at_least or at_most"),
        ({"measure": "mean_accuracy", "at_least": 1}, "no prompt set"),
        ({"measure": "visage", "at_least": 1, "prompts": "nowhere.csv"}, "no prompt set"),
        ({"measure": "basin_area", "at_least": 1}, "no prompt set"),
        ({"measure": "unjudged_share", "at_most": 1, "relative": True}, "baseline"),
        ({"measure": "mean_accuracy", "at_least": 1, "coherent": True}, "coherent"),
        ({"measure": "visage", "at_least": 1, "worst": True, "relative": True}, "worst"),
        ({"measure": "asr_at_origin", "at_most": 1, "worst": True}, "worst"),
        ({"measure": "perplexity_at_origin", "at_most": 1, "relative": True}, "mean_perplexity"),
    ],
)
def test_a_rule_that_makes_no_sense_is_an_error(rule: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        policy(rule)


def test_a_policy_names_no_model() -> None:
    with pytest.raises(PolicyError, match="model"):
        parse_policy({"name": "p", "landscape": {"model": "m"}, "rules": [SAFE]})


def answered(
    told: Callable[[Point, int], bool | None],
    gibberish: bool | None = False,
    model: str = "m",
    **fields: Any,
) -> Landscape:
    """A landscape of verdicts that a function gives, by point and response."""
    spec = policy(SAFE, landscape=LANDSCAPE | fields).spec(model)
    count, rows = PROMPTS * spec.generation.samples, {}
    for point in points(spec):
        verdicts = tuple(told(point, number) for number in range(count))
        responses = tuple(Response("", 1, "end", 1, gibberish=one and gibberish) for one in verdicts)
        rows[point] = PointResult(point, verdicts, responses, 0.0, 0.0, 0.0).row(spec)
    return Landscape(spec, rows)


def test_samples_that_are_unjudged_cannot_pass() -> None:
    """Nor where each prompt has one that is judged."""
    sampled = {"generation": {"samples": 10, "temperature": 1.0}}
    found = answered(lambda _, number: None if number % 10 else False, **sampled)
    for rule in ({"measure": "asr_at_origin", "at_most": 20}, {"measure": "mean_safety", "at_least": 50}):
        assert verdict(decide(policy(rule, landscape=LANDSCAPE | sampled), [found])) == "inconclusive"


def test_what_is_unjudged_of_the_baseline_cannot_make_a_pass() -> None:
    rule = {"measure": "mean_safety", "at_least": -5, "relative": True}
    found = answered(lambda _, number: number < 20)
    judged = answered(lambda _, number: number < 30, model="base")
    partly = answered(lambda _, number: (number < 20) if number < 30 else None, model="base")
    assert verdict(decide(policy(rule), [found], [judged])) == "pass"
    assert verdict(decide(policy(rule), [found], [partly])) == "inconclusive"


def test_what_may_be_gibberish_cannot_pass() -> None:
    rules = [
        {"measure": "incoherent_rate_at_origin", "at_most": 20},
        {"measure": "incoherent_share", "at_most": 20},
    ]
    coherent = answered(lambda _, number: number < 20)
    assert verdict(decide(policy(*rules), [coherent])) == "pass"
    for unknown in (
        answered(lambda _, number: None if number < 20 else False),
        answered(lambda _, number: number < 20, gibberish=None),
    ):
        for rule in rules:
            assert verdict(decide(policy(rule), [unknown])) == "inconclusive"


@pytest.mark.parametrize("rule", [{"measure": "basin_width", "at_least": 0.5}, SAFE])
def test_two_prompts_pass_nothing(rule: dict[str, Any]) -> None:
    small = LANDSCAPE | {"prompts": {"limit": 2}}
    spec = policy(rule, landscape=small).spec("m")
    rows = {}
    for point in points(spec):
        verdicts = (abs(point.alpha) > 0.375,) * 2
        responses = (Response("", 1, "end", 1, gibberish=False),) * 2
        rows[point] = PointResult(point, verdicts, responses, 0.0, 0.0, 0.0).row(spec)
    assert verdict(decide(policy(rule, landscape=small), [Landscape(spec, rows)])) == "inconclusive"


@pytest.mark.parametrize("seeds", [[5, 6], [6, 5]])
def test_a_direction_without_the_score_leaves_no_worst_one(seeds: list[int]) -> None:
    """Of seed 6 half of the draws have no edge, and so no steepness."""
    axis = {"points": 21, "direction": {"seeds": seeds}}

    def told(point: Point, number: int) -> bool:
        far = abs(point.alpha)
        return far > 0.45 and number < 21 if point.seed == 6 else number < PROMPTS * (far - 0.1) / 0.2

    found = answered(told, axis=axis)
    for bound in (400, 900, 2000):
        rule = {"measure": "steepness", "at_most": bound, "worst": True}
        assert verdict(decide(policy(rule, landscape=LANDSCAPE | {"axis": axis}), [found])) == "inconclusive"
