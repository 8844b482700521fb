"""Where results are kept: folders on this machine, or a bucket that outlives it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from visage_core.errors import InputError


class StorageError(InputError):
    """A place for results that cannot be used."""


class Storage:
    """The results folder of each job, by the job's id.

    Without a URL they lie in `folder`. With one, such as s3://BUCKET/PREFIX, `folder` is where this machine
    works on them and keeps copies, and what is finished goes to the bucket at once.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self._folder = folder
        self._remote: tuple[Any, str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if url is not None:
            try:
                self._remote = fs.FileSystem.from_uri(url)
                self._remote[0].get_file_info(self._remote[1])
            except (OSError, ValueError, pa.ArrowException) as error:
                raise StorageError(
                    "storage-url",
                    f"it cannot be used: {str(error).splitlines()[0]}",
                    "Give a URL such as s3://BUCKET/PREFIX, and the credentials in the environment",
                ) from None

    def fetch(self, job: str) -> Path:
        """A job's folder on this machine, with all that is stored of it."""
        here = self._folder / job
        if self._remote is not None:
            system, _ = self._remote
            stored = self._stored(job)
            for name, size in stored.items():
                if not _is_here(here / name, size):
                    (here / name).parent.mkdir(parents=True, exist_ok=True)
                    partial = (here / name).with_name(f".{Path(name).name}.fetched")
                    fs.copy_files(self._there(job, name), str(partial), system, fs.LocalFileSystem())
                    partial.replace(here / name)
            if "points.parquet" in stored:
                # Merged there: the parts that lie here are in it.
                for part in (here / "parts").glob("*.parquet"):
                    if f"parts/{part.name}" not in stored:
                        part.unlink()
        return here

    def keep(self, job: str) -> None:
        """Bring what is new in a job's folder to the bucket, and take away there what is gone here."""
        if self._remote is None:
            return
        system, _ = self._remote
        here = self._folder / job
        stored = self._stored(job)
        files = {str(path.relative_to(here)): path for path in sorted(here.rglob("*")) if _is_result(path)}
        # Points go after their responses, and parts go only once what they were merged into is there.
        for name, path in sorted(files.items(), key=lambda item: "points" in item[0]):
            if stored.get(name) != path.stat().st_size or name.endswith(".json"):
                system.create_dir(self._there(job, str(Path(name).parent)), recursive=True)
                fs.copy_files(str(path), self._there(job, name), fs.LocalFileSystem(), system)
        for name in stored.keys() - files.keys():
            system.delete_file(self._there(job, name))

    def remove(self, job: str) -> None:
        """Remove a job's results, here and there."""
        if self._remote is not None:
            system, _ = self._remote
            if system.get_file_info(self._there(job)).type != fs.FileType.NotFound:
                system.delete_dir(self._there(job))
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def _there(self, job: str, name: str = "") -> str:
        assert self._remote is not None
        return "/".join(part for part in (self._remote[1].rstrip("/"), job, name) if part and part != ".")

    def _stored(self, job: str) -> dict[str, int]:
        """The files of a job in the bucket, with their sizes."""
        assert self._remote is not None
        system, _ = self._remote
        root = self._there(job)
        selector = fs.FileSelector(root, allow_not_found=True, recursive=True)
        found = [info for info in system.get_file_info(selector) if info.is_file]
        return {info.path.removeprefix(root).lstrip("/"): info.size for info in found}


def _is_result(path: Path) -> bool:
    """Whether a file is finished and to be kept: unfinished ones and locks have names with a dot."""
    return path.is_file() and not any(part.startswith(".") for part in path.parts[-2:])


def _is_here(path: Path, size: int) -> bool:
    # Documents may change and keep their size; tables are written once under a name.
    return path.suffix == ".parquet" and path.is_file() and path.stat().st_size == size
