"""What the command line prints: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel
from rich.markup import escape
from rich.table import Column, Table

from services import scores
from services.console import err, out
from services.tables import rate_text
from visage_core.calibration import Agreement, corrected_rate
from visage_core.errors import InputError
from visage_core.spec import Axis, LandscapeSpec

if TYPE_CHECKING:
    from services.api.schemas import Audit as AuditStatus
    from services.api.schemas import Estimate, Job, Score
    from services.api.schemas import Gate as GateStatus
    from services.api.schemas import Landscape as JobStatus
    from services.api.settings import Settings
    from services.bench import Report
    from services.gate.verification import Verification
    from services.jobs.tables import KeyRow
    from services.overview import Detail
    from services.reproduce import Claim
    from services.sweep.estimate import Work
    from services.sweep.memory import MemoryPlan
    from visage_core.copies import Copies
    from visage_core.discrimination import Measured
    from visage_core.landscape import Landscape
    from visage_core.metrics import Interval
    from visage_core.policy import Policy

VERDICT_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def error(problem: InputError) -> None:
    """Print what is wrong with what was given, and what to do about it."""
    err.print(f"[bold red]error[/] [bold]{escape(problem.field)}[/]: ", end="", highlight=False)
    _say(f"{problem.problem}. {problem.remedy}.")


def stopped(why: str, folder: Path | None = None) -> None:
    """Print why a command ends before its work is done, and how to continue it."""
    kept = "" if folder is None else f"Finished points are kept in {folder}. "
    _say(f"{why} {kept}The same command continues the work.")


def fault(problem: Exception) -> None:
    """Print what nobody has foreseen, with where it comes from: without locals, which may hold responses."""
    _say("".join(traceback.format_exception(problem)).rstrip())


def submitted(job: str, server: str) -> None:
    """Say by what a job is found that a command waits for."""
    _say(f"It is job {job} at {server}: `visage status {job} --server {server}` tells of it.")


def goes_on(job: str | None, server: str) -> None:
    """Say what becomes of a job at a service whose command was stopped."""
    if job is None:
        _say(f"Stopped. Where {server} has taken it in, the same command follows it.")
    else:
        _say(
            f"Stopped. Job {job} goes on at {server}: the same command follows it again, and "
            f"`visage cancel {job} --server {server}` ends it."
        )


def _say(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def work(one: Work, out: Path) -> None:
    """Say what is about to be measured, how long that takes, and where its results will be."""
    for line in [*one.lines(), f"Results: {out}"]:
        _say(line)


def memory(plan: MemoryPlan) -> None:
    err.print(f"Memory: {plan}.", style="dim", markup=False, highlight=False)


def ended_early(estimate: Interval) -> None:
    """Say why a sweep is over that has points left."""
    between = f"VISAGE of these directions about {_interval(estimate)}"
    _say(f"Ended early: {between}. The same command without --stop-when measures the rest.")


def landscape(folder: Path, detail: Detail) -> None:
    """Print the overview of a results folder whose summary is written."""
    from services.overview import overview

    for part in overview(folder, detail, out.width):
        out.print(part, highlight=False, crop=False)


def comparison(document: dict[str, Any]) -> None:
    """Print how models differ from the first one."""
    baseline = Path(document["baseline"]["model"]).name
    for model in document["models"]:
        if model["same_weights"]:
            out.print(
                f"{model['model']} has the weights of {baseline}: it is compared with itself.", markup=False
            )
        for change in model["other_versions"]:
            out.print(f"Measured with another {change}", markup=False, highlight=False)
        for landscape_ in model["landscapes"]:
            table = Table(
                "score", "difference", "95 % interval", "p", title=f"{Path(model['model']).name} - {baseline}"
            )
            for row in scores.difference_rows(landscape_["differences"]):
                table.add_row(*row)
            if len(model["landscapes"]) > 1:
                out.rule(escape(landscape_["name"]))
            out.print(table)
            if any(apart and apart.get("open") for apart in landscape_["differences"].values()):
                out.print("Some basins reach the end of the range: they may be larger, and differ by more.")


def search(document: dict[str, Any], folder: Path) -> None:
    """Print the direction that a search found, beside the random ones."""
    table = Table("direction", "radius", "95 % interval", title="how far the model is from unsafe")
    for one in document["random"]["directions"]:
        least = "≥ " if one["open"] else ""
        table.add_row(f"random, seed {one['seed']}", f"{least}{one['radius']:.4f}", "")
    for name, found in (("random, mean", document["random"]), ("found", document["found"])):
        value, between = found["radius"]["value"], scores.between(found["radius"], 4)
        table.add_row(name, f"{value:.4f}", between, style="bold")
    out.print(table)
    lost = sum(trial["radius"] is not None for trial in document["trials"])
    out.print(f"{len(document['trials'])} candidates, {lost} of them left the basin.")
    out.print("Radii are shares of the norm of all weights; those above are measured with all prompts.")
    direction = json.dumps(document["found"]["direction"])
    out.print(f"Found: {direction}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Files: {folder}", markup=False, highlight=False, soft_wrap=True)


def claims(found: Sequence[Claim], folder: Path) -> None:
    """Print what became of the paper's claims."""
    table = Table("claim", "shown", "measured")
    for one in found:
        table.add_row(one.claim, "[green]yes[/]" if one.shown else "[red]no[/]", one.found)
    out.print(table)
    out.print(f"Files: {folder}", markup=False, highlight=False, soft_wrap=True)


