"""What a GPU keeps of models and directions from one point to the next; here a CPU plays the GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from services.engine import held, weights
from services.engine.held import Held, room_beside
from services.engine.weights import MovableWeights
from tests.checkpoints import write_checkpoint
from visage_core.checkpoints import Checkpoint
from visage_core.sources import TensorSource

CPU = torch.device("cpu")
ONE, OTHER, THIRD = (TensorSource(name, "direction") for name in ("one", "other", "third"))
TENSORS = {"a": torch.ones(4), "b": torch.ones(4)}  # 16 bytes each


def test_what_finds_no_room_is_read_at_each_move() -> None:
    kept = Held(CPU, room=24)
    kept.need([ONE])
    found = kept.of(ONE, TENSORS)
    assert found["a"] is not None
    assert found["b"] is TENSORS["b"]
    assert kept.bytes == 16
    assert "b" in found
    assert "c" not in found
    assert dict(found) == TENSORS


def test_what_a_move_does_not_need_makes_room() -> None:
    kept = Held(CPU, room=48)
    for needed in ([ONE, OTHER], [ONE, THIRD]):
        kept.need(needed)
        for source in needed:
            assert dict(kept.of(source, TENSORS)) == TENSORS
        assert kept.bytes == 48
    assert list(kept._kept[ONE]) == ["a", "b"]
    assert list(kept._kept[THIRD]) == ["a"]
    assert OTHER not in kept._kept


class _TooLarge(torch.Tensor):
    def to(self, *_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError


def test_where_the_memory_is_somebody_elses_no_more_is_kept() -> None:
    kept = Held(CPU, room=1000)
    kept.need([ONE])
    found = kept.of(ONE, {"a": torch.ones(4), "b": torch.ones(4).as_subclass(_TooLarge), "c": torch.ones(4)})
    assert len(list(found.values())) == 3
    assert kept.bytes == 16


@pytest.mark.parametrize("room", [0, 10_000, 10**9])
def test_weights_reckoned_on_the_device_are_those_of_the_host(room: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"norm": (33,), "layer": (70, 31), "embedding": (129, 33)}
    tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    model = TensorSource(str(write_checkpoint(tmp_path / "model", tensors)), "checkpoint")
    other = replace(
        model, path=str(write_checkpoint(tmp_path / "other", {n: -t for n, t in tensors.items()}))
    )
    direction = TensorSource(str(tmp_path / "direction.safetensors"), "direction")
    save_file({"layer": torch.randn(70, 31, generator=generator)}, direction.path)
    worker = MovableWeights()
    worker.model_config = SimpleNamespace(dtype=torch.bfloat16)
    worker.device, worker.visage_held = CPU, Held(CPU, room)
    for steps in ([(direction, 0.3)], [(other, 0.4), (direction, -0.1)], [(direction, 0.3)], []):
        found = dict(worker._visage_weights_on_gpu(model, steps))
        expected = dict(worker._visage_weights(model, steps))
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert worker.visage_held.bytes <= room


def test_the_room_is_what_the_engine_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model", {"a": torch.ones(8, 4).bfloat16()}))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (50 * 2**30, 80 * 2**30))
    assert room_beside(0.5, checkpoint) == 40 * 2**30 - held.RESERVE - 2 * 8 * 4 * 4
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 80 * 2**30))
    assert room_beside(0.5, checkpoint) == 0


def test_the_check_has_the_threads_that_vllm_took(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    with weights._threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
