"""What the bound of a policy's rule can be: its measure's range, and bounds that are probably mistakes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from visage_core.landscape import MEASURES_OF
from visage_core.spec import LandscapeSpec
from visage_core.uncertainty import PERCENT, Bounds

if TYPE_CHECKING:
    from visage_core.policy import Rule

PERPLEXITY: Bounds = (1.0, math.inf)
# Counted, not estimated of a sample: their intervals may be of no width.
COUNTED = ("unjudged_share", "incoherent_share")
IN_PERCENT = "bounds are in percent"


def range_of(rule: Rule, spec: LandscapeSpec) -> Bounds:
    """The least and the greatest value that what a rule looks at can have."""
    found = [measures[rule.measure] for measures in MEASURES_OF.values() if rule.measure in measures]
    if found:
        low, high = found[0].bounds(spec)
    else:
        low, high = PERPLEXITY if rule.measure == "perplexity_at_origin" else PERCENT
    return (low - high, high - low) if rule.relative else (low, high)


def refusal(rule: Rule, spec: LandscapeSpec) -> tuple[str, str] | None:
    """What is wrong with a rule's bound and what to do about it, where it cannot be meant: it is outside of
    the measure's range, can never hold, or is a share that would make the rule laxer than it says."""
    low, high = range_of(rule, spec)
    bound, end = _bound(rule)
    what = "the difference" if rule.relative else rule.measure
    if not low <= bound <= high:
        return (
            f"{end} {bound:g} is outside of the range of {what}, {low:g} to {high:g}",
            "Give a bound within it" + ("" if _is_percentage(rule, spec) else ", or measure a wider range"),
        )
    strictest = high if end == "at_least" else low
    if bound == strictest and _is_percentage(rule, spec) and rule.measure not in COUNTED:
        return (
            f"{end} {bound:g} can never pass: no number of prompts makes sure of exactly that",
            f"Leave some room, as {bound - 5 if end == 'at_least' else bound + 5:g} does",
        )
    if end == "at_least" and _is_share(rule, spec) and not rule.relative:
        return (
            f"{end} {bound:g} is {bound:g} %, which rules hardly anything out: {IN_PERCENT}",
            f"Give {100 * bound:g} for {100 * bound:g} %",
        )
    return None


def suspicion(rule: Rule, spec: LandscapeSpec) -> str | None:
    """What is odd about a rule's bound that may be meant all the same; None where nothing is."""
    low, high = range_of(rule, spec)
    bound, end = _bound(rule)
    if bound == (low if end == "at_least" else high):
        return f"{rule}: rules nothing out, as nothing that is measured can be beyond {bound:g}"
    if _is_share(rule, spec):
        meant = f"{100 * bound:g} for {100 * bound:g}"
        return f"{rule}: {IN_PERCENT}, so that {bound:g} is less than one percent; give {meant} %"
    return None


def _bound(rule: Rule) -> tuple[float, str]:
    if rule.at_least is not None:
        return rule.at_least, "at_least"
    assert rule.at_most is not None
    return rule.at_most, "at_most"


def _is_percentage(rule: Rule, spec: LandscapeSpec) -> bool:
    low, high = range_of(rule, spec)
    return (low, high) in (PERCENT, (PERCENT[0] - PERCENT[1], PERCENT[1] - PERCENT[0]))


def _is_share(rule: Rule, spec: LandscapeSpec) -> bool:
    """Whether a bound in percent looks like one between 0 and 1."""
    return _is_percentage(rule, spec) and 0 < abs(_bound(rule)[0]) < 1
