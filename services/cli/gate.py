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
from services.cli import progress
from services.cli.app import ElsewhereOption, KeyOption, app, require_alone
from services.cli.stopping import is_stopping, kept_in, status
from visage_core.errors import InputError
from visage_core.policy import load_policy

if TYPE_CHECKING:
    from services.client import Client
    from services.sweep.coordinator import Progress
    from visage_core.policy import Policy

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
        from services.gate.signing import load_signer

        signer = load_signer(sign) if sign is not None else None
        rules = load_policy(policy)
        if server is not None:
            require_alone(server, address=address != "local")
            with (
                Client(server, key) as client,
                left_to(client) as submitted,
                progress.shown("waiting for the service") as tell,
            ):
                told = progress.at_service(tell)
                document = asked.gate(client, rules, model, baseline, out, told, submitted)
        else:
            document = _measure(rules, model, baseline, out, address)
        if signer is not None:
            seal(out, signer)
        if as_json:
            print(json.dumps(document, indent=2), flush=True)
        else:
            show.decision(document, out)
    raise typer.Exit(CODES[document["verdict"]])


def _measure(policy: Policy, model: str, baseline: str | None, out: Path, address: str) -> dict[str, Any]:
    """Measure here, or on a Ray cluster, and decide."""
    from services.gate.evidence import BASELINE, MODEL
    from services.gate.gate import gate as ask
    from visage_core.grid import count_points

    order = [MODEL, BASELINE][: 1 + policy.needs_baseline]
    parts = progress.Parts([count_points(policy.spec(model))] * policy.looks * len(order))
    with progress.shown("preparing") as tell:

        def told(which: str, look: int, now: Progress) -> None:
            part = (look - 1) * len(order) + order.index(which)
            tell(parts.now(part, f"{which}, look {look} of {policy.looks}", now))

        return ask(policy, model, baseline, out, address, told, lambda work: show.work(work, out))


@contextmanager
def ended_by_status(out: Path) -> Iterator[None]:
    """Turn what ends a command without a verdict into its message and its exit status."""
    try:
        with kept_in(out, INFRASTRUCTURE), _foreseen():
            yield
    except typer.Exit:
        raise
    except Exception as error:
        # Python's own status for it is 1, and that says that a model fails.
        with suppress(Exception):  # where the disk is full that standard error goes to
            show.fault(error)
        raise typer.Exit(INFRASTRUCTURE) from None


@contextmanager
def _foreseen() -> Iterator[None]:
    from services.client import ServiceError
    from services.gate.infrastructure import is_infrastructure

    try:
        yield
    except InputError as error:
        if is_stopping(error):
            raise
        show.error(error)
        ours = is_infrastructure(error) if not isinstance(error, ServiceError) else error.is_infrastructure
        raise typer.Exit(INFRASTRUCTURE if ours else BAD_INPUT) from None


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
        raise typer.Exit(status()) from None
