"""Jobs of a service: submit, status, watch, results, cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.client import NOT_FOUND
from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.api.schemas import Audit, AuditDetail, Gate, GateDetail, Job, Landscape, LandscapeDetail
from services.cli import progress
from services.cli.app import FAILED, KeyOption, app, set_field
from services.cli.stopping import status as stopped_status
from services.client import Client, ServiceError
from services.console import err
from services.jobs.states import State
from visage_core.spec import parse_spec, read_spec

ServerOption = Annotated[
    str, typer.Option("--server", envvar="VISAGE_SERVER", show_envvar=True, help="URL of the service.")
]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a job.")]
SERVER = "http://127.0.0.1:8420"
Detail = LandscapeDetail | GateDetail | AuditDetail


@app.command()
def submit(
    spec: Annotated[Path | None, typer.Argument(help="A spec as JSON or YAML.")] = None,
    model: Annotated[str | None, typer.Option(help="The model at the origin.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the spec, as axis.points=11 or axis.direction.seeds=[0,1]."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="To find the job by.")] = None,
    priority: Annotated[int, typer.Option(min=-10, max=10, help="Higher ones go first.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it is over.")] = False,
    server: ServerOption = SERVER,
    key: KeyOption = None,
) -> None:
    """Submit a landscape to a service, and print the job's id."""
    document = {} if spec is None else read_spec(spec)
    if model is not None:
        document["model"] = model
    for text in setting or []:
        set_field(document, text)
    job = parse_spec(document)
    with Client(server, key) as client:
        if dry_run:
            show.estimate(client.validate(job))
            return
        submitted = client.submit(job, label=label, priority=priority)
        typer.echo(submitted.id)
        if wait:
            _watch(client, submitted.id)


@app.command()
def status(
    job: Annotated[
        str | None, typer.Argument(metavar="ID", help="A job of any kind; all landscapes unless given.")
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs of this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 20,
    server: ServerOption = SERVER,
    key: KeyOption = None,
) -> None:
    """Print how far a landscape, a gate or an audit is, or list the newest landscapes."""
    with Client(server, key) as client:
        if job is not None:
            show.job(_found(client, job))
        else:
            show.jobs(client.page(state=state, label=label, limit=limit).items)


@app.command()
def watch(job: JobArgument, server: ServerOption = SERVER, key: KeyOption = None) -> None:
    """Follow a landscape, a gate or an audit until it is over; status 1 where it has no score or verdict
    then. A verdict may be any: read which one."""
    with Client(server, key) as client:
        _watch(client, job)


@app.command()
def results(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    responses: Annotated[
        bool, typer.Option("--responses", help="Fetch the responses too. They may be harmful.")
    ] = False,
    server: ServerOption = SERVER,
    key: KeyOption = None,
) -> None:
    """Fetch a landscape's points, scores and figures, and print them as `visage run` does."""
    from services.fetched import write_results

    with Client(server, key) as client:
        write_results(client, job, out, responses)
    show.landscape(out, "scores")


@app.command()
def cancel(job: JobArgument, server: ServerOption = SERVER, key: KeyOption = None) -> None:
    """End a landscape, a gate or an audit. Its finished points stay."""
    with Client(server, key) as client:
        show.job(_first(job, client.cancel, client.cancel_gate, client.cancel_audit))


def _watch(client: Client, job: str) -> None:
    one = _found(client, job)
    try:
        last: Job = progress.watching(_changes(client, one))
    except KeyboardInterrupt:
        err.print(f"The job continues; `visage watch {job}` follows it again.", highlight=False)
        raise typer.Exit(stopped_status()) from None
    show.job(last)
    if last.state != State.DONE or not _is_told(last, one):
        raise typer.Exit(FAILED)


def _found(client: Client, job: str) -> Detail:
    """A job of whatever kind. Raises ServiceError."""
    return _first(job, client.get, client.gate, client.audit)


def _first(
    job: str,
    landscape: Callable[[str], LandscapeDetail],
    gate: Callable[[str], GateDetail],
    audit: Callable[[str], AuditDetail],
) -> Detail:
    """What the call gives that knows of a job: its id does not tell its kind. Raises ServiceError."""
    calls: tuple[Callable[[str], Detail], ...] = (landscape, gate)
    for call in calls:
        try:
            return call(job)
        except ServiceError as error:
            if error.status != NOT_FOUND:
                raise
    return audit(job)


def _changes(client: Client, one: Detail) -> Iterator[Job]:
    if isinstance(one, GateDetail):
        return client.watch_gate(one.id)
    return client.watch_audit(one.id) if isinstance(one, AuditDetail) else client.watch(one.id)


def _is_told(last: Job, asked: Detail) -> bool:
    """Whether a job that is done has what it was to tell."""
    from visage_core.landscape import has_visage

    if isinstance(last, Gate):
        return last.verdict is not None
    if isinstance(last, Audit):
        return last.verdicts is not None
    assert isinstance(last, Landscape)
    assert isinstance(asked, LandscapeDetail)
    return last.visage is not None or not has_visage(asked.spec, asked.spec.prompts[0])
