"""The scores of a summary as rows of text, for whatever shows them: a terminal, a page, a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visage_core.spec import LandscapeSpec

NAMES = {
    "visage": ("VISAGE", "mean of 100 - ASR where the ASR is below 100; higher is safer"),
    "mean_safety": ("mean safety", "mean of 100 - ASR over the whole range"),
    "visage_cropped": ("VISAGE, cropped", "as the paper's published code computes it"),
    "basin_width": ("basin width", "width around the origin where the ASR is at most {threshold:g} %"),
    "basin_radius": ("basin radius", "from the origin to the nearer edge of the basin"),
    "basin_area": ("basin area", "area around the origin where the ASR is at most {threshold:g} %"),
    "steepness": ("steepness", "rise of the ASR at the basin's edge, in points per unit"),
    "mean_refusal": ("mean refusal rate", "of requests that should not be refused, in percent"),
    "mean_accuracy": ("mean accuracy", "over the whole range, in percent"),
    "mean_perplexity": ("mean perplexity", "geometric, over the whole range"),
    "estimate": ("VISAGE, estimate", "what it will probably be of these directions"),
}


COMPLEMENTS = {"asr": "refusal_rate", "refusal_rate": "asr"}
HUGE = 1e6


@dataclass(frozen=True)
class ScoreRow:
    """A score: its value and its 95 % interval, the value of coherent responses alone, and what it means."""

    name: str
    value: str
    between: str
    coherent: str
    meaning: str


@dataclass(frozen=True)
class JudgeRow:
    """What a judge makes of the same responses: the chief score, and rates at the origin."""

    judge: str
    value: str
    between: str
    at_origin: list[str]
    unjudged: str


def score_rows(summary: dict[str, Any], spec: LandscapeSpec, *, compact: bool = False) -> list[ScoreRow]:
    """The scores of a landscape, from its entry in summary.json; `compact` leaves out the basin of each
    direction, and the refusal rate or the ASR at the origin, of which one is 100 less the other."""
    coherent = summary["coherent"] or {}
    rows = []
    for key, (name, form) in NAMES.items():
        score = summary.get(key)
        beside = value(key, coherent.get(key)) if coherent else ""
        meaning = form.format(threshold=spec.basin_threshold)
        if score is not None and score["value"] is not None:
            rows.append(ScoreRow(name, value(key, score), between(score, digits(key)), beside, meaning))
        elif key == "visage" and summary["reading"] == "asr":
            rows.append(ScoreRow(name, "-", "", beside, meaning))
    redundant = COMPLEMENTS.get(summary["reading"]) if compact else None
    for key, rate in summary["at_origin"].items():
        if rate is not None and key != redundant:
            name = "coherent ASR" if key == "asr_coherent" else key.replace("_", " ").replace("asr", "ASR")
            name += " at the origin"
            rows.append(
                ScoreRow(name, number(rate["value"], 1), between(rate, 1), "", "of the unperturbed model")
            )
    for row, direction in enumerate(summary["directions"]):
        if "basin" in direction and not compact:
            name = "basin" if direction["seed"] is None else f"basin, seed {direction['seed']}"
            size, where = _basin(direction["basin"])
            beside = _basin(coherent["directions"][row]["basin"])[0] if coherent else ""
            rows.append(ScoreRow(name, size, "", beside, where))
    if (worst := summary.get("worst_direction")) is not None:
        beside = f"seed {coherent['worst_direction']['seed']}" if coherent else ""
        rows.append(
            ScoreRow("worst direction", f"seed {worst['seed']}", "", beside, "where the basin is smallest")
        )
    return rows


def judge_rows(summary: dict[str, Any]) -> tuple[list[str], list[JudgeRow]]:
    """The names of the columns, and a row for each judge, the first one too."""
    chief = "visage" if summary["reading"] == "asr" else "mean_refusal"
    beside = {"ASR at the origin": "asr", "refusals at the origin": "refusal_rate"}
    first = {"judge": summary["judge"], "unjudged": summary["totals"]["unjudged"]}
    rows = []
    for one in [summary | first, *summary["judges"]]:
        score = one[chief]
        rates = [one["at_origin"][name] for name in beside.values()]
        rows.append(
            JudgeRow(
                one["judge"],
                value(chief, score),
                "" if score is None else between(score, 1),
                ["-" if rate is None else f"{rate['value']:.1f}" for rate in rates],
                f"{one['unjudged']:,}",
            )
        )
    name = chief.replace("_", " ").replace("visage", "VISAGE")
    return ["judge", name, "95 % interval", *beside, "unjudged"], rows


def notes(summary: dict[str, Any]) -> list[str]:
    """What there is to know beside the scores, and what would make the chief one's interval half as wide."""
    halved_by = summary.get("halved_by") or {}
    ways = [f"{count:,} {what}" for what, count in halved_by.items() if count is not None]
    more = [f"Half as wide an interval would take {' or '.join(ways)}."] if ways else []
    return [*summary["notes"], *more]


def cost(totals: list[dict[str, Any]]) -> str:
    """What landscapes took together, from the totals of each."""
    tokens = sum(total["response_tokens"] for total in totals)
    seconds = sum(total[f"{stage}_seconds"] for total in totals for stage in ("move", "generate", "judge"))
    return f"Cost: {tokens:,} tokens generated in {seconds:,.0f} s of workers."


def difference_rows(differences: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Of each difference of a comparison: the score, the value, its 95 % interval and its p-value."""
    rows = []
    for name, apart in differences.items():
        if apart is not None:
            places = digits(name)
            p_value = "-" if apart["p_value"] is None else f"{apart['p_value']:.2g}"
            shown = name.replace("_", " ").replace("asr", "ASR").replace("visage", "VISAGE")
            rows.append((shown, f"{apart['value']:+.{places}f}", between(apart, places), p_value))
    return rows


def value(key: str, score: dict[str, Any] | None) -> str:
    """A score's value in the digits that it deserves; what is open is larger."""
    if score is None:
        return "-"
    return f"{'≥ ' if score.get('open') else ''}{number(score['value'], digits(key))}"


def number(value: float, places: int) -> str:
    """Format a number with so many decimal places, or in three digits where it is huge, as perplexities of
    gibberish are."""
    return f"{value:.{places}f}" if abs(value) < HUGE else f"{value:.3g}"


def digits(key: str) -> int:
    """Decimal places of a score."""
    return 3 if key.startswith("basin") else 1


def between(score: dict[str, Any], places: int) -> str:
    """An interval's ends."""
    if score["low"] is None:
        return "not defined"
    return f"{number(score['low'], places)} to {number(score['high'], places)}"


def _basin(basin: dict[str, Any] | None) -> tuple[str, str]:
    """Its size, and where it is."""
    if basin is None:
        return "none", "the ASR at the origin is above the threshold"
    if "area" in basin:
        return f"{'≥ ' if basin['open'] else ''}{basin['area']:.3f}", "area"
    at_least = "≥ " if basin["open_low"] or basin["open_high"] else ""
    return f"{at_least}{basin['width']:.3f}", f"from {basin['low']:.3f} to {basin['high']:.3f}"
