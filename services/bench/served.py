"""A service as a process of its own, that can be killed and started again on the same data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from services.api.ports import free_ports
from visage_core.processes import end_with_parent

API = "ServeReplica:visage:Api"
START_SECONDS = 600
STOP_SECONDS = 120


@dataclass
class Served:
    """The service that a command starts at a port of this machine. It ends with the thread that starts it."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    log: Path | None = None  # what it prints is added to this file; to this process' own output, unless given
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it takes jobs. Raises TimeoutError, and RuntimeError where it ends."""
        inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        with self.log.open("ab") if self.log else nullcontext() as output:
            self.process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                env=inherited | self.environment,
                preexec_fn=lambda: end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it only makes a call
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}")
            with suppress(httpx.TransportError):
                # A service before this one, that was killed a moment ago, may still answer.
                if self.processes(API) and httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.2)
        raise TimeoutError("the service is not ready")

    def family(self) -> list[psutil.Process]:
        """Its processes: the one that was started, and those below it."""
        assert self.process is not None
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def processes(self, name: str) -> list[psutil.Process]:
        """Those below it whose command line holds a name."""
        return [child for child in self.family()[1:] if name in command_of(child)]

    def stop(self) -> int:
        """SIGTERM; gives its exit status. Raises subprocess.TimeoutExpired."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    @contextmanager
    def running(self) -> Iterator[None]:
        """From its start to its stop."""
        try:
            self.start()
            yield
        finally:
            family = self.family()
            try:
                self.stop()
            finally:
                for member in family:
                    with suppress(psutil.Error):
                        member.kill()


def visage_serve(data: Path, root: Path, *options: str, **environment: str) -> Served:
    """`visage serve` on a free port, with models below a folder."""
    [port] = free_ports(1)
    visage = str(Path(sys.executable).with_name("visage"))
    command = [visage, "serve", "--data", str(data), "--port", str(port), "--root", str(root), *options]
    return Served(command, port, environment)


def command_of(process: psutil.Process) -> str:
    """A process' command line; nothing for one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
