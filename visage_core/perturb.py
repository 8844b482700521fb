"""theta + sum of c_i * d_i, one tensor at a time, always from theta afresh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

HOST = torch.device("cpu")
# Weights reckoned at a time. On a CPU their float32 values stay in its caches, and no memory is taken and
# given back for each tensor, which would cost more than the arithmetic; a GPU needs 200 MiB for them.
PIECE, GPU_PIECE = 2**20, 2**24


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
    name: str,
    weight: torch.Tensor,
    shifts: list[Shift],
    dtype: torch.dtype,
    device: torch.device = HOST,
) -> torch.Tensor:
    """The tensor at a point: computed in float32 and rounded once to `dtype`; a new tensor, never a view.

    An interpolation is computed as (1 - c) * theta + c * theta', which is theta' itself at c = 1, where
    theta + c * (theta' - theta) may miss it by a rounding. With every coefficient 0 it is theta itself.

    It is reckoned on `device`, and lies there: value by value, so that neither the device nor the pieces
    in which it is done change a bit.
    """
    moving = [shift for shift in shifts if shift.coefficient and name in shift.tensors]
    stay = 1.0 - sum(shift.coefficient for shift in moving if shift.endpoint)
    along = [(shift.coefficient, shift.tensors[name].reshape(-1)) for shift in moving]
    flat = weight.reshape(-1)
    result = torch.empty(weight.shape, dtype=dtype, device=device)
    size = PIECE if device.type == "cpu" else GPU_PIECE
    for begin in range(0, flat.numel(), size):
        piece = slice(begin, begin + size)
        value = flat[piece].to(device).to(torch.float32, copy=True)
        if stay != 1.0:
            value.mul_(stay)
        for coefficient, values in along:
            value.add_(values[piece].to(device).to(torch.float32), alpha=coefficient)
        result.view(-1)[piece].copy_(value)
    return result


def perturbed(
    weights: Mapping[str, torch.Tensor],
    shifts: list[Shift],
    dtype: torch.dtype,
    device: torch.device = HOST,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a model at a point, moved or not, by name, made on a device. One is made at a time."""
    for name, weight in weights.items():
        yield name, perturbed_tensor(name, weight, shifts, dtype, device)
