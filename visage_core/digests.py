"""What names the content of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of some of a folder's files by name, in hexadecimal."""
    found = {}
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def total_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 over the name and the SHA-256 of each of some files, in hexadecimal."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()
