"""Lengths, angles and places against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.checkpoints import write_checkpoint
from visage_core.checkpoints import Checkpoint
from visage_core.geometry import geometry
from visage_core.sources import OpenDirection


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    weights = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([0.0, 4.0])}
    return Checkpoint.open(write_checkpoint(tmp_path / "model", weights))


def moved(a: list[float], b: list[float]) -> dict[str, torch.Tensor]:
    """The model of `base`, moved."""
    return {"a": torch.tensor([3.0, 0.0]) + torch.tensor(a), "b": torch.tensor([0.0, 4.0]) + torch.tensor(b)}


def test_lengths_are_shares_of_the_weights_and_the_cosine_is_over_all_tensors(base: Checkpoint) -> None:
    one = OpenDirection({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}, endpoint=False)
    two = OpenDirection(moved([2.0, 0.0], [0.0, 0.0]), endpoint=True)
    found = geometry(base, 7, [one, two], {})
    assert found.seed == 7
    assert found.lengths == pytest.approx((math.sqrt(2) / 5, 2 / 5))
    assert found.cosine == pytest.approx(1 / math.sqrt(2))


def test_places_are_those_of_least_squares(base: Checkpoint) -> None:
    one = OpenDirection({"a": torch.tensor([1.0, 0.0])}, endpoint=False)
    two = OpenDirection({"a": torch.tensor([1.0, 1.0])}, endpoint=False)  # oblique
    others = {
        "on the plane": moved([3.0, 2.0], [0.0, 0.0]),  # one + 2 two
        "half off it": moved([0.0, 1.0], [0.0, 1.0]),
        "the model": moved([0.0, 0.0], [0.0, 0.0]),
    }
    on, half, same = geometry(base, None, [one, two], others).places
    assert (on.alpha, on.beta, on.off) == pytest.approx((1, 2, 0), abs=1e-6)
    assert (half.alpha, half.beta, half.off) == pytest.approx((-1, 1, math.sqrt(0.5)))
    assert (same.alpha, same.beta, same.off) == pytest.approx((0, 0, 0))
    line = geometry(base, None, [one], others)
    assert line.cosine is None
    assert (line.places[0].alpha, line.places[0].beta) == pytest.approx((3, 0))
