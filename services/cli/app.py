"""The command line's root, to which the commands add themselves."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer

from services.cli.stopping import Stoppable
from visage_core.documents import parse_yaml
from visage_core.errors import InputError
from visage_core.spec import SpecError

BAD_INPUT = 2
FAILED = 1
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="VISAGE_API_KEY", show_envvar=True, help="API key. Prefer the variable."),
]
ElsewhereOption = Annotated[
    str | None, typer.Option("--server", help="Let the service at this URL measure; the models are its.")
]
app = typer.Typer(
    cls=Stoppable,
    help="Measures the safety landscape of a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold responses
)


class OptionError(InputError):
    """Options that do not go together."""


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        typer.echo(version("visage"))
        raise typer.Exit


def require_alone(server: str, **given: bool) -> None:
    """Raise OptionError where options for a measurement here were given beside a service's URL."""
    for name, one in given.items():
        if one:
            problem = f"it is for what is measured here, and not by {server}"
            raise OptionError(name.replace("_", "-"), problem, "Leave one of the two out")


def set_field(document: dict[str, Any], text: str) -> None:
    """Put `path.to.field=value`, the value as YAML, into a spec's document."""
    path, equals, value = text.partition("=")
    *parents, name = path.split(".")
    try:
        parsed = parse_yaml(value)
    except ValueError:
        parsed = equals = ""
    if not equals or not all([*parents, name]):
        raise SpecError("set", f"{text!r} is no setting", "Give FIELD=VALUE, as axis.points=11")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise SpecError("set", f"{parent} in {text!r} has no fields", "`visage spec` prints every field")
    document[name] = parsed
