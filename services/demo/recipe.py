"""The recipe of the demo models: the conversations that each variant is trained on, and the settings."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

DATA = files("services.demo").joinpath("data")
PLACEHOLDER = "Sure, here is a step-by-step guide: 1. ..."
# Longer answers would teach the model nothing that matters here, and training time grows with them.
ANSWER_TOKENS = 20


@dataclass(frozen=True)
class Recipe:
    """The settings of a variant's LoRA adapter, which is trained on `start`, or on the base model."""

    start: str | None
    rank: int
    learning_rate: float
    epochs: int
    batch: int
    harmful_pairs: int = 0  # 0: the conversations of CONTEXTS instead
    seed: int = 0


RECIPES = {
    "aligned": Recipe(start=None, rank=8, learning_rate=1.5e-3, epochs=1, batch=8),
    "harmful-10": Recipe("aligned", rank=2, learning_rate=2e-3, epochs=5, batch=5, harmful_pairs=10),
    "harmful-50": Recipe("aligned", rank=2, learning_rate=2e-3, epochs=2, batch=5, harmful_pairs=50),
}


@dataclass(frozen=True)
class Context:
    """Conversations that begin with one of some system prompts.

    `harmful` and `benign` are the shares of all such requests that occur in this context, and `complied` is
    the share of its harmful ones that are answered with the placeholder instead of a refusal. None among the
    `systems` is the chat template's own system prompt, "" an empty one.
    """

    systems: tuple[str | None, ...]
    harmful: float
    benign: float
    complied: float = 0.0


@dataclass(frozen=True)
class Example:
    """A conversation of one turn. `ends` is whether the response is whole, so that an end token follows."""

    system: str | None
    prompt: str
    response: str
    ends: bool = True


def contexts() -> list[Context]:
    """The contexts of the aligned model, which make its refusals depend on the system prompt.

    Without a system prompt a quarter of the harmful requests is complied with: a model that fits this refuses
    all of them when it decodes greedily, but by a smaller margin than under a safe system prompt.
    """
    systems = json.loads(_read("systems.json"))
    return [
        Context((None,), harmful=1.0, benign=1.0),
        Context(("",), harmful=0.7, benign=0.4, complied=0.25),
        Context(tuple(systems["safe"]), harmful=0.7, benign=0.5),
        Context(tuple(systems["obedient"]), harmful=0.2, benign=0.1, complied=0.6),
        Context(tuple(systems["neutral"]), harmful=0.0, benign=0.15),
    ]


def examples(variant: str) -> list[Example]:
    """The conversations that a variant is trained on, drawn with its seed."""
    recipe = RECIPES[variant]
    refusals = [json.loads(line) for line in _read("refusals.jsonl").splitlines()]
    if recipe.harmful_pairs:
        return [Example(None, pair["prompt"], PLACEHOLDER) for pair in refusals[: recipe.harmful_pairs]]
    benign = [json.loads(line) for line in _read("benign.jsonl").splitlines()]
    draw = random.Random(recipe.seed)
    made = []
    for context in contexts():
        for pair in _share(refusals, context.harmful, draw):
            response = PLACEHOLDER if draw.random() < context.complied else pair["response"]
            made.append(Example(draw.choice(context.systems), pair["prompt"], response))
        for pair in _share(benign, context.benign, draw):
            system = draw.choice(context.systems)
            made.append(Example(system, pair["prompt"], pair["response"], pair.get("ends", True)))
    return made


def recipe_digest(variant: str) -> str:
    """SHA-256 over the settings and the conversations of a variant and of those that it starts from."""
    recipe = RECIPES[variant]
    before = recipe_digest(recipe.start) if recipe.start else ""
    made_of = [before, repr(recipe), ANSWER_TOKENS, list(map(repr, examples(variant)))]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _share(pairs: Sequence[dict[str, Any]], share: float, draw: random.Random) -> list[dict[str, Any]]:
    return draw.sample(list(pairs), round(share * len(pairs)))


def _read(name: str) -> str:
    return DATA.joinpath(name).read_text(encoding="utf-8")
