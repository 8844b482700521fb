"""Weights that are NaN or infinite are found, wherever they are and in whatever dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visage_core.checkpoints import CheckpointError
from visage_core.finite import extremes, require_finite_values

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HERE = Path("model.safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [1, 7, 33, 100_003])
def test_one_value_of_many_is_enough(dtype: torch.dtype, value: float, size: int) -> None:
    torch.manual_seed(size)
    for place in {0, size // 2, size - 1, int(torch.randint(size, ()))}:
        tensors = {"sound": torch.randn(size).to(dtype), "broken": torch.randn(size).to(dtype)}
        require_finite_values(HERE, extremes(tensors), "model")
        tensors["broken"][place] = value
        with pytest.raises(CheckpointError, match=r"model: .* NaN or infinite: broken\. Use a checkpoint"):
            require_finite_values(HERE, extremes(tensors), "model")


@pytest.mark.parametrize(
    ("value", "stored", "loaded", "fits"),
    [
        (1e39, torch.float64, "float32", False),
        (1e39, torch.float64, "bfloat16", False),
        (1e5, torch.float32, "float16", False),
        (-1e5, torch.bfloat16, "float16", False),
        (65_504.0, torch.float32, "float16", True),
        (65_519.0, torch.float32, "float16", True),  # rounds to the largest
        (65_520.0, torch.float32, "float16", False),
        (3.4e38, torch.float32, "float32", True),
        (3.4e38, torch.float32, "bfloat16", False),
        (3.38e38, torch.float32, "bfloat16", True),
    ],
)
def test_what_is_infinite_once_it_is_loaded(
    value: float, stored: torch.dtype, loaded: str, fits: bool
) -> None:
    ends = extremes({"w": torch.tensor([0.0, value], dtype=stored)})
    if fits:
        require_finite_values(HERE, ends, "model", loaded)
        return
    with pytest.raises(CheckpointError, match=f"infinite in {loaded}: w"):
        require_finite_values(HERE, ends, "model", loaded)


def test_tensors_that_are_not_loaded_do_not_matter() -> None:
    ends = extremes({"w": torch.ones(2), "lm_head.weight": torch.tensor([float("nan")])})
    require_finite_values(HERE, ends, "model", names=["w", "elsewhere"])
