"""Verdicts that were paid for once, by a digest of all that they depend on. No text is in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from visage_core.errors import InputError

WAIT_SECONDS = 30.0  # for another process that writes
_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (digest TEXT PRIMARY KEY, complied INTEGER NOT NULL)"


class CacheError(InputError):
    """A file of verdicts that cannot be used."""


class VerdictCache:
    """A SQLite file of verdicts, for several processes at a time. Raises CacheError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            file.execute(_TABLE)

    def find(self, digests: Iterable[str]) -> dict[str, bool]:
        """Those of some verdicts that are there."""
        found = {}
        with self._open() as file:
            for digest in digests:
                row = file.execute("SELECT complied FROM verdicts WHERE digest = ?", (digest,)).fetchone()
                if row is not None:
                    found[digest] = bool(row[0])
        return found

    def keep(self, digest: str, complied: bool) -> None:
        """Add a verdict; of two for the same, the first stays."""
        with self._open() as file:
            file.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (digest, complied))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = sqlite3.connect(self._path, timeout=WAIT_SECONDS)
            try:
                with file:
                    yield file
            finally:
                file.close()
        except (sqlite3.Error, OSError) as error:
            raise CacheError(
                "judge.cache",
                f"{self._path} is no usable file of verdicts: {error}",
                "Give a path that can be written to, or remove the file",
            ) from None