def judges(found: dict[str, Agreement]) -> None:
    """Print how judges agree with people."""
    table = Table("beside human labels", *found, title="percent (95 % interval)")
    kappas = [one.kappa() for one in found.values()]
    table.add_row("accuracy", *(_some(one.accuracy) for one in found.values()))
    table.add_row("precision", *(_some(one.precision) for one in found.values()))
    table.add_row("recall", *(_some(one.sensitivity) for one in found.values()))
    table.add_row("specificity", *(_some(one.specificity) for one in found.values()))
    table.add_row("Cohen's κ, from -1 to 1", *("-" if one is None else _interval(one, 2) for one in kappas))
    table.add_row("responses judged", *(str(one.judged) for one in found.values()))
    table.add_row("unjudged", *(str(one.unjudged) for one in found.values()))
    out.print(table)


def coherence(found: Sequence[Measured], of: str) -> None:
    """Print what tells gibberish from text, and how well."""
    table = Table("told by", "area under ROC", "threshold", "found, %", "false alarms, %", title=of)
    for one in found:
        if one.fitted and one.held_out is None:
            table.add_section()
        table.add_row(
            f"  {one.held_out}" if one.held_out else one.name,
            _interval(one.roc.area(), 3),
            f"{one.threshold:.3g}",
            _interval(one.roc.sensitivity(one.threshold)),
            _interval(one.roc.false_alarms(one.threshold)),
        )
    out.print(table)


def decision(document: dict[str, Any], folder: Path) -> None:
    """Print a gate's verdict, rule by rule."""
    from services.gate.reports import explained, looked

    table = Table("rule", "prompts", "verdict", "why", title=f"policy {escape(document['policy']['name'])}")
    for one in explained(document):
        mark = f"[{VERDICT_COLOURS[one['verdict']]}]{one['verdict']}[/]"
        table.add_row(escape(one["rule"]), escape(one["prompts"]), mark, escape(one["why"]))
    out.print(table)
    verdict = document["verdict"]
    out.print(f"[bold {VERDICT_COLOURS[verdict]}]{verdict}[/]: {escape(document['models']['model'])}")
    for line in (*document.get("notes", []), looked(document)):
        out.print(line, markup=False, highlight=False)
    out.print(f"Files: {folder}", markup=False, highlight=False, soft_wrap=True)


def verification(found: Verification) -> None:
    """Print what a bundle of evidence proves, or what is wrong with it, file by file."""
    if found.claims is None:
        for one in found.problems:
            # A name may hold what a terminal would obey.
            name = one.file if one.file.isprintable() else ascii(one.file)
            out.print(f"{name}: {one.problem}", markup=False, highlight=False, soft_wrap=True)
        out.print(f"[bold red]not verified[/] with the key {found.key_id}", highlight=False, soft_wrap=True)
        return
    claims = found.claims
    lines = [f"policy {claims['policy']['name']!r}, sha256 {claims['policy']['sha256']}"]
    lines += [f"{name} {one['name']!r}, sha256 {one['sha256']}" for name, one in claims["models"].items()]
    lines += [f"signed {claims['time']} by the key {found.key_id}"]
    colour = VERDICT_COLOURS[claims["verdict"]]
    out.print(f"verified: [bold {colour}]{claims['verdict']}[/]")
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def audit(document: dict[str, Any], folder: Path) -> None:
    """Print how the checkpoints of an audit stand."""
    from services.audit.leaderboard import cells_of, columns_of, notes_of

    table = Table(*map(escape, columns_of(document)), title=f"policy {escape(document['policy']['name'])}")
    for row in document["checkpoints"]:
        cells = [escape(one) for one in cells_of(row, document["reference"] is not None)]
        cells[2] = f"[{VERDICT_COLOURS.get(row['verdict'], 'magenta')}]{cells[2]}[/]"
        table.add_row(*cells)
    out.print(table)
    for note in notes_of(document):
        out.print(note, markup=False, highlight=False)
    out.print(f"Engines started: {document['engine_starts']}", highlight=False)
    out.print(f"Files: {folder}", markup=False, highlight=False, soft_wrap=True)


