"""A database that cannot be used is told as such, with what to do and without its password."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from services.jobs.database import DatabaseError, open_database
from services.jobs.keys import Keys
from services.jobs.store import Jobs
from tests.services.conftest import on_server
from tests.services.jobs.test_states import submitted, taken

PASSWORD = "hunter22"
HERE = f"postgresql://somebody:{PASSWORD}@127.0.0.1"


def refused(url: str) -> DatabaseError:
    """The error that a URL gives."""
    with pytest.raises(DatabaseError) as found:
        open_database(url)
    assert PASSWORD not in str(found.value)
    # Nor where a traceback would print it.
    assert found.value.__cause__ is None
    assert found.value.__suppress_context__
    assert found.value.field == "database-url"
    return found.value


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "visage.db",
        "://",
        f"mysql://somebody:{PASSWORD}@127.0.0.1/visage",
        f"nosuch://somebody:{PASSWORD}@127.0.0.1/visage",
        f"postgresql+nosuch://somebody:{PASSWORD}@127.0.0.1/visage",
        f"sqlite://somebody:{PASSWORD}@host/visage.db",
        "sqlite+nosuch:///visage.db",
        pytest.param(f"{HERE}:port/visage", id="no number for a port"),
        pytest.param(f"postgresql://somebody:{PASSWORD}@[::1/visage", id="half an address"),
    ],
)
def test_what_is_no_url_of_a_database(url: str) -> None:
    assert "postgresql://USER:PASSWORD@HOST/NAME" in refused(url).remedy


def test_a_server_that_is_not_there(closed_port: int) -> None:
    assert "cannot be used" in refused(f"{HERE}:{closed_port}/visage").problem


@pytest.mark.parametrize("option", ["nosuch=1", "connect_timeout=soon", "sslmode=maybe"])
def test_an_option_that_postgresql_does_not_know(closed_port: int, option: str) -> None:
    refused(f"{HERE}:{closed_port}/visage?{option}")


def test_a_password_with_an_at_sign_that_is_not_escaped(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands after the sign is taken for the host: a half of the password must not be shown as one."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    refused(f"postgresql://somebody:half@{PASSWORD}@127.0.0.1:{closed_port}/visage")


def test_a_database_that_the_server_does_not_have(postgres_url: str) -> None:
    address = postgres_url.partition("@")[2].rpartition("/")[0]
    error = refused(f"postgresql://postgres:{PASSWORD}@{address}/nosuch")
    assert 'database "nosuch" does not exist' in error.problem


def test_a_user_whom_the_server_does_not_know(postgres_url: str) -> None:
    address = postgres_url.partition("@")[2]
    assert "does not exist" in refused(f"postgresql://nosuch:{PASSWORD}@{address}").problem


def test_a_user_who_may_make_no_tables(postgres_url: str) -> None:
    server, _, _ = postgres_url.rpartition("/")
    name = f"test_{secrets.token_hex(8)}"
    on_server(postgres_url, f"CREATE DATABASE {name}")
    on_server(f"{server}/{name}", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    on_server(postgres_url, f"CREATE ROLE {name} LOGIN")
    try:
        address = server.partition("@")[2]
        assert "permission denied" in refused(f"postgresql://{name}:{PASSWORD}@{address}/{name}").problem
    finally:
        on_server(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")
        on_server(postgres_url, f"DROP ROLE {name}")


def test_a_database_of_a_newer_visage(database_url: str) -> None:
    """As after going back to an older version: the tables are left as they are."""
    engine = open_database(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    refused(database_url)
    engine = create_engine(engine.url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "visage.db").write_bytes(b"no database " * 1000)
    refused(f"sqlite:///{tmp_path / 'visage.db'}")
    assert (tmp_path / "visage.db").read_bytes() == b"no database " * 1000


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert "cannot be used" in refused(f"sqlite:///{tmp_path}").problem


@pytest.mark.parametrize("place", ["file/visage.db", "file/folder/visage.db"])
def test_a_place_where_no_file_can_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    refused(f"sqlite:///{tmp_path / place}")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_none_that_lasts(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be another one for every connection."""
    monkeypatch.chdir(tmp_path)
    refused(url)
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_spaces_and_letters_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "žluťoučký.db"
    open_database(f"sqlite:///{path}").dispose()
    assert path.exists()


def test_text_of_all_kinds_is_kept(jobs: Jobs) -> None:
    label = "žluťoučký 猫 \U0001f408 ' \" \\ %s {0} --"
    spec = {"prompts": [{"source": "a\0b", "system": "\u2028 \ud83d"}]}
    row = jobs.get(submitted(jobs, label=label, spec=spec).id)
    assert (row.label, row.spec["prompts"]) == (label, spec["prompts"])
    assert [found.id for found in jobs.page(label=label).jobs] == [row.id]


def test_a_connection_that_was_cut_is_made_again(database_url: str) -> None:
    """As when the server was started again: what is asked next is answered."""
    engine = open_database(database_url)
    jobs = Jobs(engine)
    job = taken(jobs).id
    if engine.dialect.name == "postgresql":
        server = f"{database_url.rpartition('/')[0]}/postgres"
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"
        on_server(server, cut.format(engine.url.database))
    assert jobs.beat("r", []) == {job: "running"}
    assert not Keys(engine).any()
    engine.dispose()
