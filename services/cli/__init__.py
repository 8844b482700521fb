"""`visage`: the command line."""

from __future__ import annotations

from services import show
from services.cli import (  # noqa: F401 - they add their commands
    audit,
    copies,
    gate,
    jobs,
    judges,
    local,
    policy,
    publish,
    service,
    verify,
)
from services.cli.app import BAD_INPUT, app
from services.cli.stopping import listening
from visage_core.errors import InputError


def main() -> None:
    """Run the command line; an InputError ends it with its text and status 2."""
    with listening():
        try:
            app()
        except InputError as error:
            show.error(error)
            raise SystemExit(BAD_INPUT) from None
