"""From a model's name to the folder that holds its checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
from fnmatch import fnmatch
from pathlib import Path

from visage_core.checkpoints import CheckpointError
from visage_core.paths import cache_dir, made_once

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A branch, a tag or a commit.
REVISION = re.compile(r"[\w][\w./-]*")
# No pickles, and no code.
FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]


def model_folder(name: str, field: str) -> Path:
    """The folder of a model given by path, by hub id (with @REVISION or without), or by bucket URL. The last
    two are downloaded once.

    Raises CheckpointError where there is no such model. What is in the folder is checked elsewhere.
    """
    if "://" in name:
        return _from_bucket(name, field)
    path = Path(name).expanduser()
    if path.exists():
        return path.resolve()
    repo, at, revision = name.partition("@")
    if not HUB_ID.fullmatch(repo) or (at and not REVISION.fullmatch(revision)):
        raise CheckpointError(
            field,
            f"{name} does not exist",
            "Give the folder of a safetensors checkpoint, or a hub id: ORG/NAME or ORG/NAME@REVISION",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            field,
            f"{name} is no folder here, and the hub does not give it: {str(error).splitlines()[0]}",
            "Check the name; for a private model log in with `hf auth login`",
        ) from None


def _from_bucket(url: str, field: str) -> Path:
    """A copy of the model at s3://, gs://, hdfs://, ... in the cache, made anew where the files changed."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        source, root = fs.FileSystem.from_uri(url)
        found = source.get_file_info(fs.FileSelector(root))
        files = [info for info in found if info.is_file and any(fnmatch(info.base_name, p) for p in FILES)]
        listing = [(info.base_name, info.size, str(info.mtime)) for info in files]
        key = hashlib.sha256(json.dumps([url, sorted(listing)]).encode()).hexdigest()[:32]

        def copy(folder: Path) -> None:
            for info in files:
                fs.copy_files(info.path, str(folder / info.base_name), source, fs.LocalFileSystem())

        return made_once(cache_dir() / "buckets" / key, copy)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(
            field, f"{url} cannot be read: {str(error).splitlines()[0]}", "Check the URL and your credentials"
        ) from None
