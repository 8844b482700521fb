"""Moved weights are the perturbed checkpoint's in architectures that vLLM packs in different ways."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.services.engine_process import Place, Steps, answers
from tests.services.plans import axes
from visage_core.checkpoints import Checkpoint
from visage_core.grid import Point
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


# A direction of each kind and norm, and how far along it. $other, $third and $adapter are made in the test.
DIRECTIONS: dict[str, tuple[dict[str, Any], float]] = {
    "random": ({"seeds": [3]}, 0.4),
    "random by row": ({"seeds": [3], "norm": "filter"}, 0.4),
    "random by all weights": ({"seeds": [3], "norm": "global"}, 0.4),
    "random as it is": ({"seeds": [3], "norm": "none"}, 0.08),
    "random in a part": ({"seeds": [3], "only": ["attention"], "leave_out": ["layers:0"]}, 2.0),
    "combination": ({"seeds": [4, 5], "weights": [0.6, -0.8], "norm": "filter"}, 0.4),
    "interpolation": ({"to": "$other"}, 0.3),
    "difference": ({"start": "$third", "end": "$other"}, 0.3),
    "adapter": ({"adapter": "$adapter"}, 1.5),
    "file": ({"file": "$file", "norm": "layer"}, -0.4),
}


Responses = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def responses(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Responses, Responses]:
    """For each architecture the responses of two engines. One is moved along every kind of direction, from
    the origin on; the other is started on the first of the perturbed checkpoints, as they were written, and
    then given the others as its checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(aligned)
    prompts = render(tokenizer, load_prompts(PromptSpec(source="benign", limit=12)).prompts, "none")
    walks: list[list[Place]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISAGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ARCHITECTURES:
            walks += walks_of(name, tokenizer, tmp_path_factory.mktemp(name))
        found = answers(walks, prompts, ENGINE, GENERATION)
    return dict(zip(ARCHITECTURES, found[::2], strict=True)), dict(
        zip(ARCHITECTURES, found[1::2], strict=True)
    )


def walks_of(name: str, tokenizer: Any, folder: Path) -> list[list[Place]]:
    """The places that the two engines visit."""
    model, other, third = (random_model(name, tokenizer, folder / str(seed), seed) for seed in range(3))
    named = {"other": other, "third": third, "adapter": adapter(model, folder), "file": file(model, folder)}
    moved, written = [], []
    for number, (direction, far) in enumerate(DIRECTIONS.values()):
        settings = {
            field: str(named[value[1:]]) if str(value).startswith("$") else value
            for field, value in direction.items()
        }
        steps = axes(model, axis={"direction": settings}).steps(Point(3, far))
        moved.append((model, steps))
        written.append((perturbed_checkpoint(model, steps, folder / f"written-{number}"), []))
    return [[(model, []), *moved], written]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_moved_engine_is_the_perturbed_checkpoint(
    name: str, responses: tuple[Responses, Responses]
) -> None:
    (origin, *moved), written = (one[name] for one in responses)
    for kind, here, there in zip(DIRECTIONS, moved, written, strict=True):
        assert here == there, kind
        assert here != origin, f"{kind} did not move"


def perturbed_checkpoint(model: Path, steps: Steps, folder: Path) -> Path:
    """The weights some steps away from a model, as a checkpoint."""
    shifts = [Shift(value, source.open(), source.endpoint) for source, value in steps]
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    weights = dict(perturbed(Checkpoint.open(model).weights, shifts, torch.bfloat16))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_model(name: str, tokenizer: Any, folder: Path, seed: int) -> Path:
    """A checkpoint of random weights, large enough that no two tokens are about equally likely."""
    settings = SMALL | ARCHITECTURES[name] | {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    config = AutoConfig.for_model(**settings, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    shard = "5MB" if name.endswith("sharded") else "1GB"
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def adapter(model: Path, folder: Path) -> Path:
    """A LoRA adapter of a model, as peft writes it."""
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), settings)
    for part, parameter in adapted.named_parameters():
        if "lora_" in part:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder / "adapter")
    return folder / "adapter"


def file(model: Path, folder: Path) -> Path:
    """A direction of two tensors of a model."""
    shapes = {name: info.shape for name, info in Checkpoint.open(model).tensors.items()}
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.k_proj.weight"]
    save_file({name: torch.randn(shapes[name]) for name in names}, folder / "file.safetensors")
    return folder / "file.safetensors"
