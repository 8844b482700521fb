"""Directions in weight space, one tensor at a time, and the cache that keeps them on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from visage_core.checkpoints import Checkpoint, TensorFiles, TensorInfo
from visage_core.errors import InputError

# Part of the key of every random number. A change to how directions are made must change it, so that
# results and cached files of the old kind are never taken for the new.
GENERATOR = "visage-random-direction-1"
SECOND_AXIS = "second axis: "


class DiskSpaceError(InputError):
    """A direction does not fit on the disk."""


def moves(name: str) -> bool:
    """Whether a random direction moves this tensor: norm layers are left alone (paper, section 3)."""
    return "norm" not in name.lower()


def gaussian(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values that depend on the seed, the tensor's name and the shape alone.

    Philox is counter-based: keyed by (seed, name), it gives every worker, shard and machine the same
    tensor in whatever order they are made.
    """
    key = hashlib.sha256(f"{GENERATOR}\0{seed}\0{name}".encode()).digest()[:16]
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))
    return generator.standard_normal(shape, dtype=np.float32)


def random_tensor(seed: int, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A float32 direction for one weight tensor, of the weight's shape and Frobenius norm.

    Equation: d = g * ||w|| / ||g||, "layer" normalisation in the paper's code. Norms are summed in float64,
    for a float32 sum over millions of squares is off by more than the 1e-5 that is promised.
    """
    direction = torch.from_numpy(gaussian(seed, name, tuple(weight.shape)))
    length = _norm(direction)
    return direction.mul_(_norm(weight) / length) if length else direction


def orthogonal(direction: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The part of a direction's tensor that is orthogonal to `first`, rescaled to the direction's norm.

    Gram-Schmidt: d - (d . f) / (f . f) * f, with the products in float64. Where nothing is left (a tensor
    of one value), the direction does not move that tensor.
    """
    first = first.to(torch.float32)
    f, d = first.flatten().double(), direction.flatten().double()
    length = float(f @ f)
    if not length:
        return direction
    rest = d - (d @ f) / length * f
    left = float(rest.norm())
    if left <= 1e-6 * float(d.norm()):
        return torch.zeros_like(direction)
    return (rest * (_norm(direction) / left)).to(torch.float32).reshape(direction.shape)


def random_direction(
    base: Checkpoint, seed: int, orthogonal_to: FirstDirection | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of `base` that move, with their float32 directions. One is held in memory at a time.

    With `orthogonal_to` it is the seed's direction of a second axis: other values, orthogonal to the first.
    """
    for name in base.tensors:
        if not moves(name):
            continue
        weight = base.weights[name]
        if orthogonal_to is None:
            yield name, random_tensor(seed, name, weight)
        else:
            second = random_tensor(seed, f"{SECOND_AXIS}{name}", weight)
            yield name, orthogonal(second, orthogonal_to.tensor(name, weight))


@dataclass(frozen=True)
class FirstDirection:
    """The direction of a plane's first axis: tensors of it, or with `endpoint` of the checkpoint that it
    leads to. `identity` tells it from any other."""

    identity: str
    tensors: Mapping[str, torch.Tensor]
    endpoint: bool

    def tensor(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The direction's float32 values for one weight tensor."""
        if name not in self.tensors:
            return torch.zeros_like(weight, dtype=torch.float32)
        values = self.tensors[name].to(torch.float32)
        return values - weight.to(torch.float32) if self.endpoint else values


def cached_random_direction(
    base: Checkpoint, base_digest: str, seed: int, cache: Path, orthogonal_to: FirstDirection | None = None
) -> Path:
    """The safetensors file of a random direction in the folder `cache`, made if it is not there yet.

    Processes that ask for the same direction at once make it once. The name is a digest of all that the
    content depends on. Raises DiskSpaceError.
    """
    identity = "" if orthogonal_to is None else f"\0{SECOND_AXIS}{orthogonal_to.identity}"
    key = hashlib.sha256(f"{GENERATOR}\0{base_digest}\0{seed}{identity}".encode()).hexdigest()[:32]
    path = cache / f"{key}.safetensors"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{key}.lock"):
        if not path.exists():
            infos = {name: info for name, info in base.tensors.items() if moves(name)}
            _require_space(cache, sum(4 * math.prod(info.shape) for info in infos.values()))
            partial = path.with_suffix(".partial")
            _write_float32(partial, infos, random_direction(base, seed, orthogonal_to))
            partial.replace(path)
    return path


def open_direction(path: Path) -> TensorFiles:
    """The tensors of a direction's file, memory-mapped."""
    return TensorFiles.of(path)


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskSpaceError(
            "cache",
            f"a direction takes {needed / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free",
            "Free some space, or point VISAGE_CACHE at a larger disk",
        )


def _write_float32(
    path: Path, infos: dict[str, TensorInfo], tensors: Iterator[tuple[str, torch.Tensor]]
) -> None:
    """Write a safetensors file of float32 tensors that arrive one by one in the order of `infos`.

    safetensors' own writer wants them all in memory at once, which for a large model they do not fit.
    Format: 8 bytes of little-endian header length, a JSON header, then the raw values.
    """
    header = {}
    end = 0
    for name, info in infos.items():
        begin, end = end, end + 4 * math.prod(info.shape)
        header[name] = {"dtype": "F32", "shape": info.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors:
            assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, infos[name].shape)
            file.write(tensor.contiguous().numpy().data)
        file.flush()
        os.fsync(file.fileno())
