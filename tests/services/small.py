"""Llamas of a few bytes with the demo model's tokenizer: whole checkpoints, but for what a test breaks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.checkpoints import write_checkpoint

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 49_152,
    "max_position_embeddings": 2_048,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
NORM = "model.norm.weight"


def small(folder: Path, tokenizer: Path, seed: int = 0, shards: int = 1, **config: Any) -> Path:
    """Write a small model with random weights, beside the tokenizer of the model in another folder."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(CONFIG | config)))
    tensors = {name: one.detach().to(torch.bfloat16).clone() for name, one in model.named_parameters()}
    write_checkpoint(folder, tensors, shards, CONFIG | config)
    for file in tokenizer.iterdir():
        if file.name.startswith(("tokenizer", "chat_template", "generation_config")):
            shutil.copy(file, folder)
    return folder


def change(folder: Path, name: str, value: float, dtype: torch.dtype | None = None) -> Path:
    """Put a value into a tensor of a model, in another dtype if one is given."""
    index = folder / "model.safetensors.index.json"
    shard = json.loads(index.read_text())["weight_map"][name] if index.exists() else "model.safetensors"
    tensors = {key: one.clone() for key, one in load_file(folder / shard).items()}
    tensors[name] = tensors[name].to(dtype or tensors[name].dtype)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / shard)
    return folder
