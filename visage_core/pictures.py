"""Figures as pages and as pictures."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal

import plotly.graph_objects as go
import plotly.io as pio
import psutil

from visage_core import renderer

SIZE = (900, 520)
# Seconds that a picture may take, its browser's start included, try after try. At its start kaleido begins to
# load its page, and then to listen for the end of that: on a busy machine it may come too late, and waits for
# good, without a word. The next start has another chance.
PATIENCE = (15.0, 30.0, 60.0, 120.0)
# One process draws all pictures, and ends with the thread that started it.
_drawing = ThreadPoolExecutor(1, "pictures")


def render(figure: go.Figure, kind: Literal["html", "png", "svg"]) -> bytes:
    """The figure as a page that needs no connection, or as a picture.

    Raises ValueError where no browser draws it.
    """
    if kind == "html":
        return bytes(figure.to_html(include_plotlyjs=True).encode())
    return _drawing.submit(_picture, figure, kind).result()


def _picture(figure: go.Figure, kind: str) -> bytes:
    """A picture, after as many tries as it takes. Raises ValueError."""
    with warnings.catch_warnings():
        # kaleido 0.2 is deprecated by plotly, and the only one that needs no Chrome on the machine.
        warnings.simplefilter("ignore", DeprecationWarning)
        width, height = SIZE
        how = {"width": width, "height": figure.layout.height or height, "scale": 2 if kind == "png" else 1}
        browser = _browser()
        for seconds in PATIENCE:
            try:
                return _drawn(figure, kind, how, seconds)
            except (ValueError, OSError) as error:
                problem = error
                browser._shutdown_kaleido()
        raise ValueError(f"no browser draws the figure: {problem}")


def _browser() -> Any:
    """plotly's kaleido, which is started as we want it."""
    found = pio.kaleido.scope
    if "_build_proc_args" not in vars(found):
        arguments = found._build_proc_args
        found._build_proc_args = lambda: renderer.command(arguments())
    return found


def _drawn(figure: go.Figure, kind: str, how: dict[str, Any], seconds: float) -> bytes:
    """A picture. Raises ValueError or OSError where its browser fails, or is killed for taking longer."""
    late = threading.Timer(seconds, _kill_browser)
    late.start()
    try:
        return bytes(figure.to_image(kind, **how))
    finally:
        late.cancel()


def _kill_browser() -> None:
    with suppress(psutil.NoSuchProcess, AttributeError):  # it has ended, or was never there
        starter = psutil.Process(pio.kaleido.scope._proc.pid)
        for process in (*starter.children(recursive=True), starter):
            process.kill()
