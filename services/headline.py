"""A landscape in a few sentences, from its entry in summary.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.scores import number
from visage_core.landscape import MOST
from visage_core.spec import LandscapeSpec

AT_ORIGIN = {
    "asr": "answers {} of harmful requests as it is",
    "refusal_rate": "refuses {} of the requests that it should answer",
    "accuracy": "answers {} of the multiple-choice questions correctly",
    "perplexity": "has a perplexity of {} on the text",
}
# The score that is the mean over the range, by reading.
MEANS = {
    "refusal_rate": ("mean_refusal", "it refuses {} of them on average"),
    "accuracy": ("mean_accuracy", "its accuracy is {} on average"),
    "perplexity": ("mean_perplexity", "its perplexity is {}, a geometric mean"),
}


def headline(entry: dict[str, Any], spec: LandscapeSpec) -> str:
    """Summarise a landscape in words: the unperturbed model, the basin, VISAGE and the share of gibberish, or
    the mean of another reading. Says what is missing or not defined, and never more than was measured."""
    name = Path(spec.model).name
    gibberish = _gibberish_at_origin(entry)
    if gibberish is not None and gibberish > MOST:
        sentences = [
            f"{gibberish:.0f} % of its responses there are gibberish: the scores say nothing of safety."
        ]
    elif not entry["directions"]:
        sentences = [*_no_scores(entry, spec), _estimate(entry)]
    elif entry["reading"] == "asr":
        sentences = [_basin(entry, spec), _visage(entry, spec), _gibberish(entry, spec)]
    else:
        sentences = [_mean(entry, spec)]
    return " ".join([f"{name}: {_at_origin(entry)}.", *filter(None, sentences)])


def _gibberish_at_origin(entry: dict[str, Any]) -> float | None:
    """The share of the unperturbed model's responses that are gibberish, in percent. Summaries of earlier
    versions have that of those that are no refusals alone."""
    if "gibberish_at_origin" in entry:
        share: float | None = entry["gibberish_at_origin"]
        return share
    rate = entry["at_origin"].get("incoherent_rate")
    return None if rate is None else float(rate["value"])


def _at_origin(entry: dict[str, Any]) -> str:
    reading = entry["reading"]
    rate = entry["at_origin"][reading]
    if rate is None:
        name = "ASR" if reading == "asr" else reading.replace("_", " ")
        return f"the {name} at the origin is not measured"
    return AT_ORIGIN[reading].format(_rate(rate, reading))


def _no_scores(entry: dict[str, Any], spec: LandscapeSpec) -> list[str]:
    expected, measured = entry["points"]["expected"], entry["points"]["measured"]
    if measured == expected:
        return ["It has no scores: at some points no response could be judged."]
    at_least = "at least " if spec.adaptive else ""
    return [f"No scores yet: {at_least}{expected - measured} of {expected} points are missing."]


def _estimate(entry: dict[str, Any]) -> str:
    score = entry.get("estimate")
    return (
        f"VISAGE of these directions will be about {score['value']:.1f} {_interval(score)}." if score else ""
    )


def _basin(entry: dict[str, Any], spec: LandscapeSpec) -> str:
    score = entry["basin_area" if spec.second_axis else "basin_width"]
    basins = [direction["basin"] for direction in entry["directions"]]
    if None in basins:
        return f"It has no safety basin: the ASR at the origin is above {spec.basin_threshold:g} %."
    size = f"{'at least ' if score['open'] else ''}{score['value']:.2f}"
    between = _interval(score, 2)
    size = f"has an area of {size} {between}" if spec.second_axis else f"is {size} wide {between}"
    if len(basins) > 1:
        share = f"all {len(basins)}" if score["open"] == len(basins) else f"{score['open']} of {len(basins)}"
        tail = " on average" + (f"; it reaches the end of the range in {share}" if score["open"] else "")
    elif score["open"]:
        tail = "; it reaches the end of the range"
    else:
        tail = "" if spec.second_axis else f", from {basins[0]['low']:.2f} to {basins[0]['high']:.2f}"
    return f"{_place(spec)} its safety basin {size}{tail}."


def _visage(entry: dict[str, Any], spec: LandscapeSpec) -> str:
    score = entry["visage"]
    if score is None:
        return f"VISAGE is not defined{' for an adaptive sweep' if spec.adaptive else ''}."
    return f"VISAGE {score['value']:.1f} {_interval(score)}."


def _gibberish(entry: dict[str, Any], spec: LandscapeSpec) -> str:
    if spec.coherence == "none":
        return "How many responses are gibberish was not measured."
    share = entry.get("gibberish_outside")  # summaries of earlier versions lack it
    if share is None:
        return ""
    has_basin = None not in [direction["basin"] for direction in entry["directions"]]
    where = f"where the ASR is above {spec.basin_threshold:g} %"
    where = f"Outside of the basin, {where}" if has_basin else f"W{where[1:]}"
    # Only a share of exactly 0 or 100 % is rounded to that.
    rounded = share if share in (0, 100) else min(99, max(1, round(share)))
    measured = "measured " if spec.adaptive else ""
    return f"{where}, {rounded:.0f} % of the {measured}responses are gibberish."


def _mean(entry: dict[str, Any], spec: LandscapeSpec) -> str:
    reading = entry["reading"]
    key, words = MEANS[reading]
    score = entry[key]
    if score is None:
        return f"Its mean over the range is not defined{' for an adaptive sweep' if spec.adaptive else ''}."
    return f"{_place(spec)} {words.format(_rate(score, reading))}."


def _place(spec: LandscapeSpec) -> str:
    """Name the directions and the range."""
    count = len(spec.seeds)
    if spec.second_axis is not None:
        return "On the plane of two directions" if count == 1 else f"On {count} planes of two directions"
    direction = spec.axis.direction
    if direction.kind == "random":
        along = "along one random direction" if count == 1 else f"along {count} random directions"
    elif direction.kind == "interpolation":
        along = f"on the way to {direction.label}"
    else:
        along = f"along {direction.label or 'a sum of random directions'}"
    return f"Between {spec.axis.low:g} and {spec.axis.high:g} {along}"


def _rate(rate: dict[str, Any], reading: str) -> str:
    unit = "" if reading == "perplexity" else " %"
    return f"{number(rate['value'], 1)}{unit} {_interval(rate)}"


def _interval(score: dict[str, Any], places: int = 1) -> str:
    if score["low"] is None:
        return "(interval not defined)"
    return f"({number(score['low'], places)} to {number(score['high'], places)})"
