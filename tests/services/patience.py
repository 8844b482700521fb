"""Ray gives a node 30 seconds to start, which is too few where other tests keep the cores busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ray._private import services
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

SECONDS = 180


@contextmanager
def patience() -> Iterator[None]:
    """Wait longer for the nodes that start in this block."""
    again = retry(
        retry=retry_if_exception_type(RuntimeError),
        stop=stop_after_delay(SECONDS),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "get_node", again(services.get_node))
        yield
