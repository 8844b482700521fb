"""A training run's checkpoints as they appear in a folder, each as soon as it is complete."""

from __future__ import annotations

import re
from pathlib import Path

from services.audit.checkpoints import NUMBERED, AuditError, by_step
from visage_core.checkpoints import INDEX, MOST_HEADER_BYTES
from visage_core.documents import open_bytes, parse_json, read_json

# checkpoint-500 (transformers, trl, axolotl, LLaMA-Factory), checkpoint_50, global_step40 (DeepSpeed, verl),
# epoch_3 (torchtune), iter_0000100 (Megatron), and epoch=1-step=50 among other settings (Lightning, NeMo).
# What is being written has another name with some of them, as tmp-checkpoint-30.
CHECKPOINT = re.compile(
    rf"{NUMBERED}([-_]({NUMBERED}|hf))*|(\w+=[\w.]+--?|\w+--)*step=\d+(--?\w+=[\w.]+)*", re.IGNORECASE
)
# A whole checkpoint whose files have not changed for so long is taken for finished.
SETTLE_SECONDS = 10.0
# One that is not whole, and has not changed for so long, is given up: it was broken off.
PATIENCE_SECONDS = 600.0
Listing = list[list[str | int]]  # name, size, time of change in ns of each file


class Watcher:
    """Looks again and again at the checkpoints in a folder. Raises AuditError where that is none."""

    def __init__(
        self, folder: Path, settle: float = SETTLE_SECONDS, patience: float = PATIENCE_SECONDS
    ) -> None:
        if not folder.is_dir():
            raise AuditError("watch", f"{folder} is no folder", "Give the folder that a training writes into")
        self._folder = folder.resolve()
        self._settle, self._patience = settle, patience
        self._seen: dict[Path, tuple[Listing, float]] = {}  # and since when it is like that
        self._given: dict[Path, Listing] = {}

    def complete(self, now: float) -> list[str]:
        """Return the checkpoints that have become complete by `now`, in seconds of a clock, by their steps:
        each once, and again after its files have changed. One that stays incomplete for too long is among
        them, for its audit to say what is wrong with it."""
        found = []
        for path in self._checkpoints():
            files = listing(path)
            before, since = self._seen.get(path, (None, now))
            if files != before:
                self._seen[path] = (files, now)
                since = now
            if self._given.get(path) == files or now - since < self._settle:
                continue
            if is_whole(path) or now - since >= self._patience:
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
    """Whether a checkpoint's config.json is there, and its weights are to their last byte: the one file, or
    the index and every shard that it names."""
    if not (folder / "config.json").is_file():
        return False
    try:
        shards = {"model.safetensors"}
        if (folder / INDEX).is_file():
            shards = set(read_json(folder / INDEX)["weight_map"].values())
        return all(_has_all_bytes(folder / str(shard)) for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _has_all_bytes(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says. Raises OSError, ValueError and the like where
    it has no whole header."""
    with open_bytes(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(min(length, MOST_HEADER_BYTES)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
