"""A random direction is a function of seed, tensor name and shape alone, and as long as the weight."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import write_checkpoint
from visage_core.checkpoints import Checkpoint
from visage_core.directions import (
    DiskSpaceError,
    FirstDirection,
    cached_random_direction,
    gaussian,
    moves,
    open_direction,
    orthogonal,
    random_direction,
    random_tensor,
)

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**63 - 1)


@given(SEEDS, st.text(max_size=20), SHAPES)
def test_the_same_seed_name_and_shape_give_the_same_values(
    seed: int, name: str, shape: tuple[int, ...]
) -> None:
    assert np.array_equal(gaussian(seed, name, shape), gaussian(seed, name, shape))


def test_values_are_pinned() -> None:
    # A change here makes old and new results incomparable: change directions.GENERATOR with it.
    values = gaussian(7, "model.layers.0.mlp.up_proj.weight", (3,))
    pinned = [0.3102552890777588, 0.05673155188560486, -1.090218424797058]
    np.testing.assert_array_equal(values, np.array(pinned, dtype=np.float32))


def test_other_seeds_and_names_give_unrelated_values() -> None:
    one, other_seed, other_name = (
        gaussian(seed, name, (100_000,)).astype(np.float64) for seed, name in [(0, "a"), (1, "a"), (0, "b")]
    )
    for values in (one, other_seed, other_name):
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 1) < 0.02
    assert abs(np.corrcoef(one, other_seed)[0, 1]) < 0.02
    assert abs(np.corrcoef(one, other_name)[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3,), (64, 31), (2048, 2048)])
def test_norms_equal_the_weights_norms(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    direction = random_tensor(0, "w", weight)
    assert direction.dtype == torch.float32
    expected = weight.double().norm().item()
    assert direction.double().norm().item() == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_zeros_gets_a_direction_of_zeros() -> None:
    assert not random_tensor(0, "bias", torch.zeros(5)).any()


@pytest.mark.parametrize(
    ("name", "moving"),
    [
        ("model.norm.weight", False),
        ("model.layers.3.input_layernorm.weight", False),
        ("model.layers.3.self_attn.q_norm.weight", False),
        ("transformer.LayerNorm.bias", False),
        ("model.layers.3.self_attn.q_proj.weight", True),
        ("model.embed_tokens.weight", True),
        ("lm_head.weight", True),
    ],
)
def test_norm_layers_stay(name: str, moving: bool) -> None:
    assert moves(name) is moving


def test_a_direction_does_not_depend_on_order_or_sharding(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}.weight": torch.randn(4, 5, generator=generator) for i in range(6)}
    whole = Checkpoint.open(write_checkpoint(tmp_path / "whole", tensors))
    names = list(tensors)
    random.Random(3).shuffle(names)
    shuffled = {name: tensors[name] for name in names}
    sharded = Checkpoint.open(write_checkpoint(tmp_path / "sharded", shuffled, shards=3))
    one, other = dict(random_direction(whole, 11)), dict(random_direction(sharded, 11))
    assert one.keys() == other.keys() == tensors.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_cache_keeps_a_direction_and_tells_models_and_seeds_apart(tmp_path: Path) -> None:
    weights = {"w.weight": torch.ones(3, 4), "norm.weight": torch.ones(4)}
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", weights))
    cache = tmp_path / "cache"
    path = cached_random_direction(base, base.digest(), 0, cache)
    made = path.stat().st_mtime_ns
    stored = open_direction(path)
    assert list(stored) == ["w.weight"]
    assert torch.equal(stored["w.weight"], random_tensor(0, "w.weight", weights["w.weight"]))
    assert cached_random_direction(base, base.digest(), 0, cache) == path
    assert path.stat().st_mtime_ns == made
    assert cached_random_direction(base, base.digest(), 1, cache) != path
    assert cached_random_direction(base, "another model", 0, cache) != path


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", {"w": torch.ones(3, 4)}))
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("visage_core.directions.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskSpaceError, match="VISAGE_CACHE"):
        cached_random_direction(base, base.digest(), 0, tmp_path / "cache")


@given(st.integers(0, 1000), st.sampled_from([(3,), (40, 31), (500, 300)]))
def test_a_second_direction_is_orthogonal_and_as_long(seed: int, shape: tuple[int, ...]) -> None:
    first, second = (torch.from_numpy(gaussian(seed, name, shape)) for name in ("first", "second"))
    found = orthogonal(second, first)
    f, d = first.double().flatten(), found.double().flatten()
    assert abs(float(f @ d)) <= 1e-6 * float(f.norm() * d.norm())
    assert float(d.norm()) == pytest.approx(float(second.double().norm()), rel=1e-5)


def test_nothing_is_orthogonal_to_a_direction_of_one_value() -> None:
    assert not orthogonal(torch.tensor([2.0]), torch.tensor([-1.0])).any()
    assert torch.equal(orthogonal(torch.tensor([2.0]), torch.tensor([0.0])), torch.tensor([2.0]))


@pytest.mark.parametrize("endpoint", [False, True])
def test_a_second_axis_is_cached_apart_and_orthogonal_to_the_first(tmp_path: Path, endpoint: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(20, 30, generator=generator) for i in range(2)}
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", weights))
    one = cached_random_direction(base, base.digest(), 0, tmp_path / "cache")
    tensors = {name: weight + 1 for name, weight in weights.items()} if endpoint else open_direction(one)
    first = FirstDirection("x", tensors, endpoint)
    two = cached_random_direction(base, base.digest(), 0, tmp_path / "cache", first)
    assert one != two
    for name, weight in weights.items():
        d = open_direction(two)[name].double()
        along = torch.ones_like(weight) if endpoint else tensors[name]
        assert abs(float((along.double() * d).sum())) <= 1e-5 * float(along.double().norm() * d.norm())
        assert float(d.norm()) == pytest.approx(float(weight.double().norm()), rel=1e-5)
