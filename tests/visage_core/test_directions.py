"""A random direction is a function of seed, tensor name and shape alone, and as long as the weight."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import write_checkpoint
from visage_core.checkpoints import Checkpoint
from visage_core.directions import (
    DiskSpaceError,
    cached_direction,
    combined_values,
    difference_values,
    direction_tensors,
    gaussian,
    orthogonal,
    random_values,
    scaled,
    stored_values,
)
from visage_core.selection import Selection
from visage_core.sources import OpenDirection, TensorSource
from visage_core.spec import Norm, RandomDirection

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**63 - 1)


def random_tensor(seed: int, name: str, weight: torch.Tensor, norm: Norm = "layer") -> torch.Tensor:
    return scaled(random_values(seed)(name, weight), weight, norm)


def kept(base: Checkpoint, seed: int, cache: Path, model: str = "a model") -> Path:
    """A seed's direction in the cache."""
    names = RandomDirection().selection.of(base.tensors)
    make = lambda: direction_tensors(base, names, random_values(seed), "layer")  # noqa: E731
    return cached_direction(base, names, [model, seed], make, cache)


def opened(path: Path) -> OpenDirection:
    return OpenDirection.of(TensorSource(str(path), "direction"))


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


@pytest.mark.parametrize("shape", [(64, 31), (3, 8, 5)])
def test_filter_norms_are_those_of_each_row(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    direction = random_tensor(0, "w", weight, "filter")
    torch.testing.assert_close(direction.norm(dim=-1), weight.norm(dim=-1))
    vector = random_tensor(0, "b", weight[1, 0] if weight.dim() > 2 else weight[1], "filter")
    assert float(vector.norm()) == pytest.approx(
        float((weight[1, 0] if weight.dim() > 2 else weight[1]).norm())
    )


def test_a_global_norm_is_that_of_all_weights_together(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": (i + 1) * torch.randn(20, 30, generator=generator) for i in range(3)}
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", weights))
    found = dict(direction_tensors(base, list(weights), random_values(0), "global"))
    assert _norm(found) == pytest.approx(_norm(weights), rel=1e-5)
    # One factor for all: a tensor's share is by its size, not by its weights.
    assert float(found["w0"].norm()) == pytest.approx(float(found["w2"].norm()), rel=0.1)
    plain = dict(direction_tensors(base, list(weights), random_values(0), "none"))
    assert torch.equal(plain["w1"], torch.from_numpy(gaussian(0, "w1", (20, 30))))


def _norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors.values()) ** 0.5)


def test_differences_combinations_and_files_are_what_they_say(tmp_path: Path) -> None:
    one, two = ({"w": torch.full((2, 3), value)} for value in (1.0, 4.0))
    assert torch.equal(difference_values(one, two)("w", one["w"]), torch.full((2, 3), 3.0))
    assert torch.equal(stored_values(two)("w", one["w"]), two["w"])
    expected = 0.5 * gaussian(3, "w", (2, 3)) - 2 * gaussian(4, "w", (2, 3))
    found = combined_values([3, 4], [0.5, -2.0])("w", one["w"])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_a_direction_does_not_depend_on_order_or_sharding(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}.weight": torch.randn(4, 5, generator=generator) for i in range(6)}
    whole = Checkpoint.open(write_checkpoint(tmp_path / "whole", tensors))
    names = list(tensors)
    random.Random(3).shuffle(names)
    shuffled = {name: tensors[name] for name in names}
    sharded = Checkpoint.open(write_checkpoint(tmp_path / "sharded", shuffled, shards=3))
    one, other = (
        dict(direction_tensors(base, list(base.tensors), random_values(11), "layer"))
        for base in (whole, sharded)
    )
    assert one.keys() == other.keys() == tensors.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_cache_keeps_a_direction_and_tells_models_and_seeds_apart(tmp_path: Path) -> None:
    weights = {"w.weight": torch.ones(3, 4), "norm.weight": torch.ones(4)}
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", weights))
    cache = tmp_path / "cache"
    path = kept(base, 0, cache)
    made = path.stat().st_ino
    stored = opened(path).tensors
    assert list(stored) == ["w.weight"]
    assert torch.equal(stored["w.weight"], random_tensor(0, "w.weight", weights["w.weight"]))
    assert kept(base, 0, cache) == path
    assert path.stat().st_ino == made
    assert kept(base, 1, cache) != path
    assert kept(base, 0, cache, "another model") != path


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", {"w": torch.ones(3, 4)}))
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("visage_core.directions.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskSpaceError, match="VISAGE_CACHE"):
        kept(base, 0, tmp_path / "cache")


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


@pytest.mark.parametrize("norm", ["layer", "filter"])
@pytest.mark.parametrize("endpoint", [False, True])
def test_a_second_axis_is_orthogonal_to_the_first(tmp_path: Path, endpoint: bool, norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(20, 30, generator=generator) for i in range(2)}
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", weights))
    one = dict(direction_tensors(base, list(weights), random_values(0), norm))
    first = OpenDirection({name: w + one[name] for name, w in weights.items()} if endpoint else one, endpoint)
    second = random_values(0, second_axis=True)
    for name, found in direction_tensors(base, list(weights), second, norm, first):
        along, d, weight = one[name].double(), found.double(), weights[name].double()
        assert abs(float((along * d).sum())) <= 1e-5 * float(along.norm() * d.norm())
        assert float(d.norm()) == pytest.approx(float(weight.norm()), rel=1e-5)
        if norm == "filter":  # in each row
            torch.testing.assert_close(d.norm(dim=1), weight.norm(dim=1), rtol=1e-5, atol=0)
            assert float((along * d).sum(dim=1).abs().max()) < 1e-4


def test_a_selection_hides_the_other_tensors_of_a_source(tmp_path: Path) -> None:
    weights = {"a.self_attn.q.weight": torch.ones(2, 2), "a.mlp.up.weight": torch.ones(2, 2)}
    folder = write_checkpoint(tmp_path / "model", weights)
    source = TensorSource(str(folder), "checkpoint", "", Selection(only=("mlp",)))
    assert list(source.open()) == ["a.mlp.up.weight"]
    with pytest.raises(KeyError):
        source.open()["a.self_attn.q.weight"]


def test_directions_that_were_not_used_for_long_make_room_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint.open(write_checkpoint(tmp_path / "model", {"w": torch.ones(64, 64)}))
    cache = tmp_path / "cache"
    room = 2.5 * 64 * 64 * 4  # for two of them

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=room - sum(file.stat().st_size for file in folder.iterdir()))

    monkeypatch.setattr("visage_core.directions.shutil.disk_usage", usage)
    first, second = kept(base, 0, cache), kept(base, 1, cache)
    with pytest.raises(DiskSpaceError):
        kept(base, 2, cache)  # both were used a moment ago
    for file, hours in ((first, 3), (second, 2)):
        os.utime(file, (time.time() - 3600 * hours,) * 2)
    reader = TensorSource(str(first), "direction").open()
    kept(base, 0, cache)  # used again
    third = kept(base, 2, cache)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    os.utime(first, (0, 0))
    os.utime(third, (1, 1))
    kept(base, 1, cache)
    assert (first.exists(), third.exists()) == (False, True)
    assert reader["w"].shape == (64, 64)  # whoever has it open goes on
    assert kept(base, 0, cache) == first
