"""Which checkpoints an audit is about, what they are called, and which of them are no good."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.audit.checkpoints import AuditError, Candidate, gather, named, step_of
from services.audit.checks import require_shapes
from tests.checkpoints import write_checkpoint
from visage_core.checkpoints import Checkpoint, CheckpointError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("model", "step"),
    [
        ("/runs/a/checkpoint-120", 120),
        ("/runs/checkpoint-7/final", None),
        ("global_step1000", 1000),
        ("/runs/step_00250", 250),
        ("org/llama-2-7b", None),
        ("s3://bucket/run/checkpoint-30", 30),
        ("checkpoint_50", 50),
        ("step-30", 30),
        ("global_step40", 40),
        ("global_step_40_hf", 40),
        ("iter_0000100", 100),
        ("epoch_3", 3),
        ("epoch=1-step=50", 50),
        ("epoch_1_step_50", 50),
        ("megatron_gpt--val_loss=0.12-step=900-consumed_samples=7200.0", 900),
        ("org/laststep2", None),
    ],
)
def test_the_training_step_is_read_off_the_name(model: str, step: int | None) -> None:
    assert step_of(model) == step


def test_they_come_from_everywhere_once_and_in_order(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-9.txt").touch()
    listing = tmp_path / "list.txt"
    listing.write_text(f"# mine\n\norg/model\n  {tmp_path}/checkpoint-20 \n", encoding="utf-8")
    found = gather(
        ["org/first", str(tmp_path / "x" / ".." / "checkpoint-3")], str(tmp_path / "check*"), listing
    )
    # What is nowhere keeps the name that it was given.
    nowhere = str(tmp_path / "x" / ".." / "checkpoint-3")
    assert found[:2] == ["org/first", nowhere]
    assert found[2:-1] == [str(tmp_path / f"checkpoint-{step}") for step in (3, 20, 100)]
    assert found[-1] == "org/model"


def test_a_collection_on_the_hub_gives_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [
        SimpleNamespace(item_id=name, item_type=kind) for name, kind in (("o/m", "model"), ("o/d", "dataset"))
    ]
    monkeypatch.setattr("huggingface_hub.get_collection", lambda name: SimpleNamespace(items=items))
    assert gather(collection="o/c-1") == ["o/m"]
    items.pop(0)
    with pytest.raises(AuditError, match="holds no model"):
        gather(collection="o/c-1")


def test_what_gives_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise OSError("no connection\nat all")

    monkeypatch.setattr("huggingface_hub.get_collection", fails)
    with pytest.raises(AuditError, match="no folder matches"):
        gather(pattern=str(tmp_path / "none-*"))
    with pytest.raises(AuditError, match="cannot be read"):
        gather(listing=tmp_path / "none.txt")
    with pytest.raises(AuditError, match=r"does not give 'o/c': no connection\. Check"):
        gather(collection="o/c")


def test_a_checkpoint_keeps_its_name_whoever_comes_later(tmp_path: Path) -> None:
    first = named(["/runs/b/checkpoint-10", "/runs/c/checkpoint-10"], tmp_path)
    assert [one.name for one in first] == ["checkpoint-10", "checkpoint-10-2"]
    later = named(["/runs/a/checkpoint-10", "/runs/c/checkpoint-10", "/runs/b/checkpoint-10"], tmp_path)
    assert later[0].name == "checkpoint-10-3"
    assert later[1:] == first[::-1]
    assert [one.step for one in later] == [10, 10, 10]
    assert Candidate("n", "/m").folder(tmp_path).parent == first[0].folder(tmp_path).parent


def llama(folder: Path, **config: Any) -> Checkpoint:
    """A Llama of a few bytes whose config.json may tell of another."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    tensors = {name: one.detach().clone().to(torch.bfloat16) for name, one in model.named_parameters()}
    return Checkpoint.open(write_checkpoint(folder, tensors, config=LLAMA | config))


def test_a_checkpoint_has_the_tensors_that_its_config_tells_of(tmp_path: Path) -> None:
    require_shapes(llama(tmp_path / "right"))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight \[32, 8\] instead of \[64, 8\]"):
        require_shapes(llama(tmp_path / "vocabulary", vocab_size=64))
    with pytest.raises(CheckpointError, match=r"layers\.2\.\S+, which is missing"):
        require_shapes(llama(tmp_path / "layers", num_hidden_layers=3))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight, which is missing"):
        require_shapes(llama(tmp_path / "head", tie_word_embeddings=False))


def test_checks_at_the_same_time_leave_the_default_dtype_as_it_was(tmp_path: Path) -> None:
    checkpoint = llama(tmp_path / "half", dtype="bfloat16")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(require_shapes, [checkpoint] * 64))
    assert torch.get_default_dtype() is torch.float32


def test_what_transformers_has_no_causal_model_for_is_left_to_the_engine(tmp_path: Path) -> None:
    config = {"model_type": "vit", "architectures": ["ViTModel"]}
    folder = write_checkpoint(tmp_path / "vit", {"w": torch.ones(2)}, config=config)
    require_shapes(Checkpoint.open(folder))
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")) == config
