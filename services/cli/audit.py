"""The batch audit, for people and for CI: its exit status is the worst that became of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from services import show
from services.cli import progress, stopping
from services.cli.app import ElsewhereOption, KeyOption, app, require_alone
from services.cli.gate import BAD_INPUT, CODES, INFRASTRUCTURE, VerdictCommand, ended_by_status, left_to
from visage_core.policy import Policy, load_policy


@app.command(cls=VerdictCommand)
def audit(
    policy: Annotated[Path, typer.Option(help="What must hold of each, as YAML or JSON.")],
    out: Annotated[Path, typer.Option(help="Folder for the measurements and the leaderboard.")],
    checkpoints: Annotated[
        list[str] | None, typer.Argument(help="Models: paths, hub ids or bucket URLs.", show_default=False)
    ] = None,
    glob: Annotated[str | None, typer.Option(help="The folders that match this pattern.")] = None,
    from_file: Annotated[Path | None, typer.Option(help="The models of a text file, one a line.")] = None,
    hub_collection: Annotated[str | None, typer.Option(help="The models of a collection on the hub.")] = None,
    watch: Annotated[
        Path | None, typer.Option(help="A training's folder: each checkpoint as soon as it is complete.")
    ] = None,
    until: Annotated[
        int | None, typer.Option(min=1, help="With --watch: end after so many; else Ctrl-C ends it.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The model that each is compared with; the first one unless given.")
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(min=1, help="Checkpoints at the same time; one more than workers unless given."),
    ] = None,
    address: Annotated[str, typer.Option(help="The Ray cluster: local, auto or HOST:PORT.")] = "local",
    server: ElsewhereOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the leaderboard as a JSON object.")] = False,
) -> None:
    """How do all checkpoints stand? Status 0: all pass, 1: one fails, 2: none fails and one is inconclusive,
    3: bad input, 4: infrastructure, or a checkpoint that is broken.

    What is measured already is kept: the same command goes on where it stopped. With --server it follows the
    same audit again, until that has a leaderboard.
    """
    with ended_by_status(out):
        # Imported here: Ray and torch take seconds, and `visage --help` should not.
        from services.audit.checkpoints import AuditError, gather

        if server is not None:
            here = {"glob": glob, "watch": watch, "max_concurrent": max_concurrent}
            given = {name: value is not None for name, value in here.items()}
            require_alone(server, address=address != "local", **given)
        models = gather(checkpoints or [], glob, from_file, hub_collection, here=server is None)
        if not models and watch is None:
            raise AuditError(
                "checkpoints",
                "there is none",
                "Name some, or give --glob, --from-file, --hub-collection or --watch",
            )
        if until is not None and watch is None:
            raise AuditError("until", "there is no folder to watch", "Give --watch FOLDER, or leave it out")
        rules = load_policy(policy)
        if server is not None:
            document = _asked(rules, models, baseline, out, server, key)
        else:
            document = _measured(rules, models, baseline, out, address, max_concurrent, watch, until)
        status = status_of(document)
        if as_json:
            print(json.dumps(document, indent=2), flush=True)
        else:
            show.audit(document, out)
        if stopping.was_terminated():  # a watched folder's audit has its leaderboard then, too
            raise KeyboardInterrupt
    raise typer.Exit(status)


def _asked(
    policy: Policy, models: list[str], baseline: str | None, out: Path, server: str, key: str | None
) -> dict[str, Any]:
    """Let a service measure."""
    from services import asked
    from services.client import Client

    with (
        Client(server, key) as client,
        left_to(client) as submitted,
        progress.shown("waiting for the service") as tell,
    ):
        told = progress.at_service(tell)
        return asked.audit(client, policy, models, baseline, out, told, submitted)


def _measured(
    policy: Policy,
    models: list[str],
    baseline: str | None,
    out: Path,
    address: str,
    max_concurrent: int | None,
    watch: Path | None,
    until: int | None,
) -> dict[str, Any]:
    """Measure here, or on a Ray cluster."""
    from services.audit.audit import Audit
    from services.audit.watch import Watcher

    pace = progress.Pace()
    with progress.shown("preparing" if watch is None else f"waiting for checkpoints in {watch}") as tell:

        def told(done: int, total: int) -> None:
            tell(progress.Now(one.doing, done, total, pace.left(done, total), "models settled"))

        one = Audit(policy, baseline, out, address, max_concurrent, told, lambda work: show.work(work, out))
        return one.of(models) if watch is None else one.watch(models, Watcher(watch), until)


def status_of(document: dict[str, Any]) -> int:
    """An audit's exit status. What could not be measured comes first: it may be anything."""
    rows = document["checkpoints"]
    if any(row["error"] is not None for row in rows):
        return INFRASTRUCTURE
    verdicts = {row["verdict"] for row in rows}
    return next((CODES[one] for one in ("fail", "inconclusive", "pass") if one in verdicts), BAD_INPUT)
