"""A training run's checkpoints as they appear in a folder, each as soon as it is complete."""

from __future__ import annotations

import re
from pathlib import Path

from services.audit.checkpoints import AuditError, by_step
from visage_core.checkpoints import INDEX
from visage_core.documents import read_json

# As transformers' Trainer names them; while it writes one, older versions name it otherwise.
CHECKPOINT = re.compile(r"checkpoint-\d+")
# A file that has not grown for so long is taken for whole.
SETTLE_SECONDS = 10.0
Listing = list[list[str | int]]  # name, size, time of change in ns of each file


class Watcher:
    """Looks again and again at the checkpoints in a folder. Raises AuditError where that is none."""

    def __init__(self, folder: Path, settle: float = SETTLE_SECONDS) -> None:
        if not folder.is_dir():
            raise AuditError("watch", f"{folder} is no folder", "Give the folder that a training writes into")
        self._folder = folder.resolve()
        self._settle = settle
        self._seen: dict[Path, tuple[Listing, float]] = {}  # and since when it is like that
        self._given: dict[Path, Listing] = {}

    def complete(self, now: float) -> list[str]:
        """The checkpoints that have become complete by `now`, in seconds of a clock, by their steps. Each is
        told once, and again after its files have changed."""
        found = []
        for path in self._checkpoints():
            files = listing(path)
            before, since = self._seen.get(path, (None, now))
            if files != before:
                self._seen[path] = (files, now)
                since = now
            if is_whole(path) and now - since >= self._settle and self._given.get(path) != files:
                self._given[path] = files
                found.append(str(path))
        return by_step(found)

    def incomplete(self) -> list[str]:
        """The checkpoints that are there and were never told."""
        return by_step(str(path) for path in self._checkpoints() if path not in self._given)

    def _checkpoints(self) -> list[Path]:
        try:
            return [
                path for path in self._folder.iterdir() if path.is_dir() and CHECKPOINT.fullmatch(path.name)
            ]
        except FileNotFoundError:
            return []


def listing(folder: Path) -> Listing:
    """What changes when one of a folder's files does."""
    found: Listing = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            about = path.stat()
        except FileNotFoundError:
            continue  # a name that a file had while it was written
        if path.is_file():
            found.append([path.name, about.st_size, about.st_mtime_ns])
    return found


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint's config.json is there, and its weights are: the one file, or the index and every
    shard that it names."""
    if not (folder / "config.json").is_file():
        return False
    if not (folder / INDEX).is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = set(read_json(folder / INDEX)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / str(shard)).is_file() for shard in shards)
