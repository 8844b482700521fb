"""Safetensors checkpoints as named tensors: memory-mapped, read one at a time, never pickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from visage_core.digests import file_digests, total_digest
from visage_core.documents import open_bytes, parse_json, read_json
from visage_core.errors import InputError

if TYPE_CHECKING:
    import torch

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Names that safetensors' headers use.
FLOATS = {"F64", "F32", "F16", "BF16"}
_importing = threading.Lock()
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"[\w.+-]{1,200}\.safetensors", re.ASCII)
# Far above what the largest models have.
MOST_CONFIG_BYTES, MOST_INDEX_BYTES, MOST_HEADER_BYTES, MOST_FILE_BYTES = 2**22, 2**26, 2**24, 2**28
MOST_DIMENSIONS = 8
# Numbers of a config.json as many as which transformers makes things, only to read it.
# What a config says of an architecture that the shapes of its tensors do not.
ARCHITECTURE = ("model_type", "architectures", "num_attention_heads", "num_key_value_heads")
COUNTS = re.compile(r"(n|num)_(\w+_)?(layers?|labels)|(en|de)coder_layers|depths?|attention_types")
MOST_COUNT = 10_000


class CheckpointError(InputError):
    """A checkpoint that is missing, unsafe, damaged or does not fit."""


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint's headers say of a tensor. `dtype` is safetensors' name: BF16, F32, ..."""

    shape: tuple[int, ...]
    dtype: str
    shard: str


class TensorFiles(Mapping[str, "torch.Tensor"]):
    """The tensors of some safetensors files by name. Nothing is read until a tensor is asked for, and then
    it is a view of the memory-mapped file: processes on one machine share one copy."""

    def __init__(self, folder: Path, shard_of: Mapping[str, str]) -> None:
        self._shard_of = shard_of
        self._files = {
            shard: safe_open(folder / shard, framework="pt") for shard in dict.fromkeys(shard_of.values())
        }

    @classmethod
    def of(cls, path: Path) -> TensorFiles:
        """All tensors of one file, of floating point. Raises SafetensorError or OSError."""
        infos = _infos(path)
        if odd := sorted({info.dtype for info in infos.values()} - FLOATS):
            raise SafetensorError(f"it has tensors of type {', '.join(odd)}")
        return cls(path.parent, dict.fromkeys(infos, path.name))

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[self._shard_of[name]].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._shard_of  # Mapping's own would open the tensor

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
            found = _headers(path, shard, field)
            if twice := sorted(found.keys() & tensors.keys()):
                raise CheckpointError(
                    field,
                    f"{path} has tensors in several files: {some(twice)}; readers differ in which they take",
                    "Download the model again",
                )
            tensors |= found
        if missing := sorted(shard_of.keys() - tensors.keys()):
            raise CheckpointError(
                field,
                f"{INDEX} names tensors that are in no shard: {some(missing)}",
                "Download the model again",
            )
        if not tensors:
            raise CheckpointError(field, f"{path} holds no tensor", "Download the model again")
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

    def architecture(self) -> dict[str, Any]:
        """What models whose directions are the same have in common: settings of the config, and a SHA-256
        over the names and shapes of the tensors."""
        shapes = {name: info.shape for name, info in self.tensors.items()}
        digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
        return {name: self.config.get(name) for name in ARCHITECTURE} | {"tensors": digest}

    @property
    def files(self) -> list[str]:
        """The names of its shards and of config.json."""
        return sorted({info.shard for info in self.tensors.values()} | {"config.json"})

    def digest(self) -> str:
        """SHA-256 over its files, in hexadecimal."""
        return total_digest(file_digests(self.path, self.files))


def require_same_tensors(
    base: Checkpoint,
    other: Checkpoint,
    field: str,
    remedy: str = "Interpolate between checkpoints of one architecture, such as a model and its finetune",
) -> None:
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
        problem = f"the tensors of {other.path} do not match those of {base.path}: {'; '.join(problems)}"
        raise CheckpointError(field, problem, remedy)


def require_same_architecture(base: Checkpoint, other: Checkpoint, field: str) -> None:
    """Raise CheckpointError unless directions of both models are the same: the scores of others are not
    comparable."""
    remedy = "Compare models of one architecture, such as a model and its finetune"
    require_same_tensors(base, other, field, remedy)
    if apart := other_architecture(base.architecture(), other.architecture()):
        raise CheckpointError(
            field, f"{other.path} has another architecture than {base.path}: {'; '.join(apart)}", remedy
        )


