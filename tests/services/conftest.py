"""What tests of the services share: a fresh database for each, of both kinds, and an engine that is warm."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.jobs.database import open_database
from services.jobs.store import Jobs
from tests.conftest import Visage, run_here
from tests.services.postgres import postgres
from tests.services.warm import WARM

WARM_FILES = pytest.StashKey[set[Path]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files with tests on the warm engine first: a process then starts it once."""
    files = {item.path for item in items if "warm" in getattr(item, "fixturenames", ())}
    config.stash[WARM_FILES] = files
    items.sort(key=lambda item: item.path not in files)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """End the warm engine before the tests that may have a cluster of their own."""
    if item.path not in item.config.stash[WARM_FILES]:
        WARM.close()


@pytest.fixture(scope="session")
def warm() -> Iterator[Visage]:
    """Run the command line in this process, on the engine that tests share (see warm.py)."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        with WARM.lent():
            return run_here(*arguments)

    yield run
    WARM.close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server, by the URL of its superuser."""
    pytest.importorskip("psycopg")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, on SQLite and then on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'visage.db'}"
        return
    server: str = request.getfixturevalue("postgres_url")
    name = f"test_{secrets.token_hex(8)}"
    on_server(server, f"CREATE DATABASE {name}")
    yield f"{server.rpartition('/')[0]}/{name}"
    on_server(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with all tables."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    """The job table of a fresh database."""
    return Jobs(engine)


def on_server(url: str, statement: str) -> None:
    """Let a PostgreSQL server do something that no transaction allows."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
