"""Train the demo models' adapters again: `visage demo-model --retrain`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from services.demo.recipe import ANSWER_TOKENS, Example, Recipe, examples
from visage_core.errors import InputError

WARM_UP = 5  # steps until the learning rate is whole
SORTED_TOGETHER = 8  # batches whose examples are sorted by length, so that little of a batch is padding
# Called with the number of steps done and of all steps.
Progress = Callable[[int, int], None]
Tokens = tuple[list[int], int]


class TrainingError(InputError):
    """The adapters cannot be trained here."""


def train(
    variant: str, recipe: Recipe, start: Path, progress: Progress
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train a LoRA adapter of all linear layers of the checkpoint `start` on a variant's conversations.

    AdamW in float32, on the tokens of the answers alone; the learning rate warms up linearly and then falls
    linearly to a tenth. Returns the adapter's tensors in bfloat16 and its configuration, as PEFT names them.
    Raises TrainingError where PEFT is not installed.
    """
    try:
        import peft
    except ImportError:
        raise TrainingError("retrain", "it needs the package peft", "pip install peft") from None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    config = peft.LoraConfig(
        r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(model, config)
    conversations = [_tokens(tokenizer, example) for example in examples(variant)]
    batches = list(_batches(conversations, recipe))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, weight_decay=0.0)
    model.train()
    progress(0, len(batches))
    for step, batch in enumerate(batches, start=1):
        decay = 1.0 - 0.9 * max(0, step - WARM_UP) / max(1, len(batches) - WARM_UP)
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * min(1.0, step / WARM_UP) * decay
        _loss(model, batch, tokenizer.pad_token_id).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        progress(step, len(batches))
    tensors = peft.get_peft_model_state_dict(adapted)
    written = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    return written, _plain(config)


def _loss(model: Any, batch: list[Tokens], pad: int) -> torch.Tensor:
    """The mean cross-entropy of the answers' tokens of a batch."""
    width = max(len(tokens) for tokens, _ in batch)
    ids = torch.full((len(batch), width), pad)
    answers = torch.zeros((len(batch), width), dtype=torch.bool)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for row, (tokens, begin) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        answers[row, begin : len(tokens)] = True
        mask[row, : len(tokens)] = 1
    # The output layer is a fifth of the work, and only the answers need it.
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][answers[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, ids[answers])


def _tokens(tokenizer: Any, example: Example) -> Tokens:
    """A conversation's token ids, and where the answer begins among them."""
    system = [] if example.system is None else [{"role": "system", "content": example.system}]
    chat = [*system, {"role": "user", "content": example.prompt}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    response = example.response + tokenizer.eos_token * example.ends
    answer = tokenizer.encode(response, add_special_tokens=False)
    return prompt + answer[:ANSWER_TOKENS], len(prompt)


def _batches(conversations: list[Tokens], recipe: Recipe) -> Iterator[list[Tokens]]:
    """All conversations once an epoch, in a random order, those of similar length in the same batch."""
    draw = random.Random(recipe.seed)
    for _ in range(recipe.epochs):
        shuffled = draw.sample(conversations, len(conversations))
        for first in range(0, len(shuffled), SORTED_TOGETHER * recipe.batch):
            some = sorted(
                shuffled[first : first + SORTED_TOGETHER * recipe.batch], key=lambda one: len(one[0])
            )
            batches = [some[i : i + recipe.batch] for i in range(0, len(some), recipe.batch)]
            draw.shuffle(batches)
            yield from batches


def _plain(config: Any) -> dict[str, Any]:
    """Return the fields of a PEFT configuration that adapter_config.json needs."""
    names = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "bias", "init_lora_weights")
    found = {name: value for name, value in config.to_dict().items() if name in names}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}
