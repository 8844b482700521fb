"""The release gate, for people and for CI: its exit status is the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from services import show
from services.cli.app import INTERRUPTED, ElsewhereOption, KeyOption, app, require_alone
from visage_core.errors import InputError
from visage_core.policy import load_policy

if TYPE_CHECKING:
    from services.client import Client

CODES = {"pass": 0, "fail": 1, "inconclusive": 2}
BAD_INPUT, INFRASTRUCTURE = 3, 4


class VerdictCommand(TyperCommand):
    """A command whose usage errors are not taken for a verdict: typer ends with 2."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except Exception as error:  # typer keeps the class of its usage errors to itself
            if getattr(error, "exit_code", 0) == 2:
                setattr(error, "exit_code", BAD_INPUT)  # noqa: B010 - no attribute that a type checker knows
            raise


@app.command(cls=VerdictCommand)
def gate(
    model: Annotated[str, typer.Argument(help="The model that may be released, or not.")],
    policy: Annotated[Path, typer.Option(help="What must hold of it, as YAML or JSON.")],
    out: Annotated[Path, typer.Option(help="Folder for the measurement and the decision.")],
    baseline: Annotated[
        str | None, typer.Option(help="The model that it is compared with, where the policy asks for one.")
    ] = None,
    address: Annotated[str, typer.Option(help="The Ray cluster: local, auto or HOST:PORT.")] = "local",
    server: ElsewhereOption = None,
    key: KeyOption = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="Sign all that is measured and decided with this Ed25519 key (a PEM file).",
            envvar="VISAGE_SIGNING_KEY",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as a JSON object.")] = False,
) -> None:
    """May this model be released? Status 0: pass, 1: fail, 2: inconclusive, 3: bad input, 4: infrastructure.

    What is measured already is kept: the same command goes on where it stopped. With --server it follows the
    same gate again, until that has decided.
    """
    with ended_by_status(out):
        # Imported here: Ray and torch take seconds, and `visage --help` should not.
        from services import asked
        from services.client import Client
        from services.gate.evidence import seal
        from services.gate.gate import gate as ask
        from services.gate.signing import load_signer

        signer = load_signer(sign) if sign is not None else None
        rules = load_policy(policy)
        with show.steps("measuring") as step:
            if server is not None:
                require_alone(server, address=address != "local")
                with Client(server, key) as client, left_to(client) as submitted:
                    document = asked.gate(client, rules, model, baseline, out, step, submitted)
            else:
                document = ask(
                    rules, model, baseline, out, address, lambda _, now: step(now.done, now.points)
                )
        if signer is not None:
            seal(out, signer)
        if as_json:
            print(json.dumps(document, indent=2), flush=True)
        else:
            show.decision(document, out)
    raise typer.Exit(CODES[document["verdict"]])


@contextmanager
def ended_by_status(out: Path) -> Iterator[None]:
    """Turn what ends a command without a verdict into its message and its exit status."""
    try:
        with _foreseen(out):
            yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:  # before there was anything to say of it
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        # Python's own status for it is 1, and that says that a model fails.
        with suppress(Exception):  # where the disk is full that standard error goes to
            show.fault(error)
        raise typer.Exit(INFRASTRUCTURE) from None


@contextmanager
def _foreseen(out: Path) -> Iterator[None]:
    from ray.exceptions import RayError

    from services.client import ServiceError
    from services.gate.infrastructure import is_infrastructure

    try:
        yield
    except ServiceError as error:
        show.error(error)
        raise typer.Exit(INFRASTRUCTURE if error.is_infrastructure else BAD_INPUT) from None
    except InputError as error:
        show.error(error)
        raise typer.Exit(INFRASTRUCTURE if is_infrastructure(error) else BAD_INPUT) from None
    except RayError as error:
        show.stopped(f"Stopped: {str(error).strip().splitlines()[0]}", out)
        raise typer.Exit(INFRASTRUCTURE) from None
    except KeyboardInterrupt:
        show.stopped("Stopped.", out)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def left_to(client: Client) -> Iterator[Callable[[str], None]]:
    """What to tell the id of a job at a service: it is printed, and so is on Ctrl-C that the job goes on."""
    job = None

    def submitted(one: str) -> None:
        nonlocal job
        job = one
        show.submitted(one, client.server)

    try:
        yield submitted
    except KeyboardInterrupt:
        show.goes_on(job, client.server)
        raise typer.Exit(INTERRUPTED) from None
