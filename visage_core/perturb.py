"""theta + sum of c_i * d_i, one tensor at a time, always from theta afresh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from visage_core.checkpoints import Checkpoint


@dataclass(frozen=True)
class Shift:
    """One coordinate of a point: how far (`coefficient`), and along what.

    `tensors` is a direction d, or with `endpoint` the checkpoint theta' at coordinate 1 of an
    interpolation. Names that it lacks do not move.
    """

    coefficient: float
    tensors: Mapping[str, torch.Tensor]
    endpoint: bool = False


def perturbed_tensor(
    name: str, weight: torch.Tensor, shifts: list[Shift], dtype: torch.dtype
) -> torch.Tensor:
    """The tensor at a point: computed in float32 and rounded once to `dtype`; a new tensor, never a view.

    An interpolation is computed as (1 - c) * theta + c * theta', which is theta' itself at c = 1, where
    theta + c * (theta' - theta) may miss it by a rounding. With every coefficient 0 it is theta itself.
    """
    moving = [shift for shift in shifts if shift.coefficient and name in shift.tensors]
    stay = 1.0 - sum(shift.coefficient for shift in moving if shift.endpoint)
    value = weight.to(torch.float32, copy=True)
    if stay != 1.0:
        value.mul_(stay)
    for shift in moving:
        value.add_(shift.tensors[name].to(torch.float32), alpha=shift.coefficient)
    return value.to(dtype)


def perturbed(
    base: Checkpoint, shifts: list[Shift], dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the model at a point, moved or not, by name. One is made at a time."""
    for name, weight in base.weights.items():
        yield name, perturbed_tensor(name, weight, shifts, dtype)
