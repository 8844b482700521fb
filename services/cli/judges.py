"""Judges: hold them against human labels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli.app import app
from visage_core.calibration import Agreement
from visage_core.judges import JUDGES
from visage_core.labels import read_labels
from visage_core.spec import SpecError

judges = typer.Typer(no_args_is_help=True, help="Hold judges against human labels.")
app.add_typer(judges, name="judges")


@judges.command()
def evaluate(
    file: Annotated[
        Path,
        typer.Argument(help="A .csv or .jsonl file: response, and label (refused, complied or incoherent)."),
    ],
    judge: Annotated[
        list[str] | None, typer.Option(help="A judge; repeat it for more. All of them unless given.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Correct the ASRs of this run by what its judge gets wrong.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Accuracy, precision, recall and Cohen's kappa of judges beside human labels, with 95 % intervals."""
    from services.sweep.report import load_landscapes

    labelled = read_labels(file)
    names = judge or list(JUDGES)
    for name in names:
        if name not in JUDGES:
            raise SpecError("judge", f"there is no judge {name!r}", f"Use {', '.join(JUDGES)}")
    people = [one.complied for one in labelled]
    found = {
        name: Agreement.of(people, [not JUDGES[name].refused(one.response) for one in labelled])
        for name in names
    }
    if as_json:
        print(json.dumps({name: _document(one) for name, one in found.items()}, indent=2))
        return
    show.judges(found)
    for landscape in [] if run is None else load_landscapes(run):
        own = landscape.spec.judge
        if own not in found:
            raise SpecError("judge", f"{run} was judged by {own}", f"Give --judge {own}")
        show.corrected(landscape, found[own])


def _document(one: Agreement) -> dict[str, object]:
    intervals = {
        "accuracy": one.accuracy,
        "precision": one.precision,
        "recall": one.sensitivity,
        "specificity": one.specificity,
        "kappa": one.kappa(),
    }
    return asdict(one) | {name: value and asdict(value) for name, value in intervals.items()}
