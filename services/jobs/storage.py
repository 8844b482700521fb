"""Where results are kept: folders on this machine, or a bucket that outlives it."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from visage_core.errors import InputError
from visage_core.results import PLACE

POINTS, PARTS = "points.parquet", "parts"
LOCK = ".lock"
_SOON: dict[str, Any] = {"stop": stop_after_attempt(5), "wait": wait_fixed(0.1), "reraise": True}


class StorageError(InputError):
    """A place for results that cannot be used."""


class Storage:
    """The folder of each job, by the job's id: the results of a landscape, or those of a gate's landscapes or
    an audit's gates in folders below it.

    Without a URL they lie in `folder`. With one, such as s3://BUCKET/PREFIX, `folder` is where this machine
    works on them and keeps copies, and what is finished goes to the bucket at once.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self._folder = folder
        self._remote: tuple[Any, str] | None = None
        # Of each job's files in the bucket, size and time of change as they were here then.
        self._kept: dict[str, dict[str, tuple[int, int]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if url is not None:
            try:
                self._remote = system, path = fs.FileSystem.from_uri(url)
                bucket = path.split("/")[0]
                if not bucket or system.get_file_info(bucket).type == fs.FileType.NotFound:
                    raise ValueError("there is no such bucket")
            except (OSError, ValueError, pa.ArrowException) as error:
                raise StorageError(
                    "storage-url",
                    # Without the URL, which may hold credentials.
                    f"it cannot be used: {str(error).splitlines()[0].replace(url, 'the URL')}",
                    "Give a URL such as s3://BUCKET/PREFIX, and the credentials in the environment",
                ) from None

    def fetch(self, job: str) -> Path:
        """A job's folder on this machine, with all that is stored of it."""
        here = self._folder / job
        if self._remote is not None:
            # Files that are merged between their listing and their copying are gone, and in another.
            for attempt in Retrying(retry=retry_if_exception_type(FileNotFoundError), **_SOON):
                with attempt:
                    self._copy(job, here)
        return here

    def file(self, job: str, name: str) -> Path:
        """A file of a job on this machine, without all else that is stored; it may not be there."""
        here = self._folder / job
        if self._remote is not None:
            system, _ = self._remote
            info = system.get_file_info(self._there(job, name))
            if info.is_file:
                self._copy_file(job, here, name, info)
        return here / name

    def _copy(self, job: str, here: Path) -> None:
        stored = self._stored(job)
        for name, info in stored.items():
            self._copy_file(job, here, name, info)
        for name in stored:
            if Path(name).name == POINTS:
                merged = _places(here / name)
                for part in (here / name).parent.glob(f"{PARTS}/*.parquet"):
                    if str(part.relative_to(here)) not in stored and _places(part) <= merged:
                        part.unlink(missing_ok=True)

    def _copy_file(self, job: str, here: Path, name: str, info: fs.FileInfo) -> None:
        assert self._remote is not None
        system, _ = self._remote
        if not _is_here(here / name, info):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            partial = (here / name).with_name(f".{Path(name).name}.{secrets.token_hex(4)}")
            fs.copy_files(self._there(job, name), str(partial), system, fs.LocalFileSystem())
            partial.replace(here / name)

    def keep(self, job: str) -> None:
        """Bring what is new in a job's folder to the bucket, and take away there what is gone here."""
        if self._remote is None:
            return
        system, _ = self._remote
        here = self._folder / job
        stored, kept = self._stored(job), self._kept.setdefault(job, {})
        files = {
            str(path.relative_to(here)): path for path in sorted(here.rglob("*")) if _is_result(here, path)
        }
        # Points go after their responses, and parts go only once what they were merged into is there.
        for name, path in sorted(files.items(), key=lambda item: "points" in item[1].name):
            about = path.stat()
            now = about.st_size, about.st_mtime_ns
            if name not in stored or not (kept.get(name) == now or _is_there(path, stored[name])):
                system.create_dir(self._there(job, str(Path(name).parent)), recursive=True)
                fs.copy_files(str(path), self._there(job, name), fs.LocalFileSystem(), system)
                kept[name] = now
        for name in stored.keys() - files.keys():
            if str(_results_of(name) / POINTS) in files:
                system.delete_file(self._there(job, name))

    def tidy(self, job: str) -> None:
        """Remove what killed processes left unfinished of a job, at which nobody is."""
        for path in sorted((self._folder / job).rglob(".*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)

    def forget(self, job: str) -> None:
        """A job is over here: nothing more will be kept of it."""
        self._kept.pop(job, None)

    def remove(self, job: str) -> None:
        """Remove a job's results, here and there."""
        if self._remote is not None:
            system, _ = self._remote
            if system.get_file_info(self._there(job)).type != fs.FileType.NotFound:
                system.delete_dir(self._there(job))
        if (self._folder / job).exists():
            shutil.rmtree(self._folder / job)

    def _there(self, job: str, name: str = "") -> str:
        assert self._remote is not None
        return "/".join(part for part in (self._remote[1].rstrip("/"), job, name) if part and part != ".")

    def _stored(self, job: str) -> dict[str, fs.FileInfo]:
        """The files of a job in the bucket."""
        assert self._remote is not None
        system, _ = self._remote
        root = self._there(job)
        selector = fs.FileSelector(root, allow_not_found=True, recursive=True)
        found = [info for info in system.get_file_info(selector) if info.is_file]
        return {info.path.removeprefix(root).lstrip("/"): info for info in found}


def _results_of(name: str) -> Path:
    """The results folder that a file is of, by its name in the job's."""
    folder = Path(name).parent
    return folder.parent if folder.name == PARTS else folder


def _is_result(here: Path, path: Path) -> bool:
    """Whether a file is finished and to be kept: unfinished ones and locks have names with a dot."""
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(here).parts)


def _places(path: Path) -> set[tuple[Any, ...]]:
    """Which points and prompt sets a file has."""
    columns = pq.read_table(path, columns=PLACE).to_pydict().values()
    return set(zip(*columns, strict=True))


def _is_here(path: Path, stored: fs.FileInfo) -> bool:
    """Whether a file in the bucket is here as it is there."""
    return path.is_file() and _is_alike(path, stored, int(stored.mtime.timestamp()) <= path.stat().st_mtime)


def _is_there(path: Path, stored: fs.FileInfo) -> bool:
    """Whether a file here is in the bucket as it is here."""
    return _is_alike(path, stored, int(path.stat().st_mtime) <= stored.mtime.timestamp())


def _is_alike(path: Path, stored: fs.FileInfo, unchanged: bool) -> bool:
    # Documents are small, and a part is written once. Buckets know times to the second only.
    once = path.parent.name == PARTS
    return path.suffix == ".parquet" and path.stat().st_size == stored.size and (once or unchanged)
