"""Directions in weight space, one tensor at a time, and the cache that keeps them on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from filelock import FileLock

from visage_core.checkpoints import Checkpoint, TensorInfo
from visage_core.errors import InputError
from visage_core.sources import OpenDirection
from visage_core.spec import Norm

if TYPE_CHECKING:
    import torch

# Part of the key of every random number. A change to how directions are made must change it, so that
# results and cached files of the old kind are never taken for the new.
GENERATOR = "visage-random-direction-1"
SECOND_AXIS = "second axis: "
JUST_USED_SECONDS = 60.0
# The float32 values of a direction for one weight tensor, by its name, before they are scaled.
Values: TypeAlias = "Callable[[str, torch.Tensor], torch.Tensor]"


class DiskSpaceError(InputError):
    """A direction does not fit on the disk."""


def gaussian(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values that depend on the seed, the tensor's name and the shape alone.

    Philox is counter-based: keyed by (seed, name), it gives every worker, shard and machine the same
    tensor in whatever order they are made.
    """
    key = hashlib.sha256(f"{GENERATOR}\0{seed}\0{name}".encode()).digest()[:16]
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))
    return generator.standard_normal(shape, dtype=np.float32)


def random_values(seed: int, second_axis: bool = False) -> Values:
    """The Gaussian values of a seed's direction. On a second axis they are others than on the first."""
    import torch

    prefix = SECOND_AXIS if second_axis else ""
    return lambda name, weight: torch.from_numpy(gaussian(seed, f"{prefix}{name}", tuple(weight.shape)))


def difference_values(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor]) -> Values:
    """What leads from one checkpoint to another: a task vector (Ilharco et al. 2023), for instance."""
    return lambda name, _: end[name].float() - start[name].float()


def stored_values(tensors: Mapping[str, torch.Tensor]) -> Values:
    """Values that are there already."""
    import torch

    return lambda name, _: tensors[name].to(torch.float32, copy=True)


def combined_values(seeds: Sequence[int], weights: Sequence[float]) -> Values:
    """The sum of several seeds' directions, each with a weight: a point of the subspace that they span."""

    import torch

    def values(name: str, weight: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(tuple(weight.shape), dtype=torch.float32)
        for seed, share in zip(seeds, weights, strict=True):
            total.add_(random_values(seed)(name, weight), alpha=share)
        return total

    return values


def scaled(direction: torch.Tensor, weight: torch.Tensor, norm: Norm) -> torch.Tensor:
    """A direction's tensor, rescaled to the size of the weight tensor.

    layer: d = g * ||w|| / ||g||, with Frobenius norms ("layer" in the paper's code). filter: the same for
    each row, what feeds one output (Li et al. 2018, section 4); a tensor of one dimension is one row. Others
    leave it as it is here. Norms are summed in float64, for a float32 sum over millions of squares is off by
    more than the 1e-5 that is promised.
    """
    import torch

    if norm == "filter" and direction.dim() > 1:
        length = torch.linalg.vector_norm(direction, dim=-1, keepdim=True, dtype=torch.float64)
        target = torch.linalg.vector_norm(weight, dim=-1, keepdim=True, dtype=torch.float64)
        return direction.mul_(torch.where(length > 0, target / length, 0.0).to(torch.float32))
    if norm in ("layer", "filter"):
        length = _norm(direction)
        return direction.mul_(_norm(weight) / length) if length else direction
    return direction


def orthogonal(direction: torch.Tensor, first: torch.Tensor, by_row: bool = False) -> torch.Tensor:
    """The part of a direction's tensor that is orthogonal to `first`, rescaled to the direction's norm; with
    `by_row`, the same row by row.

    Gram-Schmidt: d - (d . f) / (f . f) * f, with the products in float64. Where nothing is left (a tensor
    of one value), the direction does not move that tensor.
    """
    import torch

    shape = direction.shape if by_row and direction.dim() > 1 else (1, direction.numel())
    d, f = direction.reshape(shape).double(), first.float().reshape(shape).double()
    length = (f * f).sum(-1, keepdim=True)
    rest = d - torch.where(length > 0, (d * f).sum(-1, keepdim=True) / length, 0.0) * f
    before, left = d.norm(dim=-1, keepdim=True), rest.norm(dim=-1, keepdim=True)
    scale = torch.where(left > 1e-6 * before, before / left, 0.0)
    return (rest * scale).float().reshape(direction.shape)


def direction_tensors(
    base: Checkpoint,
    names: Sequence[str],
    values: Values,
    norm: Norm,
    orthogonal_to: OpenDirection | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The float32 tensors of a direction, one after another: `values`, scaled by `norm`, and then without
    what is parallel to another direction. One is held in memory at a time.

    norm="global" makes the whole direction as long as all the weights that it moves; "none" leaves it.
    """
    scale = 1.0
    if norm == "global":
        sizes = [(_norm(values(name, base.weights[name])), _norm(base.weights[name])) for name in names]
        length, target = (math.hypot(*column) for column in zip(*sizes, strict=True))
        scale = target / length if length else 1.0
    for name in names:
        weight = base.weights[name]
        made = scaled(values(name, weight), weight, norm)
        if scale != 1.0:
            made = made.mul_(scale)
        if orthogonal_to is not None:
            made = orthogonal(made, orthogonal_to.tensor(name, weight), by_row=norm == "filter")
        yield name, made


def cached_direction(
    base: Checkpoint,
    names: Sequence[str],
    identity: Sequence[object],
    make: Callable[[], Iterator[tuple[str, torch.Tensor]]],
    cache: Path,
) -> Path:
    """The safetensors file of a direction in the folder `cache`, made if it is not there yet.

    `names` are the tensors of `base` that it moves, in the order in which `make` gives them. Processes that
    ask for the same direction at once make it once. The file's name is a digest of its `identity`: all that
    its content depends on. Where the disk has no room for it, those go that were not used for the longest
    time. Raises DiskSpaceError.
    """
    document = json.dumps([GENERATOR, *identity])
    path = cache / f"{hashlib.sha256(document.encode()).hexdigest()[:32]}.safetensors"
    if mark_used(path):
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            infos = {name: base.tensors[name] for name in names}
            _make_room(cache, sum(4 * math.prod(info.shape) for info in infos.values()))
            partial = path.with_suffix(".partial")
            _write_float32(partial, infos, make())
            partial.replace(path)
    return path


def mark_used(path: Path) -> bool:
    """Note that a direction's file is being used; False where it is gone, to make room for others."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _norm(tensor: torch.Tensor) -> float:
    import torch

    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _make_room(folder: Path, needed: int) -> None:
    """Remove directions until the disk has so many bytes free. Whoever reads one has it open, and loses
    nothing. Raises DiskSpaceError."""
    free = shutil.disk_usage(folder).free
    kept = []
    for file in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process makes room as well
            kept.append((file.stat().st_mtime, file.stat().st_size, file))
    for used, size, file in sorted(kept):
        if free >= needed or used > time.time() - JUST_USED_SECONDS:
            break
        free += size
        file.unlink(missing_ok=True)
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
            assert (str(tensor.dtype), tuple(tensor.shape)) == ("torch.float32", infos[name].shape)
            file.write(tensor.contiguous().numpy().data)
        file.flush()
        os.fsync(file.fileno())
