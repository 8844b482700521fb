"""Copies: an attack's success over perturbed copies of a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services import show
from services.cli.app import app

if TYPE_CHECKING:
    from visage_core.copies import Copies


@app.command()
def copies(
    folder: Annotated[Path, typer.Argument(help="The folder of a run along lines.")],
    alpha: Annotated[float, typer.Option(help="How far the copies are from the model, on both sides.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How often an attack succeeds if any, most or all of the perturbed copies have to be broken."""
    # Imported here: they take a second, and `visage --help` should not.
    from services.sweep.report import load_landscapes
    from visage_core.copies import copies_of
    from visage_core.landscape import is_safety

    landscapes = load_landscapes(folder)
    # The requests of a run with other prompt sets beside them; of one without any, the error says so.
    attacks = [one for one in landscapes if is_safety(one.prompts)] or landscapes
    found = [(one.prompts.name, copies_of(one, alpha)) for one in attacks]
    if as_json:
        document = {"landscapes": [{"prompts": name} | _document(one) for name, one in found]}
        print(json.dumps(document, indent=2))
        return
    for name, one in found:
        show.copies(name, one)


def _document(one: Copies) -> dict[str, Any]:
    return {
        "copies": [asdict(point) for point in one.points],
        "successes": one.successes,
        "undefended": asdict(one.undefended),
        "success": {rule: asdict(value) for rule, value in one.success.items()},
    }
