"""Files on a node: what one machine of a cluster has, the others fetch once and keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import ray

from services.sweep.models import FILES
from visage_core.paths import cache_dir, made_once

CHUNK = 64 * 2**20
AHEAD = 4
State = tuple[tuple[str, tuple[int, ...]], ...]  # of each file: its name, and what changes when it does


@dataclass(frozen=True)
class Folder:
    """A folder with a checkpoint, an adapter or the file of a direction, on the node where a job was planned.
    `digest` names its content, and `state` says how its files were when that was taken."""

    path: str
    digest: str
    files: tuple[tuple[str, int, int], ...]  # name, size, time of change in ns
    node: str = ""
    state: State = ()

    @classmethod
    def of(cls, path: Path, digest: str, alone: str | None = None) -> Folder:
        """The files of a folder that make a model, or the one that is wanted `alone`: no others leave the
        machine."""

        def is_wanted(name: str) -> bool:
            return any(fnmatch(name, pattern) for pattern in FILES) if alone is None else name == alone

        found = [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for file in sorted(path.iterdir())
            if file.is_file() and is_wanted(file.name)
        ]
        return cls(str(path), digest, tuple(found))

    def is_here(self, node: str) -> bool:
        """Whether this node has the very files: it is their own, or shares its disk."""
        if node == self.node:
            return True
        paths = [(Path(self.path) / name, size, changed) for name, size, changed in self.files]
        return all(
            path.is_file() and (path.stat().st_size, path.stat().st_mtime_ns) == (size, changed)
            for path, size, changed in paths
        )


class FileServer:
    """Reads pieces of some folders' files for other nodes; a Ray actor on the node that has them.

    The folders of a process outside the cluster come to it by `store` and `sealed`.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], Path] = {}

    def ready(self) -> bool:
        """Whether it lives."""
        return True

    def serve(self, folders: list[Folder]) -> None:
        """Read from these folders of this node too."""
        for folder in folders:
            for name, _, _ in folder.files:
                self._files[folder.digest, name] = Path(folder.path) / name

    def lacks(self, folder: Folder) -> bool:
        """Whether a folder has to be stored here."""
        return not (cache_dir() / "models" / folder.digest).is_dir()

    def store(self, folder: Folder, name: str, offset: int, content: bytes) -> None:
        """Write a piece of a folder's file. Raises KeyError for a name that the folder has not."""
        if name not in {known for known, _, _ in folder.files}:
            raise KeyError(name)
        partial = cache_dir() / "models" / f"{folder.digest}.stored"
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / name).open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(content)

    def sealed(self, folder: Folder) -> Folder:
        """The folder as it lies here, once all is stored."""
        here = cache_dir() / "models" / folder.digest
        if not here.is_dir():
            here.with_suffix(".stored").rename(here)
        local = replace(Folder.of(here, folder.digest), node=ray.get_runtime_context().get_node_id())
        self.serve([local])
        return local

    def read(self, digest: str, name: str, offset: int) -> bytes:
        """Up to CHUNK bytes of a file. Raises KeyError for a file that it does not serve."""
        with self._files[digest, name].open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)


def folder_here(folder: Folder, server: Any) -> Path:
    """The folder on this node: itself where it is here, else a copy in the cache, which is fetched once a
    node whatever the number of its workers."""
    if folder.is_here(ray.get_runtime_context().get_node_id()):
        return Path(folder.path)

    def fetch(copy: Path) -> None:
        for name, size, _ in folder.files:
            _fetch(server, folder.digest, name, size, copy / name)

    return made_once(cache_dir() / "models" / folder.digest, fetch)


def store_folder(folder: Folder, server: Any) -> Folder:
    """Bring a folder of this machine, which is outside the cluster, to the server's; gives it as it lies
    there."""
    if ray.get(server.lacks.remote(folder)):
        for name, size, _ in folder.files:
            with (Path(folder.path) / name).open("rb") as file:
                for offset in range(0, max(size, 1), CHUNK):
                    ray.get(server.store.remote(folder, name, offset, file.read(CHUNK)))
    local: Folder = ray.get(server.sealed.remote(folder))
    return local


def _fetch(server: Any, digest: str, name: str, size: int, path: Path) -> None:
    offsets = list(range(0, size, CHUNK))
    pending = [server.read.remote(digest, name, offset) for offset in offsets[:AHEAD]]
    with path.open("wb") as file:
        for number in range(len(offsets)):
            file.write(ray.get(pending.pop(0)))
            if number + AHEAD < len(offsets):
                pending.append(server.read.remote(digest, name, offsets[number + AHEAD]))
