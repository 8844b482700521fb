"""Jobs of a service: submit, status, watch, results, cancel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services import show
from services.cli.app import FAILED, INTERRUPTED, KeyOption, app, set_field
from services.client import Client
from services.jobs.states import State
from visage_core.spec import parse_spec, read_spec

ServerOption = Annotated[
    str, typer.Option("--server", envvar="VISAGE_SERVER", show_envvar=True, help="URL of the service.")
]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a job.")]
SERVER = "http://127.0.0.1:8420"


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
    job: Annotated[str | None, typer.Argument(metavar="ID", help="A job; all of them unless given.")] = None,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs of this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 20,
    server: ServerOption = SERVER,
    key: KeyOption = None,
) -> None:
    """Print how far a job is, or list the newest jobs."""
    with Client(server, key) as client:
        if job is not None:
            show.job(client.get(job))
        else:
            show.jobs(client.page(state=state, label=label, limit=limit).items)


@app.command()
def watch(job: JobArgument, server: ServerOption = SERVER, key: KeyOption = None) -> None:
    """Follow a job until it is over; status 1 where it has no score then."""
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
    """Fetch a job's points, scores and figures, and print them as `visage run` does."""
    from services.fetched import write_results

    with Client(server, key) as client:
        write_results(client, job, out, responses)
    show.landscape(out)


@app.command()
def cancel(job: JobArgument, server: ServerOption = SERVER, key: KeyOption = None) -> None:
    """End a job. Its finished points stay."""
    with Client(server, key) as client:
        show.job(client.cancel(job))


def _watch(client: Client, job: str) -> None:
    try:
        last = show.watching(client.watch(job))
    except KeyboardInterrupt:
        show.err.print(f"The job goes on; `visage watch {job}` follows it again.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    show.job(last)
    if last.state != State.DONE or (last.visage is None and _should_have_score(client, job)):
        raise typer.Exit(FAILED)


def _should_have_score(client: Client, job: str) -> bool:
    from visage_core.landscape import has_visage

    spec = client.get(job).spec
    return has_visage(spec, spec.prompts[0])