def other_architecture(base: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """How the architecture of a checkpoint differs from another's, in words; what one of them does not say is
    no difference."""
    apart = [
        f"{name} {other[name]!r} instead of {base[name]!r}"
        for name in ARCHITECTURE
        if None not in (base.get(name), other.get(name)) and base[name] != other[name]
    ]
    if base.get("tensors") != other.get("tensors"):
        apart.append("other names or shapes of tensors")
    return apart


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
    except Exception as error:  # files that are wrong in their own ways raise anything
        raise error_kind(
            field,
            f"{path} has no usable tokenizer: {_first_line(error)}",
            "Put the model's tokenizer files beside its weights",
        ) from None


def _config(path: Path, field: str) -> dict[str, Any]:
    if not os.path.isdir(path):  # Path's own raises for a name that is too long
        raise CheckpointError(
            field,
            f"{path} is not a folder" if os.path.exists(path) else f"{path} does not exist",
            "Give the folder of a safetensors checkpoint, or a hub id such as org/name",
        )
    if (path / "adapter_config.json").is_file() and not (path / "config.json").exists():
        raise CheckpointError(
            field,
            f"{path} is a LoRA adapter, which is no model by itself",
            "Name the model that it is for, and go along the adapter (`visage run BASE --adapter FOLDER`, or "
            "an axis of kind adapter), which at 1 is the finetuned model; or merge the two with peft "
            "(merge_and_unload, save_pretrained) and measure that",
        )
    _require_plain_files(path, field)
    AutoConfig, _ = auto_classes()  # noqa: N806
    try:
        raw = read_json(path / "config.json", MOST_CONFIG_BYTES)
        _require_few(raw)
        # Through transformers too, for its classes know defaults (tied embeddings) that files leave out.
        config = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except Exception as error:  # a field of the wrong kind raises anything
        raise CheckpointError(
            field,
            f"{path / 'config.json'} cannot be used: {_first_line(error)}",
            "Give a model of a kind that transformers knows without code of the model's own",
        ) from None
    return {**raw, "tie_word_embeddings": bool(getattr(config, "tie_word_embeddings", False))}


def _require_plain_files(path: Path, field: str) -> None:
    """Raise CheckpointError where a file would be waited for (a pipe), has no end (a device), or is too
    large for what it is. transformers reads whatever it finds by its name."""
    for file in path.iterdir():
        if file.is_dir() or not file.exists():
            continue
        if not file.is_file() or (
            file.suffix != ".safetensors"
            and file.suffix in (".json", ".jinja", ".txt", ".model")
            and file.stat().st_size > MOST_FILE_BYTES
        ):
            raise CheckpointError(
                field,
                f"{file} is no regular file of at most {MOST_FILE_BYTES:,} bytes",
                "Do not use this checkpoint unless you know who made it",
            )


def _require_few(value: Any, name: str = "") -> None:
    """Raise ValueError where a config counts more of something than any model has."""
    if isinstance(value, dict):
        for key, one in value.items():
            _require_few(one, str(key))
    elif isinstance(value, list):
        for one in value:
            _require_few(one, name)
    elif isinstance(value, int | float) and value > MOST_COUNT and COUNTS.fullmatch(name):
        raise ValueError(f"{name} is {value:,}, more than {MOST_COUNT:,}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _shards(path: Path, field: str) -> dict[str, str]:
    """Tensor name -> file name, from the index or from the single file."""
    if (path / INDEX).is_file():
        try:
            weight_map = read_json(path / INDEX, MOST_INDEX_BYTES)["weight_map"]
            shard_of = {str(name): str(shard) for name, shard in weight_map.items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                field, f"{path / INDEX} is not a shard index: {error}", "Download the model again"
            ) from None
        for shard in sorted(set(shard_of.values())):
            if not SHARD.fullmatch(shard):
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
        if more := sorted(
            file.name for file in path.glob("*.safetensors") if file.name != "model.safetensors"
        ):
            raise CheckpointError(
                field,
                f"{path} has no {INDEX}, and more weights than model.safetensors: {some(more)}, which some "
                "readers load and others do not",
                "Take the others away, or add the index that says which file has which tensor",
            )
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
        return _infos(path / shard)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            field, f"{path / shard} is damaged or no safetensors file: {error}", "Download the model again"
        ) from None


def _infos(path: Path) -> dict[str, TensorInfo]:
    """What the header of a safetensors file says. Raises SafetensorError or OSError."""
    _require_plain_header(path)
    found = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            piece = file.get_slice(name)
            shape = tuple(piece.get_shape())
            if 0 in shape or len(shape) > MOST_DIMENSIONS:
                raise SafetensorError(f"tensor {name!r} has the shape {list(shape[:MOST_DIMENSIONS])}")
            found[name] = TensorInfo(shape, piece.get_dtype(), path.name)
    return found


def _require_plain_header(path: Path) -> None:
    """Raise SafetensorError where a header is larger than any model's, or has a name twice: readers differ
    in which of the two they take. safetensors checks all else."""
    with open_bytes(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER_BYTES:
            raise SafetensorError(f"a header of {size:,} bytes, more than {MOST_HEADER_BYTES:,}")
        try:
            parse_json(file.read(size))
        except ValueError as error:
            raise SafetensorError(f"invalid header: {error}") from None


def some(names: list[str], most: int = 5) -> str:
    """A few of some names, for an error's text."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
