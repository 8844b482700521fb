"""Where visage keeps what it can make again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_dir() -> Path:
    """The cache: VISAGE_CACHE, or ~/.cache/visage. Directions of a large model take much room."""
    return Path(os.environ.get("VISAGE_CACHE") or Path.home() / ".cache" / "visage")


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder of the cache, which `make` fills (given an empty one) unless it is there.

    It is there whole or not at all, and made once by however many processes ask for it at a time.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
    return folder
