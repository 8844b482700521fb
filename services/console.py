"""The consoles of the command line: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console, ConsoleDimensions

# Nobody looks at the width of a log: tables keep their ids whole there.
UNSEEN_COLUMNS = 160


class Terminal(Console):
    """A console that looks at COLUMNS and the terminal whenever it prints, and wraps no text that goes into a
    file or to another program. (rich's own keeps the COLUMNS of the moment at which it was made.)"""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._width = options.get("width")

    @property
    def size(self) -> ConsoleDimensions:
        """The columns and lines there are now."""
        known = self._width is not None or os.environ.get("COLUMNS", "").isdigit()
        if not known and not self.is_terminal and not any(map(os.isatty, range(3))):
            return ConsoleDimensions(UNSEEN_COLUMNS, 25)
        return super().size

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but leave lines of text whole where there is no terminal."""
        if not self.is_terminal and all(isinstance(one, str) for one in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)


out = Terminal()
err = Terminal(stderr=True)
