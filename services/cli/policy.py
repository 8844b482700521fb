"""`visage policy`: what a policy can say, what one costs, and what it can never decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli.app import OptionError, app
from visage_core.policy import Policy, load_policy


@app.command("policy")
def policy_(
    file: Annotated[
        Path | None,
        typer.Argument(help="The policy to check, as YAML or JSON; without it the fields are printed."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model, for the cost in time and the prompts as its tokenizer has them."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="With --model: the baseline that it would be compared with.")
    ] = None,
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print the JSON schema.")] = False,
) -> None:
    """Print every field of a release policy, or check one: what it costs, and what it can never decide."""
    if json_schema:
        typer.echo(json.dumps(Policy.model_json_schema(), indent=2))
        return
    if file is None:
        show.policy_fields()
        return
    # Imported here: transformers takes seconds, and `visage --help` should not.
    from services.gate import outlook

    policy = load_policy(file)
    spec = policy.spec(model or "model")
    if model is not None:
        checked = outlook.checked_models(policy, model, baseline)
        sizes = list[int | None](checked.sizes(spec))
        costs = outlook.work_here(policy, spec, checked).lines()
    elif baseline is not None:
        raise OptionError("baseline", "there is no model to compare with it", "Give --model, too")
    else:
        sizes = outlook.sizes_without_model(spec)
        costs = outlook.costs_without_model(policy, spec, sizes)
    costs += outlook.terms(policy, baseline)
    show.policy(policy, costs, outlook.remarks(policy, spec, sizes))
