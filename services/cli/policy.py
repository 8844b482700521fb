"""`visage policy`: what a policy can say, what one costs, and what it can never decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli.app import app
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
    from services.gate.outlook import remarks, sizes_without_model, work_here
    from services.sweep.estimate import size_of
    from services.sweep.plan import check

    policy = load_policy(file)
    spec = policy.spec(model or "model")
    if model is None:
        sizes = sizes_without_model(spec)
        one = size_of(spec, [size or 0 for size in sizes])
        count = 1 + policy.needs_baseline
        costs = [
            f"At most {count * one.prompts:,} responses or questions of {count} "
            f"model{'s' * (count > 1)} at {one.points:,} points, of {count * one.tokens:,} tokens together."
        ]
    else:
        checked = check(spec)
        checked.require_different()
        sizes = list(checked.sizes(spec))
        costs = work_here(policy, spec, checked).lines()
    show.policy(policy, costs, remarks(policy, spec, sizes))
