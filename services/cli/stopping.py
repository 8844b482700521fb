"""Ctrl-C and SIGTERM, which end every command in the same way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from services import show

INTERRUPTED, TERMINATED = 130, 143
_terminated = False


@contextmanager
def listening() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does: Kubernetes, Slurm and `timeout` send it."""
    global _terminated  # noqa: PLW0603 - Ray passes on no exception but KeyboardInterrupt itself
    _terminated = False
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _terminated = False


def is_stopping(error: BaseException) -> bool:
    """Whether an error came of Ctrl-C or SIGTERM. SIGTERM may go to Ray's processes too, and what waits for
    these fails then; and an import that is broken off fails in many ways."""
    return _terminated or isinstance(error, KeyboardInterrupt)


def was_terminated() -> bool:
    """Whether SIGTERM has come."""
    return _terminated


def status() -> int:
    """The exit status of a command that was stopped."""
    return TERMINATED if _terminated else INTERRUPTED


@contextmanager
def kept_in(out: Path, failed: int) -> Iterator[None]:
    """Say how to continue the work when it is stopped, by a signal or by Ray's end (status `failed`)."""
    try:
        # Imported here: it takes a second, and `visage --help` should not.
        from ray.exceptions import RayError

        try:
            yield
        except RayError as error:
            if is_stopping(error):
                raise
            show.stopped(f"Stopped: {str(error).strip().splitlines()[0]}", out)
            raise typer.Exit(failed) from None
    except BaseException as error:
        if isinstance(error, typer.Exit) or not is_stopping(error):
            raise
        show.stopped("Stopped.", out)
        raise typer.Exit(status()) from None


class Stoppable(TyperGroup):
    """Commands that end with a word and a status of their own when they are stopped."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if isinstance(error, typer.Exit) or not is_stopping(error):
                raise
            show.stopped("Stopped.")
            raise typer.Exit(status()) from None


def _terminate(_: int, __: FrameType | None) -> None:
    """Raise KeyboardInterrupt, once: `timeout` sends SIGTERM twice, and the first is being seen to."""
    global _terminated  # noqa: PLW0603
    if not _terminated:
        _terminated = True
        # At once: what sends SIGTERM kills what takes too long to end.
        os.write(2, b"Stopping, for SIGTERM has come. The same command continues the work.\n")
        raise KeyboardInterrupt
