"""A LoRA adapter adds what peft's own merge adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from visage_core.adapters import Adapter
from visage_core.checkpoints import Checkpoint, CheckpointError
from visage_core.perturb import Shift, perturbed

SMALL = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4, "lora_alpha": 8},
    "rank-stabilised": {"target_modules": "all-linear", "r": 4, "lora_alpha": 8, "use_rslora": True},
    "with patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"v_proj": 32},
    },
    "with embeddings": {"target_modules": ["embed_tokens", "o_proj", "lm_head"], "r": 4, "lora_alpha": 4},
}


def trained(folder: Path, **settings: Any) -> tuple[Checkpoint, Path, dict[str, torch.Tensor]]:
    """A model, an adapter of it with weights that are not zero, and the weights after peft has merged it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SMALL).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder / "adapter")
    merged = adapted.merge_and_unload()
    return Checkpoint.open(folder / "model"), folder / "adapter", dict(merged.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_at_one_it_is_what_peft_merges(tmp_path: Path, kind: str) -> None:
    base, adapter, merged = trained(tmp_path, **KINDS[kind])
    found = Adapter.open(adapter)
    found.require_fits(base, "adapter")
    assert all(found[name].shape == found.shape(name) for name in found)
    moved = dict(perturbed(base.weights, [Shift(1.0, found)], torch.bfloat16))
    changed = [name for name, tensor in moved.items() if not torch.equal(tensor, base.weights[name])]
    assert sorted(changed) == sorted(found)
    for name, tensor in moved.items():
        # peft rounds B A to bfloat16 before it adds it; here the sum alone is rounded.
        torch.testing.assert_close(tensor.float(), merged[name].float(), rtol=2**-7, atol=2**-7)


def test_beyond_one_it_goes_on_in_a_straight_line(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path, **KINDS["plain"])
    found = Adapter.open(adapter)
    name = next(iter(found))
    moved = dict(perturbed(base.weights, [Shift(2.5, found)], torch.float32))
    torch.testing.assert_close(moved[name], base.weights[name].float() + 2.5 * found[name])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "own weights too"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern"),
    ],
)
def test_what_is_no_sum_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    _, adapter, _ = trained(tmp_path, **KINDS["plain"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=told):
        Adapter.open(adapter)


def test_other_tensors_and_other_models_are_refused(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path, **KINDS["plain"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    first = next(name for name in tensors if "lora_A" in name)
    save_file(
        tensors | {"base_model.model.extra.weight": torch.ones(1)}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"no LoRA factors.*extra"):
        Adapter.open(adapter)
    other = {name.replace("layers.0", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(other, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.7"):
        Adapter.open(adapter).require_fits(base, "adapter")
    save_file(
        {name: t for name, t in tensors.items() if name != first}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match="no LoRA factors"):
        Adapter.open(adapter)


def test_a_pickled_adapter_is_not_read(tmp_path: Path) -> None:
    _, adapter, _ = trained(tmp_path, **KINDS["plain"])
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        Adapter.open(adapter)
