"""How the checkpoints of an audit stand: a document, tables, a figure, and all their points."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq

from services.audit.baseline import landscapes_until
from services.audit.checkpoints import Candidate
from services.audit.outcomes import read_outcome
from services.gate.evidence import BASELINE, MODEL
from services.sweep.compare import require_same_architecture
from services.sweep.plan import versions
from services.sweep.report import write_figure
from visage_core.compare import NotComparableError, compare
from visage_core.landscape import MOST, Landscape, interval_document
from visage_core.metrics import Interval, MissingPointsError
from visage_core.multiple import holm
from visage_core.plots import Standing, audit_figure
from visage_core.policy import FAIL, INCONCLUSIVE, PASS, Policy, level_of
from visage_core.provenance import measured_by
from visage_core.results import Results

LEADERBOARD_VERSION = 1
NAMES = {"visage": "VISAGE"}
VERDICTS = (PASS, INCONCLUSIVE, FAIL)
LOWER_IS_BETTER = {"mean_refusal", "mean_perplexity"}
POINTS = "points.parquet"


def write_leaderboard(
    out: Path,
    policy: Policy,
    baseline: str | None,
    candidates: Sequence[Candidate],
    more: dict[str, Any],
) -> dict[str, Any]:
    """Write into an audit's folder how its candidates stand: leaderboard.json, .csv and .md, its figure, and
    points.parquet with the points of all. Gives the document, which has `more` in it."""
    found = [(one, outcome) for one in candidates if (outcome := read_outcome(out, one)) is not None]
    rows = [_row(out, policy, one, outcome) for one, outcome in found]
    reference = _reference(out, policy, baseline, rows)
    if reference is not None:
        _compare(out, policy, rows, reference)
    document = {
        "leaderboard_version": LEADERBOARD_VERSION,
        "policy": policy.model_dump(mode="json"),
        "baseline": baseline,
        "reference": reference and reference["checkpoint"],
        "correction": "holm",
        "score": next((row["measure"] for row in rows if row["measure"]), None),
        "checkpoints": sorted(rows, key=_rank),
        "unfinished": [one.name for one in candidates if read_outcome(out, one) is None],
        **more,
        "versions": versions(),
    }
    results = Results(out)
    results.write_json("leaderboard.json", document)
    (out / "leaderboard.csv").write_text(as_csv(document), encoding="utf-8")
    (out / "leaderboard.md").write_text(as_markdown(document), encoding="utf-8")
    _write_points(out, rows)
    figure = figure_of(document)
    if figure is not None:
        write_figure(figure, out, "leaderboard")
    return document


def figure_of(document: dict[str, Any]) -> go.Figure | None:
    """The scores of a leaderboard as a figure; None where there is none."""
    standings = [_standing(row) for row in document["checkpoints"] if row["error"] is None]
    if all(one.score is None for one in standings):
        return None
    return audit_figure(standings, title_of(document), _title(document))


def title_of(document: dict[str, Any]) -> str:
    """What the score of a leaderboard is called."""
    name = str(document["score"] or "visage")
    return NAMES.get(name, name.replace("_", " "))


def as_csv(document: dict[str, Any]) -> str:
    """A leaderboard as CSV: a line a checkpoint, what is not known left out."""
    score = document["score"] or "visage"
    ends = ("value", "low", "high")
    kinds = {score: "score", "asr_at_origin": "asr_at_origin", "difference": "difference"}
    header = ["checkpoint", "model", "step", "verdict", "look", "lost", "responses", "planned"]
    lines: list[list[Any]] = [
        [
            *header,
            *(f"{name}{'' if end == 'value' else f'_{end}'}" for name in kinds for end in ends),
            *("p_value", "p_adjusted", "prompts_compared", "error"),
        ]
    ]
    for row in document["checkpoints"]:
        apart = row["difference"] or {}
        error = row["error"]
        lines.append(
            [
                *(row[name] for name in header),
                *((row[key] or {}).get(end) for key in kinds.values() for end in ends),
                *(apart.get(name) for name in ("p_value", "p_adjusted", "prompts")),
                error and f"{error['field']}: {error['problem']}. {error['remedy']}.",
            ]
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def as_markdown(document: dict[str, Any]) -> str:
    """A leaderboard as a Markdown page."""
    columns = columns_of(document)
    lines = [
        f"# Audit: {cell(document['policy']['name'])}",
        "",
        "| " + " | ".join(map(cell, columns)) + " |",
        "|" + " --- |" * len(columns),
        *(
            "| " + " | ".join(map(cell, cells_of(row, document["reference"] is not None))) + " |"
            for row in document["checkpoints"]
        ),
        "",
        *(f"- {cell(line)}" for line in notes_of(document)),
        "",
    ]
    return "\n".join(lines)


def columns_of(document: dict[str, Any]) -> list[str]:
    """What the columns of a printed leaderboard are called."""
    title, reference = title_of(document), document["reference"]
    columns = ["checkpoint", "step", "verdict", f"{title} (95 %)", "ASR at the origin (95 %)"]
    return columns if reference is None else [*columns, f"less {reference} (95 %)", "p, Holm"]


def cells_of(row: dict[str, Any], compared: bool) -> list[str]:
    """A row of a leaderboard as it is printed."""
    digits = 3 if str(row["measure"]).startswith("basin") else 1
    cells = [
        row["checkpoint"],
        "" if row["step"] is None else str(row["step"]),
        "broken" if row["error"] else row["verdict"],
        _between(row["score"], digits),
        _between(row["asr_at_origin"], 1),
    ]
    if compared:
        apart = row["difference"] or {"p_adjusted": None}
        p_value = apart["p_adjusted"]
        cells += [_between(row["difference"], digits, "+"), "" if p_value is None else f"{p_value:.2g}"]
    return cells


def notes_of(document: dict[str, Any]) -> list[str]:
    """What has to be said beside a leaderboard, a line each."""
    notes = []
    for row in document["checkpoints"]:
        name = row["checkpoint"]
        if (error := row["error"]) is not None:
            notes.append(f"{name}: {error['field']}: {error['problem']}. {error['remedy']}.")
        elif row["lost"] is not None:
            notes.append(
                f"{name}: ended after {row['responses']:,} of {row['planned']:,} responses, for it cannot "
                f"pass any more: {row['lost']}."
            )
        if _is_gibberish(row):
            notes.append(
                f"{name}: {row['gibberish_at_origin']:.0f} % of its responses at the origin are gibberish: "
                "its score says nothing of safety."
            )
    reasons = {row["checkpoint"]: row["reasons"] for row in document["checkpoints"]}
    notes += [f"{name}: {reason}" for name, some in reasons.items() for reason in some]
    if document["unfinished"]:
        notes.append(f"Unfinished: {', '.join(document['unfinished'])}; the same command goes on.")
    if document["incomplete"]:
        names = ", ".join(Path(one).name for one in document["incomplete"])
        notes.append(f"Not complete in the watched folder: {names}.")
    return notes


def cell(text: str) -> str:
    """A text for a cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _row(out: Path, policy: Policy, candidate: Candidate, outcome: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "checkpoint": candidate.name,
        "model": candidate.model,
        "step": candidate.step,
        "verdict": None,
        "look": None,
        "lost": None,
        "responses": None,
        "planned": None,
        "measure": None,
        "score": None,
        "asr_at_origin": None,
        "gibberish_at_origin": None,
        "difference": None,
        "differences": {},
        "reasons": [],
        "sizes": None,
        "measured_by": [],
        "error": outcome["error"],
    }
    if outcome["error"] is not None:
        return row
    row |= {name: outcome[name] for name in ("verdict", "look", "lost", "responses", "planned", "sizes")}
    decision = Results(candidate.folder(out)).read_json("decision.json") or {"findings": []}
    row["reasons"] = [
        f"{one['verdict']}: {one['rule']}: {one['why']}"
        for one in decision["findings"]
        if one["verdict"] != "pass"
    ]
    row["reasons"] += decision.get("notes", [])
    folder = _folder(out, row)
    landscapes = landscapes_until(policy, folder, candidate.model, row["look"], row["sizes"])
    row["measured_by"] = measured_by(Results(folder).points())
    row["gibberish_at_origin"] = max(
        (share for one in landscapes if (share := one.gibberish_at_origin) is not None), default=None
    )
    row |= _scores(policy, landscapes[0], row["look"])
    return row


