"""Judges: hold them against human labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli import progress
from services.cli.app import app
from visage_core.calibration import Agreement
from visage_core.judges import JUDGES
from visage_core.labels import COHERENCE, read_coherence, read_labels
from visage_core.results import Results
from visage_core.spec import LandscapeSpec, SpecError, parse_spec, read_spec

judges = typer.Typer(no_args_is_help=True, help="Hold judges against human labels.")
app.add_typer(judges, name="judges")


@judges.command()
def evaluate(
    file: Annotated[
        Path,
        typer.Argument(help="A .csv or .jsonl file: response, and label (refused, complied or incoherent)."),
    ],
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="keyword-paper, keyword-modern, a .txt file of phrases or python:NAME; repeat it for more. "
            "All lists of the project unless given."
        ),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="Take the judges of this spec: models and endpoints, too.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Correct the ASRs of this run by what its judge gets wrong, and note that there."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Accuracy, precision, recall and Cohen's kappa of judges beside human labels, with 95 % intervals."""
    from services.sweep.judging import verdicts
    from services.sweep.report import load_landscapes

    labelled = read_labels(file)
    given = {"judges": judge or list(JUDGES)} if spec is None else read_spec(spec)
    asked = parse_spec({"model": "none"} | {name: given[name] for name in given if name == "judges"})
    people = [one.complied for one in labelled]
    items = [(one.prompt, one.response) for one in labelled]
    found = {
        name: Agreement.of(people, verdicts(one, items))
        for name, one in zip(asked.judge_names, asked.judges, strict=True)
    }
    own = ""
    if run is not None:
        own = _note(run, file, asked, found)
    if as_json:
        print(json.dumps({name: _document(one) for name, one in found.items()}, indent=2))
        return
    show.judges(found)
    for landscape in [] if run is None else load_landscapes(run):
        if landscape.reading.name in ("asr", "refusal_rate"):
            show.corrected(landscape, found[own])


def _note(run: Path, file: Path, asked: LandscapeSpec, found: dict[str, Agreement]) -> str:
    """Keep in a run's folder how its judges agree with people; gives the name here of its first one. Raises
    SpecError where that was not looked at."""
    from services.sweep.report import CALIBRATION, load_landscapes, write_summary

    measured = load_landscapes(run)[0].spec
    own = measured.judges[0]
    if own not in asked.judges:
        raise SpecError(
            "judge", f"{run} was judged by {own.name}", f"Give that judge, or --spec {run / 'spec.json'}"
        )
    agreement = {
        measured.judge_names[measured.judges.index(judge)]: _document(found[name])
        for name, judge in zip(asked.judge_names, asked.judges, strict=True)
        if judge in measured.judges
    }
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    Results(run).write_json(CALIBRATION, {"labels_sha256": digest, "judges": agreement})
    write_summary(run)
    return asked.judge_names[asked.judges.index(own)]


@judges.command()
def coherence(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .csv or .jsonl file: response, and label (coherent or incoherent).",
            show_default="those of the project",
        ),
    ] = COHERENCE,
    out: Annotated[Path | None, typer.Option(help="Draw the ROC curves into this folder.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Measure likelihoods, too, under this model: the unperturbed one, on the CPU."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How well gibberish is told from text, beside labelled texts: those of the project unless given."""
    from services.likelihood import mean_log_likelihoods
    from services.sweep.report import write_figure
    from visage_core.discrimination import document, drawn, measure
    from visage_core.plots import roc_figure

    rows = read_coherence(file)
    likelihoods = None
    if model is not None:
        with progress.steps("likelihoods", "texts") as step:
            likelihoods = mean_log_likelihoods(model, [row.response for row in rows], step)
    found = measure(rows, likelihoods)
    gibberish = sum(row.gibberish for row in rows)
    title = f"Gibberish in {len(rows)} responses, {gibberish} of them incoherent"
    if as_json:
        print(json.dumps(document(rows, found, likelihoods), indent=2))
    else:
        show.coherence(found, title)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_figure(roc_figure(*drawn(found), title), out, "coherence")


def _document(one: Agreement) -> dict[str, object]:
    intervals = {
        "accuracy": one.accuracy,
        "precision": one.precision,
        "recall": one.sensitivity,
        "specificity": one.specificity,
        "kappa": one.kappa(),
    }
    return asdict(one) | {name: value and asdict(value) for name, value in intervals.items()}
