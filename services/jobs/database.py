"""Opening the database, and bringing its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from visage_core.errors import InputError

# Any number will do, as long as every visage takes the same.
MIGRATION_LOCK = 0x7615A6E


class DatabaseError(InputError):
    """A database that cannot be used."""


def open_database(url: str) -> Engine:
    """An engine for SQLite (in WAL mode) or PostgreSQL, its tables up to date. Raises DatabaseError."""
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        in_memory = parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")
        if parsed.get_backend_name() not in ("sqlite", "postgresql") or in_memory:
            raise ArgumentError(parsed.drivername)
        if "@" in (parsed.host or ""):  # the end of a password, which an error of the driver would repeat
            raise ArgumentError(parsed.drivername)
        engine = create_engine(
            parsed,
            pool_pre_ping=parsed.get_backend_name() != "sqlite",  # a file's connection does not break
            pool_size=20,
            max_overflow=20,
            hide_parameters=True,  # of webhooks' secrets, in errors
        )
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise DatabaseError(
            "database-url",
            "it is the URL neither of a SQLite file nor of a PostgreSQL database",
            "Give sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME, with %40 for an @ in the password",
        ) from None
    except ImportError:
        raise DatabaseError(
            "database-url", "PostgreSQL needs the package psycopg", "pip install 'visage[postgresql]'"
        ) from None
    if engine.dialect.name == "sqlite":
        _use_sqlite_well(engine)
    try:
        migrate(engine)
    except (DBAPIError, CommandError, OSError, ValueError) as error:
        # Not the URL itself: it may hold a password.
        seen = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()[0]
        raise DatabaseError(
            "database-url",
            f"the database cannot be used: {seen}",
            "Check the URL, that the database runs, and that it is not of a newer visage",
        ) from None
    return engine


def migrate(engine: Engine) -> None:
    """Bring the tables up to date; several processes may ask for it at the same time."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _alone(engine), engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def writing(session: Session) -> Iterator[Session]:
    """A transaction that writes, committed at the end."""
    with session, session.begin():
        # A SQLite reader that turns writer fails at once if another wrote in between: lock from the start.
        session.connection(execution_options={"writes": True})
        yield session


def now() -> datetime:
    """The time, as the tables take it."""
    return datetime.now(UTC)


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        assert engine.url.database is not None
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{engine.url.database}.migrating"):
            yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})


def _use_sqlite_well(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin as said below, not by the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # an accepted job outlives a power cut
        connection.execute("PRAGMA busy_timeout=20000")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        # A read is a transaction by itself: none here needs two statements to agree.
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