def _scores(policy: Policy, landscape: Landscape, look: int) -> dict[str, Any]:
    """The chief score of a landscape, None where a point is missing, and its ASR at the origin. Who may stop
    at any look has intervals that hold over all of them."""
    level = None if policy.looks == 1 else level_of(look, policy.looks)
    name = next(iter(landscape.measures), None)
    found: dict[str, Any] = {"measure": name, "score": None}
    if name is not None:
        try:
            score = interval_document(landscape.score(landscape.measures[name], level))
            found["score"] = None if score is None or score["low"] is None else score
        except MissingPointsError:
            pass
    if landscape.origin is not None and "asr" in {one.name for one in landscape.readings}:
        reading = landscape.read("asr").reading
        rate = (
            reading.at(landscape.origin, landscape.samples)
            if level is None
            else reading.within(landscape.origin, landscape.samples, level)
        )
        found["asr_at_origin"] = rate and {"value": rate.value, "low": rate.low, "high": rate.high}
    return found


def _reference(
    out: Path, policy: Policy, baseline: str | None, rows: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """What the checkpoints are compared with: the baseline, else the first of them that is measured."""
    if baseline is not None:
        if not (out / BASELINE).exists():
            return None  # no checkpoint could be measured, and so it was not
        return {
            "checkpoint": "the baseline",
            "model": baseline,
            "look": policy.looks,
            "folder": out / BASELINE,
        }
    measured = [row for row in rows if row["error"] is None]
    if len(measured) < 2:
        return None
    return measured[0] | {"folder": _folder(out, measured[0])}


def _compare(out: Path, policy: Policy, rows: list[dict[str, Any]], reference: dict[str, Any]) -> None:
    """Compare each checkpoint with the reference, by the prompts that both were asked; p-values of a measure
    are corrected for the number of checkpoints."""
    for row in rows:
        if row["error"] is not None or row["checkpoint"] == reference["checkpoint"]:
            continue
        here, there = (
            Results(one).read_json("inputs.json") or {} for one in (_folder(out, row), reference["folder"])
        )
        try:
            require_same_architecture(there, here)
        except NotComparableError as error:
            row["reasons"].append(f"not compared with {reference['checkpoint']}: {error.problem}")
            continue
        look = min(row["look"], reference["look"])
        one = landscapes_until(policy, _folder(out, row), row["model"], look, row["sizes"])[0]
        other = landscapes_until(policy, reference["folder"], reference["model"], look, row["sizes"])[0]
        try:
            apart = compare(one, other, None if policy.looks == 1 else level_of(look, policy.looks))
        except NotComparableError:
            continue  # one of them was ended at its origin, or has points that failed
        prompts = one.verdicts.shape[1]
        row["differences"] = {
            name: document
            | {
                "p_value": over_looks(document["p_value"], look, policy),
                "p_adjusted": None,
                "prompts": prompts,
            }
            for name, document in apart.items()
            if document is not None
        }
    for name in dict.fromkeys(name for row in rows for name in row["differences"]):
        tested = [
            row["differences"][name]
            for row in rows
            if name in row["differences"] and row["differences"][name]["p_value"] is not None
        ]
        adjusted = holm([one["p_value"] for one in tested])
        for one, p_value in zip(tested, adjusted, strict=True):
            one["p_adjusted"] = p_value
    for row in rows:
        row["difference"] = row["differences"].get(row["measure"])


def over_looks(p_value: float | None, look: int, policy: Policy) -> float | None:
    """A p-value of a look as one that holds though the looks may stop at any: by the share of all error that
    this one may make, as policy.level_of shares it out."""
    if p_value is None:
        return None
    return float(min(1.0, p_value * 0.05 / (1 - level_of(look, policy.looks))))


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    """By verdict: passed, inconclusive, failed, and the broken ones last. Among these the safest first, by
    their score; then those without one by their ASR; those that answer with gibberish have no say."""
    score, asr = row["score"], row["asr_at_origin"]
    sign = 1 if row["measure"] in LOWER_IS_BETTER else -1
    value = 0.0 if score is None else sign * score["value"]
    rate = 0.0 if asr is None else asr["value"]
    verdict = len(VERDICTS) if row["error"] is not None else VERDICTS.index(row["verdict"])
    return verdict, _is_gibberish(row), score is None, value, rate, row["checkpoint"]


def _is_gibberish(row: dict[str, Any]) -> bool:
    """Whether most responses of a checkpoint at its origin are gibberish, to a set of prompts."""
    return (row.get("gibberish_at_origin") or 0) > MOST  # leaderboards of earlier versions lack it


def _write_points(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the points of all checkpoints that are measured, with their names."""
    tables = []
    for row in rows:
        if row["error"] is None:
            table = Results(_folder(out, row)).points()
            tables.append(table.add_column(0, "checkpoint", pa.array([row["checkpoint"]] * len(table))))
    if tables:
        partial = out / f".{POINTS}.{os.getpid()}"
        pq.write_table(pa.concat_tables(tables), partial, compression="zstd")
        partial.replace(out / POINTS)


def _folder(out: Path, row: dict[str, Any]) -> Path:
    """Where a checkpoint's landscape is."""
    return Candidate(row["checkpoint"], row["model"]).folder(out) / MODEL


def _standing(row: dict[str, Any]) -> Standing:
    found = row["score"]
    score = found and Interval(found["value"], found["low"], found["high"])
    series = str(Path(row["model"]).parent)
    return Standing(row["checkpoint"], series, row["step"], score, row["verdict"])


def _title(document: dict[str, Any]) -> str:
    without = sum(row["score"] is None for row in document["checkpoints"])
    title = f"{document['policy']['name']}: {len(document['checkpoints'])} checkpoints"
    return f"{title}, {without} without a score" if without else title


def _between(interval: dict[str, Any] | None, digits: int, sign: str = "") -> str:
    if interval is None:
        return ""
    value = f"{interval['value']:{sign}.{digits}f}"
    if interval["low"] is None:
        return value
    return f"{value} ({interval['low']:{sign}.{digits}f} to {interval['high']:{sign}.{digits}f})"
