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
) -> None:
    """Tell a gate's decision where the model is kept: verdict, policy, VISAGE, and the decision's digest."""
    # Imported here: they take seconds, and `visage --help` should not.
    from services.gate.publish import tag_hub, tag_mlflow

    if mlflow is None and hub is None:
        raise SpecError("publish", "nowhere to publish to is named", "Give --mlflow or --hub")
    if mlflow is not None:
        tag_mlflow(out, mlflow)
        typer.echo(f"Tagged {mlflow} in MLflow's registry.")
    if hub is not None:
        typer.echo(f"Tagged {hub} on the hub as {tag_hub(out, hub)}.")