def corrected(measured: Landscape, agreement: Agreement) -> None:
    """Print the ASRs that a landscape's verdicts point to, were it not for the judge's errors."""
    table = Table(
        "point", "ASR", "corrected ASR", title=f"ASR in percent (95 % interval), {measured.prompts.name}"
    )
    for point, row in sorted(
        measured.rows.items(), key=lambda one: (one[0].seed or -1, one[0].alpha, one[0].beta)
    ):
        judged = [verdict for verdict in row["verdicts"] if verdict is not None]
        # Samples of one prompt are alike: they count as the one prompt.
        samples = measured.samples
        found = corrected_rate(row["verdicts"].count(True) / samples, len(judged) / samples, agreement)
        low, high = (math.nan if row[end] is None else row[end] for end in ("asr_low", "asr_high"))
        rate = math.nan if row["asr"] is None else row["asr"]
        table.add_row(str(point), rate_text(rate, low, high), _some(found))
    out.print(table)


def serving(url: str, settings: Settings) -> None:
    """Say that a service is ready, and what it takes."""
    err.print(f"visage serves at {url}", highlight=False)
    roots = ", ".join(map(str, settings.roots)) or "no folder"
    err.print(f"Models and prompts: below {roots}", markup=False, highlight=False, soft_wrap=True)
    if settings.models:
        err.print(f"Models from elsewhere: {', '.join(settings.models)}", markup=False, highlight=False)
    err.print(f"Results and logs: {settings.data}", markup=False, highlight=False, soft_wrap=True)
    err.print("Ctrl-C stops it; jobs go on when it is started again.")


def keys(rows: list[KeyRow]) -> None:
    """Print the API keys."""
    table = Table("id", "name", "scopes", "limits", "made", "")
    for row in rows:
        limits = ", ".join(f"{value:,} {name}" for name, value in row.limits.items())
        state = "[red]revoked[/]" if row.revoked_at else "[green]valid[/]"
        made = f"{row.created_at:%Y-%m-%d}"
        table.add_row(row.id, escape(row.name), ", ".join(row.scopes), limits, made, state)
    out.print(table)


def jobs(found: list[JobStatus]) -> None:
    """Print a line for each job."""
    one_line = [Column(name, no_wrap=True) for name in ("id", "state", "points", "VISAGE", "model", "label")]
    table = Table(*one_line)
    for one in found:
        table.add_row(
            one.id,
            _state(one),
            f"{one.done}/{one.points}",
            "-" if one.visage is None else f"{one.visage.value:.1f}",
            escape(Path(one.model).name),
            escape(one.label or ""),
        )
    out.print(table)


def job(one: Job) -> None:
    """Print how far a job is, and what it has found."""
    from services.api.schemas import Audit, Gate
    from services.api.schemas import Landscape as JobStatus

    table = Table(show_header=False, title=f"job {one.id}")
    table.add_row("state", _state(one))
    if isinstance(one, Audit):
        rows = _audit_rows(one)
    elif isinstance(one, Gate):
        rows = _gate_rows(one)
    else:
        assert isinstance(one, JobStatus)
        rows = _landscape_rows(one)
    for name, value in rows:
        table.add_row(name, value)
    table.add_row("cost", f"{one.tokens:,} tokens generated in {one.worker_seconds:,.0f} s of workers")
    if one.error is not None:
        table.add_row("error", escape(f"{one.error.field}: {one.error.problem}. {one.error.remedy}."))
    out.print(table)


def _landscape_rows(one: JobStatus) -> Iterator[tuple[str, str]]:
    yield "model", escape(one.model)
    yield from _common_rows(one)
    if one.eta_seconds is not None:
        yield "time left", f"about {one.eta_seconds:,.0f} s"
    yield "VISAGE", _visage(one)


def _gate_rows(one: GateStatus) -> Iterator[tuple[str, str]]:
    yield "policy", escape(one.name)
    yield "model", escape(one.model)
    if one.baseline is not None:
        yield "baseline", escape(one.baseline)
    yield from _common_rows(one)
    if one.look is not None:
        look = one.look
        yield "look", f"{look.number} of {look.of}, at {look.responses:,} of {look.planned:,} responses"
    yield "verdict", "-" if one.verdict is None else f"[{VERDICT_COLOURS[one.verdict]}]{one.verdict}[/]"


