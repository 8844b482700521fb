"""Weights that are numbers: NaN and infinite ones are found before anything is measured.

A model with a NaN anywhere answers noise at every point, which some measures take for safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from visage_core.checkpoints import CheckpointError, some

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# The least and the largest value of each tensor by its name; both NaN where one of its values is.
Extremes = Mapping[str, tuple[float, float]]


def extremes(tensors: Mapping[str, torch.Tensor]) -> Extremes:
    """Read every value of some floating-point tensors once, in their own dtypes: no copy is made."""
    import torch

    found = {}
    for name in tensors:
        ends = torch.aminmax(tensors[name])
        found[name] = (float(ends.min), float(ends.max))
    return found


def require_finite_values(
    path: Path, ends: Extremes, field: str, dtype: str = "float32", names: Iterable[str] | None = None
) -> None:
    """Raise CheckpointError where a tensor of the files at `path` has a value that is NaN or infinite, or
    would be once it is loaded in `dtype`. Tensors that are not among `names` are not loaded."""
    loaded = ends if names is None else [name for name in names if name in ends]
    broken = [name for name in loaded if not all(map(math.isfinite, ends[name]))]
    if broken:
        raise CheckpointError(
            field,
            f"{path} has weights that are NaN or infinite: {some(broken)}",
            "Use a checkpoint from before the training diverged, or download the files again",
        )
    if large := [name for name in loaded if not _fits(ends[name], dtype)]:
        raise CheckpointError(
            field,
            f"{path} has weights that are infinite in {dtype}: {some(large)}",
            f"Use a dtype with a larger range than {dtype} has, if the weights are meant to be so large",
        )


def _fits(ends: tuple[float, float], dtype: str) -> bool:
    """Whether values stay finite as a worker loads them: through float32, and rounded once to the dtype."""
    import torch

    loaded = torch.tensor(ends, dtype=torch.float64).float().to(getattr(torch, dtype))
    return bool(loaded.isfinite().all())
