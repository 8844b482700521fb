"""A running service, as a process of its own, for tests that talk to it over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import free_port, visage_command

ROOT = Path(__file__).parents[2]
START_SECONDS = 120


@dataclass
class Served:
    """A service that can be killed and started again, always on the same data."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=os.environ | self.environment)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, "the service ended"
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError("the service is not ready")

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of the service whose command line holds a name."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def kill(self, *names: str) -> None:
        """SIGKILL to the processes with these names; "serve" is the one that was started."""
        assert self.process is not None
        parts = [name for name in names if name != "serve"]
        until(lambda: all(self.processes(name) for name in parts))  # Ray names a process once it is at work
        victims = [victim for name in parts for victim in self.processes(name)]
        if "serve" in names:
            self.process.kill()
        for victim in victims:
            victim.kill()

    def stop(self) -> int:
        """SIGTERM, or what is left of the service where that is not enough."""
        assert self.process is not None
        family = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        family += family[0].children(recursive=True) if family else []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        finally:
            for member in family:
                try:
                    member.kill()
                except psutil.Error:
                    continue


@contextmanager
def served(data: Path, *options: object, **environment: str) -> Iterator[Served]:
    """`visage serve` on a free port."""
    port = free_port()
    command = visage_command("serve", "--data", data, "--port", port, *options)
    service = Served(command, port, environment)
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def fake_served(data: Path, root: Path, *database: str, seconds: float = 0.05) -> Iterator[Served]:
    """The same with fake workers, that take so many seconds a point."""
    port = free_port()
    command = [sys.executable, "-m", "tests.services.fake_serve", str(data), str(port), str(root), *database]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    service = Served(command, port, {"VISAGE_FAKE_SECONDS": str(seconds), "PYTHONPATH": path})
    service.start()
    try:
        yield service
    finally:
        service.stop()


def until(condition: Any, seconds: float = 90) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.2)
