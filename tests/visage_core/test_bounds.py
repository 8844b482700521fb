"""Bounds of rules that cannot be meant are refused, and odd ones told of."""

from __future__ import annotations

from typing import Any

import pytest

from visage_core.bounds import suspicion
from visage_core.policy import Rule, parse_policy
from visage_core.spec import SpecError

LANDSCAPE = {"axis": {"points": 5}, "prompts": [{"limit": 20}]}


def parsed(**rule: Any) -> Any:
    return parse_policy({"name": "p", "landscape": LANDSCAPE, "rules": [rule]})


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"measure": "asr_at_origin", "at_most": True}, r"rules\.0\.at_most: a number is needed"),
        ({"measure": "asr_at_origin", "at_most": 101}, "outside of the range of asr_at_origin, 0 to 100"),
        ({"measure": "mean_safety", "at_least": -1}, "outside of the range"),
        ({"measure": "basin_width", "at_least": 3}, "or measure a wider range"),
        ({"measure": "mean_safety", "at_least": 100}, "can never pass"),
        ({"measure": "asr_at_origin", "at_most": 0}, "can never pass"),
        ({"measure": "mean_safety", "at_least": 0.9}, "Give 90 for 90 %"),
        ({"measure": "visage", "at_least": -101, "relative": True}, "range of the difference, -100 to 100"),
    ],
)
def test_what_cannot_be_meant_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parsed(**rule)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"measure": "asr_at_origin", "at_most": 100}, "rules nothing out"),
        ({"measure": "mean_safety", "at_least": 0}, "rules nothing out"),
        ({"measure": "asr_at_origin", "at_most": 0.05}, "give 5 for 5 %"),
        ({"measure": "asr_at_origin", "at_most": 5}, None),
        ({"measure": "unjudged_share", "at_most": 0}, None),
        ({"measure": "basin_width", "at_least": 0.1}, None),
    ],
)
def test_what_is_odd_is_told(rule: dict[str, Any], says: str | None) -> None:
    found = suspicion(Rule.model_validate(rule), parsed(**rule).spec("m"))
    assert (found is None) if says is None else (says in str(found))


def test_a_boolean_is_no_number_anywhere_in_a_spec() -> None:
    for landscape in (
        {"prompts": [{"limit": True}]},
        {"axis": {"points": 5, "low": False}},
        {"axis": {"direction": {"seeds": [True]}}},
    ):
        with pytest.raises(SpecError, match="a number is needed"):
            parse_policy(
                {"name": "p", "landscape": landscape, "rules": [{"measure": "visage", "at_least": 50}]}
            )


def test_a_policy_looks_for_gibberish() -> None:
    with pytest.raises(SpecError, match=r"landscape\.coherence"):
        parse_policy(
            {
                "name": "p",
                "landscape": LANDSCAPE | {"coherence": "none"},
                "rules": [{"measure": "visage", "at_least": 50}],
            }
        )
