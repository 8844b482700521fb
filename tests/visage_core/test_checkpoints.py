"""Checkpoints are read from safetensors alone, shard by shard, and refused with a reason otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints import CONFIG, write_checkpoint
from visage_core.checkpoints import INDEX, Checkpoint, CheckpointError, require_same_tensors

TENSORS = {
    "model.embed_tokens.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3).bfloat16(),
    "model.layers.0.mlp.up_proj.weight": torch.ones(2, 3, dtype=torch.float16),
    "model.norm.weight": torch.full((3,), 0.1, dtype=torch.float32),
}


def test_names_shapes_dtypes_and_values(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model", TENSORS))
    assert list(checkpoint.tensors) == sorted(TENSORS)
    assert [info.dtype for info in checkpoint.tensors.values()] == ["BF16", "F16", "F32"]
    assert checkpoint.tensors["model.embed_tokens.weight"].shape == (4, 3)
    assert checkpoint.parameters == 12 + 6 + 3
    for name, tensor in TENSORS.items():
        assert checkpoint.weights[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.weights[name], tensor)


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    one = Checkpoint.open(write_checkpoint(tmp_path / "one", TENSORS))
    sharded = Checkpoint.open(write_checkpoint(tmp_path / "sharded", TENSORS, shards=2))
    require_same_tensors(one, sharded, "to")
    assert len({info.shard for info in sharded.tensors.values()}) == 2
    assert all(torch.equal(one.weights[name], sharded.weights[name]) for name in TENSORS)


def test_a_stored_copy_of_a_tied_embedding_is_left_out(tmp_path: Path) -> None:
    tensors = TENSORS | {"lm_head.weight": TENSORS["model.embed_tokens.weight"].clone()}
    tied = write_checkpoint(tmp_path / "tied", tensors, config=CONFIG | {"tie_word_embeddings": True})
    untied = write_checkpoint(tmp_path / "untied", tensors)
    assert "lm_head.weight" not in Checkpoint.open(tied).tensors
    assert "lm_head.weight" in Checkpoint.open(untied).tensors


def test_the_digest_tells_other_weights_and_another_config(tmp_path: Path) -> None:
    first = Checkpoint.open(write_checkpoint(tmp_path / "first", TENSORS)).digest()
    assert Checkpoint.open(write_checkpoint(tmp_path / "same", TENSORS)).digest() == first
    moved = TENSORS | {"model.norm.weight": torch.full((3,), 0.2)}
    assert Checkpoint.open(write_checkpoint(tmp_path / "moved", moved)).digest() != first
    theta = CONFIG | {"rope_theta": 5.0}
    assert Checkpoint.open(write_checkpoint(tmp_path / "config", TENSORS, config=theta)).digest() != first


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(path)
    return str(error.value)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", TENSORS, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "names model-00002-of-00002.safetensors, which is missing" in refused(folder)


def test_an_index_that_leaves_its_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", TENSORS)
    folder = write_checkpoint(tmp_path / "model", TENSORS, shards=2)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "../other/model.safetensors"}}))
    assert "no safetensors file beside it" in refused(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_an_index_that_is_none(tmp_path: Path, content: str) -> None:
    folder = write_checkpoint(tmp_path / "model", TENSORS, shards=2)
    (folder / INDEX).write_text(content)
    assert "is not a shard index" in refused(folder)


def test_an_index_with_a_tensor_that_no_shard_has(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", TENSORS, shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    assert "ghost.weight" in refused(folder)


@pytest.mark.parametrize("size", [0, 7, 8, 40, 200])
def test_a_truncated_file(tmp_path: Path, size: int) -> None:
    folder = write_checkpoint(tmp_path / "model", TENSORS)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "model", TENSORS)
    (folder / "model.safetensors").rename(folder / name)
    assert "pickle" in refused(folder)


def test_quantised_weights(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert "quantised" in refused(write_checkpoint(tmp_path / "one", TENSORS, config=config))
    packed = TENSORS | {"model.layers.0.mlp.down_proj.qweight": torch.ones(2, 2, dtype=torch.int32)}
    assert "I32" in refused(write_checkpoint(tmp_path / "two", packed))


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(json.dumps(CONFIG))
    assert "holds neither model.safetensors nor" in refused(tmp_path / "empty")


def test_differences_between_two_checkpoints_are_listed(tmp_path: Path) -> None:
    base = Checkpoint.open(write_checkpoint(tmp_path / "base", TENSORS))
    other_tensors = TENSORS | {"model.norm.weight": torch.ones(4), "extra.weight": torch.ones(1)}
    del other_tensors["model.embed_tokens.weight"]
    other = Checkpoint.open(write_checkpoint(tmp_path / "other", other_tensors))
    with pytest.raises(CheckpointError) as error:
        require_same_tensors(base, other, "axis.direction.to")
    message = str(error.value)
    assert "1 missing: model.embed_tokens.weight" in message
    assert "1 that" in message
    assert "extra.weight" in message
    assert "model.norm.weight [4] instead of [3]" in message
