"""A real PostgreSQL server for tests, in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import free_port

# Debian keeps the server's programs off the PATH.
DEBIAN = Path("/usr/lib/postgresql")
# Nothing here has to outlive a power cut, and tests use many connections at a time.
OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300")


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server at a free port of 127.0.0.1; gives the URL of its superuser. Skips the test where no
    PostgreSQL is installed."""
    programs = postgres_programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="visage-postgres-"))
    if user is not None:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        # From its own folder: it may not be allowed into the one where the tests run.
        done = subprocess.run(
            command, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        if done.returncode != 0:
            log = (folder / "log").read_text() if (folder / "log").exists() else ""
            raise RuntimeError(f"{program} failed: {done.stderr.decode()}{log}")

    data, port = str(folder / "data"), free_port()
    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        settings = (*OPTIONS, "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}")
        options = " ".join([f"-p {port}", *(f"-c {setting}" for setting in settings)])
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_programs() -> Path:
    """The folder of initdb and pg_ctl, of the newest version."""
    if (found := shutil.which("pg_ctl")) and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    versions = [path for path in DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    if not versions:
        pytest.skip("PostgreSQL is not installed: no initdb on the PATH or in /usr/lib/postgresql")
    return max(versions, key=lambda path: float(path.parent.name))


def _user() -> str | None:
    """Whom to run it as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
