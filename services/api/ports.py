"""Ports of this machine that nothing uses."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Below those that a system gives out by itself, to connections and to Ray's processes: one of these would be
# another's by the time that it is used. Above those of `ray start`'s workers.
RANGE = range(20_000, 32_000)
TRIES = 1000


def free_ports(count: int) -> list[int]:
    """So many ports. Raises OSError where there are none."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(RANGE, TRIES):
            if len(found) == count:
                return found
            one = held.enter_context(socket.socket())
            try:
                one.bind(("", port))
            except OSError:
                continue
            found.append(port)
    raise OSError("no port is free")
