"""A running service, as a process of its own, for tests that talk to it over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.bench.served import Served
from tests.conftest import free_port, visage_command

ROOT = Path(__file__).parents[2]


@contextmanager
def served(data: Path, *options: object, **environment: str) -> Iterator[Served]:
    """`visage serve` on a free port."""
    port = free_port()
    service = Served(visage_command("serve", "--data", data, "--port", port, *options), port, environment)
    with service.running():
        yield service


def until(condition: Any, seconds: float = 600) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.2)
