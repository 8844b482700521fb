"""A database's tables are brought up to date, by however many processes at a time."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

import services.jobs
from services.jobs.database import migrate, open_database
from services.jobs.states import Kind
from services.jobs.store import Jobs, NoSuchJobError
from services.jobs.tables import Table
from tests.services.jobs.test_states import submitted, together

TABLES = {"jobs", "keys", "runners"}


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def unlike(engine: Engine) -> list[Any]:
    """What a migration would have to change for the database to have the code's tables."""
    options = {"compare_type": True, "compare_server_default": True}
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata))


def downgrade(engine: Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(services.jobs.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def open_and_close(url: str) -> int:
    engine = open_database(url)
    try:
        submitted(Jobs(engine))
        return len(tables(engine))
    finally:
        engine.dispose()


def test_the_migrations_make_the_tables_of_the_code(engine: Engine) -> None:
    assert tables(engine) == TABLES
    assert unlike(engine) == []


def test_a_difference_would_be_found(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE keys ADD COLUMN another INTEGER")
    assert unlike(engine) != []


def test_every_migration_can_be_undone_and_done_again(engine: Engine) -> None:
    downgrade(engine, "base")
    assert tables(engine) == set()
    migrate(engine)
    assert tables(engine) == TABLES
    assert unlike(engine) == []


def test_jobs_from_before_there_were_gates_are_landscapes(engine: Engine) -> None:
    """And what is older never takes a gate for one."""
    jobs = Jobs(engine)
    landscape, gate = submitted(jobs, label="kept"), submitted(jobs, kind=Kind.GATE)
    downgrade(engine, "0001")
    with engine.connect() as connection:
        assert [row.id for row in connection.exec_driver_sql("SELECT * FROM jobs")] == [landscape.id]
    migrate(engine)
    assert unlike(engine) == []
    assert jobs.get(landscape.id, kind=Kind.LANDSCAPE).label == "kept"
    with pytest.raises(NoSuchJobError):
        jobs.get(gate.id)


def test_opening_a_database_again_keeps_what_is_in_it(database_url: str) -> None:
    first = open_database(database_url)
    job = submitted(Jobs(first), label="kept").id
    first.dispose()
    again = open_database(database_url)
    assert Jobs(again).get(job).label == "kept"
    again.dispose()


def test_eight_processes_open_a_fresh_database_at_once(database_url: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(8, context) as processes:
        assert list(processes.map(open_and_close, [database_url] * 8)) == [3] * 8
    engine = open_database(database_url)
    assert sum(Jobs(engine).counts().values()) == 8
    engine.dispose()


def test_eight_threads_open_a_fresh_database_at_once(database_url: str) -> None:
    assert together(8, lambda _: open_and_close(database_url)) == [3] * 8


def test_a_folder_is_made_for_sqlite(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 'a' / 'b' / 'visage.db'}").dispose()
    assert (tmp_path / "a" / "b" / "visage.db").exists()


def test_sqlite_keeps_what_it_was_told_when_the_power_goes(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'visage.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()


@pytest.mark.parametrize("prefix", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_by_each_of_its_names(postgres_url: str, prefix: str) -> None:
    engine = open_database(f"{prefix}://{postgres_url.partition('://')[2]}")
    assert engine.dialect.name == "postgresql"
    engine.dispose()
