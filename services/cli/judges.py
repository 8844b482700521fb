"""Judges: hold them against human labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli.app import app
from visage_core.calibration import Agreement
from visage_core.judges import JUDGES
from visage_core.labels import COHERENCE, read_coherence, read_labels
from visage_core.results import Results
from visage_core.spec import SpecError, parse_spec, read_spec

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
    given = read_spec(spec).get("judges") if spec else judge or list(JUDGES)
    judges = parse_spec({"model": "none", "judges": given}).judges if given else ()
    people = [one.complied for one in labelled]
    items = [(one.prompt, one.response) for one in labelled]
    found = {one.name: Agreement.of(people, verdicts(one, items)) for one in judges}
    if run is not None:
        _note(run, file, found)
    if as_json:
        print(json.dumps({name: _document(one) for name, one in found.items()}, indent=2))
        return
    show.judges(found)
    for landscape in [] if run is None else load_landscapes(run):
        if landscape.reading.name in ("asr", "refusal_rate"):
            show.corrected(landscape, found[landscape.spec.judges[0].name])


def _note(run: Path, file: Path, found: dict[str, Agreement]) -> None:
    """Keep in a run's folder how its judges agree with people. Raises SpecError where its first one was not
    looked at."""
    from services.sweep.report import CALIBRATION, load_landscapes, write_summary

    own = load_landscapes(run)[0].spec.judges[0].name
    if own not in found:
        raise SpecError(
            "judge", f"{run} was judged by {own}", f"Give --judge {own}, or --spec {run}/spec.json"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    agreement = {name: _document(one) for name, one in found.items()}
    Results(run).write_json(CALIBRATION, {"labels_sha256": digest, "judges": agreement})
    write_summary(run)


@judges.command()
def coherence(
    file: Annotated[
        Path,
        typer.Argument(help="A .csv or .jsonl file: response, and label (coherent or incoherent)."),
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
        with show.steps("likelihoods") as step:
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
