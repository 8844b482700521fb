"""The command line's root, to which the commands add themselves."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130
app = typer.Typer(
    help="Measures the safety landscape of a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold responses
)


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        typer.echo(version("visage"))
        raise typer.Exit
