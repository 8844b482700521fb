"""Verify: is the evidence of a decision what was signed, and does the verdict follow from it?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli.app import FAILED, app
from services.cli.gate import BAD_INPUT, VerdictCommand
from visage_core.errors import InputError


@app.command(cls=VerdictCommand)
def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder of a gate that was run with --sign.")],
    key: Annotated[Path, typer.Option(help="The public key that has to have signed it, as a PEM file.")],
    policy: Annotated[
        Path | None,
        typer.Option(
            help="The policy that it has to be decided by, as YAML or JSON, with the prompts and other files "
            "that it names as they are now."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The folder of the model that it has to be about, file by file.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="The folder of the baseline that it was compared with, file by file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as a JSON object.")] = False,
) -> None:
    """Is this decision what was signed, and right? Status 0: yes, 1: no, 3: bad input.

    The verdict is made again from the measured points. It may be any: read which one.
    """
    # Imported here: it takes a second, and `visage --help` should not.
    from services.gate.signing import load_key
    from services.gate.verification import verify as hold
    from visage_core.policy import load_policy

    try:
        rules = load_policy(policy) if policy is not None else None
        found = hold(bundle, load_key(key), rules, model, baseline)
    except InputError as error:
        show.error(error)
        raise typer.Exit(BAD_INPUT) from None
    if as_json:
        print(json.dumps({"verified": not found.problems, **asdict(found)}, indent=2))
    else:
        show.verification(found)
    if found.problems:
        raise typer.Exit(FAILED)