def _audit_rows(one: AuditStatus) -> Iterator[tuple[str, str]]:
    yield "policy", escape(one.name)
    if one.baseline is not None:
        yield "baseline", escape(one.baseline)
    yield "models", f"{one.settled} of {one.checkpoints} settled"
    yield from _common_rows(one)
    counts = [f"{count} {verdict}" for verdict, count in (one.verdicts or {}).items()]
    yield "verdicts", ", ".join(counts) or "-"


def _common_rows(one: Job) -> Iterator[tuple[str, str]]:
    if one.label:
        yield "label", escape(one.label)
    yield "points", f"{one.done} of {one.points}" + (f", {one.failed} failed" if one.failed else "")


def estimate(one: Estimate) -> None:
    """Print what a job would cost."""
    table = Table(show_header=False, title="what it would cost")
    table.add_row("points", f"{one.points:,}")
    table.add_row("prompts to answer", f"{one.prompts:,}")
    if one.prompt_tokens is not None:
        table.add_row("tokens of the prompts", f"{one.prompt_tokens:,}")
    table.add_row("tokens of the answers", f"at most {one.most_tokens:,}")
    known = "unknown: no finished job on this model" if one.seconds is None else f"{one.seconds:,.0f} s"
    table.add_row("time", known)
    out.print(table)


def spec_fields() -> None:
    """Print every field of a spec with its meaning and default."""
    table = Table("field", "default", "meaning")
    _add_fields(table, LandscapeSpec, "")
    out.print(table)


def policy_fields() -> None:
    """Print every field of a policy with its meaning and default."""
    from visage_core.policy import Policy as Fields

    table = Table("field", "default", "meaning")
    _add_fields(table, Fields, "")
    out.print(table)
    out.print("The fields of `landscape` are those of a spec but for its model: `visage spec` prints them.")


def policy(policy: Policy, costs: list[str], remarks: list[str]) -> None:
    """Print the rules of a policy, what it costs, and what is odd about it."""
    for number, rule in enumerate(policy.rules):
        line = f"rules.{number}: {rule}" + (f": {rule.reason}" if rule.reason else "")
        out.print(line, markup=False, highlight=False)
    for line in (*costs, *(remarks or ["Nothing stands in the way of a verdict."])):
        out.print(line, markup=False, highlight=False)


def benchmark(report: Report, as_json: bool) -> None:
    """Print a benchmark's figures beside their bounds."""
    if as_json:
        print(json.dumps(report.document(), indent=2))
        return
    table = Table("figure", "measured", "bound", "", title=report.name)
    for figure in report.figures:
        mark = "" if figure.bound is None else "[green]ok[/]" if figure.ok else "[red]missed[/]"
        table.add_row(figure.name, f"{figure.value:.3g} {figure.unit}", figure.bound_text, mark)
    out.print(table)


def copies(name: str, found: Copies) -> None:
    """Print how often an attack succeeds over perturbed copies of a model."""
    table = Table("broken", "success in percent (95 % interval)", "undecided prompts", title=escape(name))
    rows = {"the unperturbed model": found.undefended}
    count = len(found.points)
    rows |= {f"{rule}: {one.needed} of {count} copies": one for rule, one in found.success.items()}
    for broken, one in rows.items():
        table.add_row(broken, _some(one.rate), str(one.undecided))
    out.print(table)


def _state(one: Job) -> str:
    colours = {"done": "green", "failed": "red", "running": "cyan"}
    return f"[{colours.get(one.state, 'yellow')}]{one.state}[/]"


def _visage(one: JobStatus) -> str:
    if one.visage is not None:
        return _interval(one.visage)
    if one.estimate is not None and one.state in ("running", "queued"):
        return f"about {_interval(one.estimate)}"
    return "-"


def _interval(score: Score | Interval, digits: int = 1) -> str:
    return f"{score.value:.{digits}f} ({score.low:.{digits}f} to {score.high:.{digits}f})"


def _some(interval: Interval | None) -> str:
    return "-" if interval is None else _interval(interval)


def _add_fields(table: Table, part: type[BaseModel], prefix: str) -> None:
    for name, field in part.model_fields.items():
        kinds = _models_in(field.annotation)
        if field.is_required():
            given = "by direction" if issubclass(part, Axis) else "required"
        else:
            given = "" if kinds else json.dumps(field.get_default(call_default_factory=True))
        table.add_row(prefix + name, given, field.description or "")
        for kind in kinds:
            table.add_section()
            _add_fields(table, kind, f"{prefix}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The parts of a spec that an annotation names: itself, those of a list, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for one in get_args(annotation) for kind in _models_in(one)]
