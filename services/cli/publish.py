"""Publish: a decision where the model is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.app import app
from visage_core.spec import SpecError


@app.command()
def publish(
    out: Annotated[Path, typer.Argument(help="The folder of a gate that has decided.")],
    mlflow: Annotated[
        str | None, typer.Option(help="Tag this version of a registered model: NAME/VERSION.")
    ] = None,
    hub: Annotated[
        str | None, typer.Option(help="Tag this commit of a model on the Hugging Face hub: REPO[@REVISION].")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The public key that has to have signed the decision, as a PEM file.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy that it has to be decided by, as YAML or JSON.")
    ] = None,
) -> None:
    """Tell a gate's decision where the model is kept: verdict, policy, VISAGE, and the decision's digest.

    The decision is made again from the measured points first: one that does not follow from them is not told.
    """
    # Imported here: they take seconds, and `visage --help` should not.
    from services.gate.publish import require_sound, tag_hub, tag_mlflow
    from services.gate.signing import load_key
    from visage_core.policy import load_policy

    if mlflow is None and hub is None:
        raise SpecError("publish", "nowhere to publish to is named", "Give --mlflow or --hub")
    require_sound(
        out,
        load_key(key) if key is not None else None,
        load_policy(policy) if policy is not None else None,
    )
    if mlflow is not None:
        tag_mlflow(out, mlflow)
        typer.echo(f"Tagged {mlflow} in MLflow's registry.")
    if hub is not None:
        typer.echo(f"Tagged {hub} on the hub as {tag_hub(out, hub)}.")
