"""The service itself: serve, keys."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services import show
from services.cli.app import FAILED, app
from services.console import err
from visage_core.errors import InputError

if TYPE_CHECKING:
    from services.jobs.keys import Keys

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder for results, logs and SQLite: VISAGE_DATA or ~/.local/share/visage."),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
        show_envvar=True,
        help="postgresql://..., SQLite in --data unless given. It holds a password: prefer the variable.",
    ),
]
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of a service.")
app.add_typer(keys, name="keys")


class HostError(InputError):
    """An address at which the service must not listen."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; another than loopback needs keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8420,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    storage_url: Annotated[
        str | None, typer.Option(help="Bucket for results, as s3://BUCKET/PREFIX; --data unless given.")
    ] = None,
    address: Annotated[
        str, typer.Option(help="The Ray cluster: local (one of its own), auto, or HOST:PORT.")
    ] = "local",
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Jobs may name models and prompts below this folder; repeat it for more."),
    ] = None,
    allow_model: Annotated[
        list[str] | None,
        typer.Option(help="Jobs may name hub ids and bucket URLs like this, as org/*; repeat it for more."),
    ] = None,
    allow_dataset: Annotated[
        list[str] | None, typer.Option(help="Jobs may take prompts from hub data sets like this.")
    ] = None,
    allow_judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Jobs may have responses judged at this URL, or URL=VARIABLE with its key; repeat it."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Engines at the same time.")] = 1,
    cores: Annotated[
        int | None, typer.Option(min=1, help="CPU cores of a worker, or with GPUs of each of them.")
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option(help="Workers have GPUs, though the cluster has none yet.", show_default=False),
    ] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs for one copy of a model.")] = 1,
    jobs_at_once: Annotated[int, typer.Option(min=1, help="Jobs that share the engines at a time.")] = 2,
    private_webhooks: Annotated[
        bool, typer.Option("--private-webhooks", help="Webhooks may go to private addresses.")
    ] = False,
) -> None:
    """Serve the REST API, on this machine or on a Ray cluster, until Ctrl-C."""
    from services.api.settings import Settings
    from services.jobs.database import open_database
    from services.jobs.keys import Keys

    given: dict[str, Any] = {
        "data": data,
        "database_url": database_url,
        "storage_url": storage_url,
        "roots": root,
        "models": allow_model,
        "datasets": allow_dataset,
        "judges": allow_judge,
        "cores": cores,
        "gpu": gpu,
    }
    settings = Settings(
        **{name: value for name, value in given.items() if value is not None},
        workers=workers,
        tensor_parallel=tensor_parallel,
        jobs_at_once=jobs_at_once,
        # On a cluster that runs already, Serve may listen where it was told to before.
        require_keys=not _is_loopback(host) or address != "local",
        private_webhooks=private_webhooks,
    )
    if settings.require_keys and not Keys(open_database(settings.database)).any():
        raise HostError(
            "host",
            "the service may be reached from other machines there, and there are no keys",
            "Make one with `visage keys create`, or listen at 127.0.0.1 with a Ray of its own",
        )
    # Ray takes seconds to import, and `visage --help` should not.
    from services.api.serving import serve_here

    def ready() -> None:
        show.serving(f"http://{host}:{port}", settings)

    try:
        serve_here(settings, host, port, address, ready)
    except InputError:
        raise
    except Exception as error:  # Ray and Serve have many kinds
        err.print(f"Stopped: {str(error).strip().splitlines()[0]}", markup=False)
        err.print("Jobs are kept; start it again to go on.")
        raise typer.Exit(FAILED) from None


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, submit, read-responses or admin; repeat it. read and submit unless given."),
    ] = None,
    max_jobs: Annotated[int | None, typer.Option(min=0, help="Unfinished jobs at a time.")] = None,
    max_points: Annotated[int | None, typer.Option(min=0, help="Points of them together.")] = None,
    max_prompts: Annotated[int | None, typer.Option(min=0, help="Prompts to answer for them.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="The most tokens of the answers.")] = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Make a key and print it. It is shown this once."""
    from services.jobs.keys import Scope, parse_scopes
    from services.jobs.limits import Limits

    given = {"jobs": max_jobs, "points": max_points, "prompts": max_prompts, "tokens": max_tokens}
    limits = Limits(**{what: value for what, value in given.items() if value is not None})
    scopes = parse_scopes(scope) if scope else [Scope.READ, Scope.SUBMIT]
    row, key = _keys(data, database_url).create(name, scopes, limits)
    err.print(f"Key {row.id} of {name}: {', '.join(row.scopes)}", markup=False, highlight=False)
    typer.echo(key)


@keys.command("list")
def list_(data: DataOption = None, database_url: DatabaseOption = None) -> None:
    """List the keys."""
    show.keys(_keys(data, database_url).all())


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `visage keys list` prints it.")],
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """End a key at once. Its jobs stay."""
    row = _keys(data, database_url).revoke(key_id)
    err.print(f"Key {row.id} of {row.name} is revoked.", markup=False, highlight=False)


def _keys(data: Path | None, database_url: str | None) -> Keys:
    from services.api.settings import data_folder, sqlite_url
    from services.jobs.database import open_database
    from services.jobs.keys import Keys

    return Keys(open_database(database_url or sqlite_url(data or data_folder())))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
