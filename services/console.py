"""The consoles of the command line: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

# Nobody looks at the width of a log: tables keep their ids whole there.
LOG_COLUMNS = 160


class Terminal(Console):
    """A console that looks at COLUMNS and the terminal whenever it prints, and wraps no text that goes into a
    file or to another program. (rich's own keeps the COLUMNS of the moment at which it was made.)"""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._width = options.get("width")

    @property
    def is_watched(self) -> bool:
        """Whether this is a terminal that can redraw a line. CI systems' FORCE_COLOR makes none."""
        return self.is_interactive and self.file.isatty()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does where somebody looks, else without regard to the width of a terminal."""
        if not self.file.isatty():
            if all(isinstance(one, str) for one in objects):
                options.setdefault("soft_wrap", True)
            elif self._width is None and not os.environ.get("COLUMNS", "").isdigit():
                options.setdefault("width", LOG_COLUMNS)
        super().print(*objects, **options)


out = Terminal()
err = Terminal(stderr=True)
