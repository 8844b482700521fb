"""Safetensors checkpoints as named tensors: memory-mapped, read one at a time, never pickled."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from visage_core.digests import file_digests, total_digest
from visage_core.errors import InputError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Names that safetensors' headers use.
FLOATS = {"F64", "F32", "F16", "BF16"}
_importing = threading.Lock()
INDEX = "model.safetensors.index.json"


class CheckpointError(InputError):
    """A checkpoint that is missing, unsafe, damaged or does not fit."""


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint's headers say of a tensor. `dtype` is safetensors' name: BF16, F32, ..."""

    shape: tuple[int, ...]
    dtype: str
    shard: str


class TensorFiles(Mapping[str, torch.Tensor]):
    """The tensors of some safetensors files by name. Nothing is read until a tensor is asked for, and then
    it is a view of the memory-mapped file: processes on one machine share one copy."""

    def __init__(self, folder: Path, shard_of: Mapping[str, str]) -> None:
        self._shard_of = shard_of
        self._files = {
            shard: safe_open(folder / shard, framework="pt") for shard in dict.fromkeys(shard_of.values())
        }

    @classmethod
    def of(cls, path: Path) -> TensorFiles:
        """All tensors of one file."""
        with safe_open(path, framework="pt") as file:
            return cls(path.parent, dict.fromkeys(file.keys(), path.name))

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[self._shard_of[name]].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder. `tensors` holds every tensor that an engine loads, in the order of the names;
    tensors that repeat another one (a tied lm_head) are left out."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path, field: str = "model") -> Checkpoint:
        """Read the headers of the checkpoint at `path`. Raises CheckpointError."""
        config = _config(path, field)
        shard_of = _shards(path, field)
        tensors: dict[str, TensorInfo] = {}
        for shard in sorted(set(shard_of.values())):
            tensors |= _headers(path, shard, field)
        if missing := sorted(shard_of.keys() - tensors.keys()):
            raise CheckpointError(
                field,
                f"{INDEX} names tensors that are in no shard: {some(missing)}",
                "Download the model again",
            )
        if config.get("tie_word_embeddings") and any("embed" in name for name in tensors):
            # vLLM and transformers take the embedding for both; moving a stored copy would have no effect.
            tensors.pop("lm_head.weight", None)
        odd = sorted({info.dtype for info in tensors.values()} - FLOATS)
        if "quantization_config" in config or odd:
            how = f"tensors of type {', '.join(odd)}" if odd else "a quantization_config"
            raise CheckpointError(
                field,
                f"{path} is quantised ({how}): adding a direction to packed weights has no meaning",
                "Use the model's bf16, fp16 or fp32 checkpoint",
            )
        return cls(path, config, dict(sorted(tensors.items())))

    @cached_property
    def weights(self) -> TensorFiles:
        """The tensors themselves, in the checkpoint's own dtypes."""
        return TensorFiles(self.path, {name: info.shard for name, info in self.tensors.items()})

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @property
    def files(self) -> list[str]:
        """The names of its shards and of config.json."""
        return sorted({info.shard for info in self.tensors.values()} | {"config.json"})

    def digest(self) -> str:
        """SHA-256 over its files, in hexadecimal."""
        return total_digest(file_digests(self.path, self.files))


def require_same_tensors(base: Checkpoint, other: Checkpoint, field: str) -> None:
    """Raise CheckpointError, listing names, unless both have the same tensors with the same shapes."""
    problems = []
    if missing := sorted(base.tensors.keys() - other.tensors.keys()):
        problems.append(f"{len(missing)} missing: {some(missing)}")
    if extra := sorted(other.tensors.keys() - base.tensors.keys()):
        problems.append(f"{len(extra)} that {base.path} lacks: {some(extra)}")
    shapes = [
        f"{name} {list(info.shape)} instead of {list(base.tensors[name].shape)}"
        for name, info in other.tensors.items()
        if name in base.tensors and info.shape != base.tensors[name].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {some(shapes)}")
    if problems:
        raise CheckpointError(
            field,
            f"the tensors of {other.path} do not match those of {base.path}: {'; '.join(problems)}",
            "Interpolate between checkpoints of one architecture, such as a model and its finetune",
        )


def auto_classes() -> tuple[Any, Any]:
    """AutoConfig and AutoTokenizer of transformers, which takes seconds to import, and must not be imported
    by two threads at the same time: the second would find it half made."""
    with _importing:
        from transformers import AutoConfig, AutoTokenizer

        return AutoConfig, AutoTokenizer


def open_tokenizer(path: Path, field: str, error_kind: type[InputError] = CheckpointError) -> Any:
    """The tokenizer of transformers in a model's folder. Raises CheckpointError, or another kind of error."""
    _, AutoTokenizer = auto_classes()  # noqa: N806
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise error_kind(
            field,
            f"{path} has no usable tokenizer: {str(error).splitlines()[0]}",
            "Put the model's tokenizer files beside its weights",
        ) from None


def _config(path: Path, field: str) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(
            field,
            f"{path} is not a folder" if path.exists() else f"{path} does not exist",
            "Give the folder of a safetensors checkpoint, or a hub id such as org/name",
        )
    AutoConfig, _ = auto_classes()  # noqa: N806
    try:
        raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
        # Through transformers too, for its classes know defaults (tied embeddings) that files leave out.
        config = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            field,
            f"{path / 'config.json'} cannot be used: {str(error).splitlines()[0]}",
            "Give a model of a kind that transformers knows without code of the model's own",
        ) from None
    return {**raw, "tie_word_embeddings": bool(getattr(config, "tie_word_embeddings", False))}


def _shards(path: Path, field: str) -> dict[str, str]:
    """Tensor name -> file name, from the index or from the single file."""
    if (path / INDEX).is_file():
        try:
            weight_map = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"]
            shard_of = {str(name): str(shard) for name, shard in weight_map.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(
                field, f"{path / INDEX} is not a shard index", "Download the model again"
            ) from None
        for shard in sorted(set(shard_of.values())):
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise CheckpointError(
                    field,
                    f"{INDEX} names {shard!r}, which is no safetensors file beside it",
                    "Do not use this checkpoint unless you know who made it",
                )
            if not (path / shard).is_file():
                raise CheckpointError(
                    field,
                    f"{INDEX} names {shard}, which is missing in {path}",
                    "Download the model again",
                )
        return shard_of
    if (path / "model.safetensors").is_file():
        return dict.fromkeys(_headers(path, "model.safetensors", field), "model.safetensors")
    if pickles := sorted(file.name for pattern in PICKLES for file in path.glob(pattern)):
        raise CheckpointError(
            field,
            f"{path} holds pickle files ({some(pickles)}) and no safetensors; "
            "loading a pickle can run any code",
            "Convert it with save_pretrained(..., safe_serialization=True) on a machine that you can lose",
        )
    raise CheckpointError(
        field,
        f"{path} holds neither model.safetensors nor {INDEX}",
        "Give the folder of a safetensors checkpoint",
    )


def _headers(path: Path, shard: str, field: str) -> dict[str, TensorInfo]:
    try:
        with safe_open(path / shard, framework="pt") as file:
            found = {}
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                piece = file.get_slice(name)
                found[name] = TensorInfo(tuple(piece.get_shape()), piece.get_dtype(), shard)
            return found
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            field, f"{path / shard} is damaged or no safetensors file: {error}", "Download the model again"
        ) from None


def some(names: list[str], most: int = 5) -> str:
    """A few of some names, for an error's text."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
