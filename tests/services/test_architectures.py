"""Moved weights are the perturbed checkpoint's in architectures that vLLM packs in different ways."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.services.engine_process import answers
from tests.services.plans import axes
from visage_core.checkpoints import Checkpoint
from visage_core.perturb import Shift, perturbed
from visage_core.prompts import load_prompts, render
from visage_core.spec import EngineSpec, GenerationSpec, PromptSpec

ENGINE = EngineSpec(max_model_len=256, kv_cache_gib=1)
GENERATION = GenerationSpec(max_tokens=16)
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
ARCHITECTURES = {
    "llama-untied-sharded": {"model_type": "llama", "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "tie_word_embeddings": False, "sliding_window": None},
    "qwen2-tied-with-biases": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3-with-head-norms": {"model_type": "qwen3", "tie_word_embeddings": False},
    "gemma-tied": {"model_type": "gemma", "tie_word_embeddings": True},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_moved_engine_is_the_perturbed_checkpoint(name: str, aligned: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(aligned)
    model = random_model(name, tokenizer, tmp_path / "model")
    base = Checkpoint.open(model)
    (direction,) = axes(model, axis={"direction": {"seeds": [3]}}).of(3)
    prompts = render(tokenizer, load_prompts(PromptSpec(source="benign", limit=12)).prompts, "none")
    moved = answers(model, prompts, ENGINE, GENERATION, [(direction, 0.4)])
    weights = dict(perturbed(base, [Shift(0.4, direction.open())], torch.bfloat16))
    written = shutil.copytree(
        model, tmp_path / "written", ignore=shutil.ignore_patterns("*.safetensors", "*.index.json")
    )
    save_file(weights, written / "model.safetensors", metadata={"format": "pt"})
    assert moved == answers(written, prompts, ENGINE, GENERATION)
    assert moved != answers(model, prompts, ENGINE, GENERATION)


def random_model(name: str, tokenizer: object, folder: Path) -> Path:
    """A checkpoint of random weights, large enough that no two tokens are about equally likely."""
    settings = SMALL | ARCHITECTURES[name] | {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    config = AutoConfig.for_model(**settings, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    shard = "5MB" if name.endswith("sharded") else "1GB"
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder
