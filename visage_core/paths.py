"""Where visage keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache: VISAGE_CACHE, or ~/.cache/visage. Directions of a large model take much room."""
    return Path(os.environ.get("VISAGE_CACHE") or Path.home() / ".cache" / "visage")
