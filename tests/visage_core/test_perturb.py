"""theta + c * d is computed in float32 from theta afresh and rounded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.checkpoints import write_checkpoint
from visage_core import perturb
from visage_core.checkpoints import Checkpoint
from visage_core.perturb import Shift, perturbed, perturbed_tensor

VALUES = arrays(np.float32, 8, elements=st.floats(-100, 100, width=32))
COEFFICIENTS = st.floats(-2, 2)


@given(VALUES, VALUES, COEFFICIENTS)
def test_a_point_is_the_float32_sum_rounded_once(
    weight: np.ndarray, direction: np.ndarray, coefficient: float
) -> None:
    theta = torch.from_numpy(weight).bfloat16()
    d = torch.from_numpy(direction)
    found = perturbed_tensor("w", theta, [Shift(coefficient, {"w": d})], torch.bfloat16)
    exact = theta.double() + coefficient * d.double()
    # float32 sums err by at most a few parts in 2^24 of the terms; the one rounding may then fall either way.
    slack = 2.0**-22 * (theta.double().abs() + abs(coefficient) * d.double().abs())
    low, high = (exact - slack).bfloat16(), (exact + slack).bfloat16()
    assert ((found >= low) & (found <= high)).all()


@given(VALUES, VALUES)
def test_an_interpolation_reproduces_both_ends_bit_by_bit(one: np.ndarray, other: np.ndarray) -> None:
    theta, end = torch.from_numpy(one).bfloat16(), torch.from_numpy(other).bfloat16()
    shift = {"w": end}
    at_0 = perturbed_tensor("w", theta, [Shift(0.0, shift, endpoint=True)], torch.bfloat16)
    at_1 = perturbed_tensor("w", theta, [Shift(1.0, shift, endpoint=True)], torch.bfloat16)
    assert torch.equal(at_0, theta)
    assert torch.equal(at_1, end)


def test_the_origin_is_theta_whatever_was_visited_before(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"w{i}": torch.randn(5, 7, generator=generator).bfloat16() for i in range(3)}
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", tensors))
    direction = {name: torch.randn(5, 7, generator=generator) for name in tensors}
    first = dict(perturbed(base.weights, [Shift(0.3, direction)], torch.bfloat16))
    back = dict(perturbed(base.weights, [Shift(0.0, direction)], torch.bfloat16))
    again = dict(perturbed(base.weights, [Shift(0.3, direction)], torch.bfloat16))
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert all(torch.equal(first[name], again[name]) for name in tensors)
    assert not any(torch.equal(first[name], tensors[name]) for name in tensors)


def test_the_pieces_in_which_a_tensor_is_reckoned_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, end = (torch.randn(41, 97, generator=generator).bfloat16() for _ in range(2))
    direction = torch.randn(41, 97, generator=generator)
    steps = [Shift(0.3, {"w": direction}), Shift(0.2, {"w": end}, endpoint=True)]
    whole = perturbed_tensor("w", weight, steps, torch.bfloat16)
    monkeypatch.setattr(perturb, "PIECE", 1000)
    assert torch.equal(perturbed_tensor("w", weight, steps, torch.bfloat16), whole)
    assert torch.equal(perturbed_tensor("w", weight.T, [], torch.bfloat16), weight.T)
    assert perturbed_tensor("w", torch.tensor(2.0), [], torch.float32).shape == ()


def test_names_that_a_direction_lacks_do_not_move() -> None:
    weight = torch.ones(3)
    moved = perturbed_tensor("norm", weight, [Shift(0.5, {"w": torch.ones(3)})], torch.float32)
    assert torch.equal(moved, weight)
    moved += 1  # it is a tensor of its own: the weights stay as they are
    assert torch.equal(weight, torch.ones(3))


def test_weights_of_16_bits_are_summed_in_32() -> None:
    # In bfloat16 256 + 1 is 256: only a float32 sum keeps the direction's small step before its rounding.
    weight = torch.tensor([256.0]).bfloat16()
    steps = [Shift(1.0, {"w": torch.tensor([1.0])}), Shift(1.0, {"w": torch.tensor([1.0])})]
    assert perturbed_tensor("w", weight, steps, torch.bfloat16).item() == 258.0
