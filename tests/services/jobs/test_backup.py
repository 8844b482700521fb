"""The backups of docs/operations.md hold all jobs and keys, and are taken while the service is at work."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

from services.jobs.database import open_database
from services.jobs.keys import Keys, Scope
from services.jobs.states import State
from services.jobs.store import Jobs
from tests.services.jobs.test_states import submitted
from tests.services.postgres import postgres_programs


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite(database_url: str, tmp_path: Path) -> None:
    engine = open_database(database_url)
    jobs, keys = Jobs(engine), Keys(engine)
    _, key = keys.create("me", [Scope.READ])
    submitted(jobs)
    sqlite3.connect(tmp_path / "visage.db").execute(f"VACUUM INTO '{tmp_path / 'backup.db'}'")
    submitted(jobs)
    require_restored(f"sqlite:///{tmp_path / 'backup.db'}", key)
    engine.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql(database_url: str, tmp_path: Path) -> None:
    engine = open_database(database_url)
    jobs, keys = Jobs(engine), Keys(engine)
    _, key = keys.create("me", [Scope.READ])
    submitted(jobs)
    backup = str(tmp_path / "visage.dump")
    run("pg_dump", "--format=custom", f"--file={backup}", database_url)
    submitted(jobs)
    run("pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={database_url}", backup)
    require_restored(database_url, key)
    engine.dispose()


def run(program: str, *arguments: str) -> None:
    subprocess.run([str(postgres_programs() / program), *arguments], check=True)


def require_restored(url: str, key: str) -> None:
    """What was there at the time of the backup, and no more."""
    engine = open_database(url)
    assert Jobs(engine).counts()[State.QUEUED] == 1
    found = Keys(engine).find(key)
    assert found is not None
    submitted(Jobs(engine))
    assert Jobs(engine).counts()[State.QUEUED] == 2
    engine.dispose()
