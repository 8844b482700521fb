"""From a model's name to the folder that holds its checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from visage_core.checkpoints import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# No pickles, and no code.
FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]


def model_folder(name: str, field: str) -> Path:
    """The folder of a model given by path, or by hub id, which is downloaded once.

    Raises CheckpointError where there is no such model. What is in the folder is checked elsewhere.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path.resolve()
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(
            field, f"{name} does not exist", "Give the folder of a safetensors checkpoint, or a hub id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            field,
            f"{name} is no folder here, and the hub does not give it: {str(error).splitlines()[0]}",
            "Check the name; for a private model log in with `hf auth login`",
        ) from None
