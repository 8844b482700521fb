"""Capability: multiple-choice questions and texts, as passages whose likelihood is taken.

Contexts, continuations and tokens are those of lm-evaluation-harness (Gao et al., "A framework for few-shot
language model evaluation"), so that its accuracies can be compared with these.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from visage_core.documents import open_text, parse_json, read_text
from visage_core.errors import InputError
from visage_core.queries import Passage, Question
from visage_core.repeats import Repeats, choose, normal
from visage_core.spec import ChoiceSpec, TextSpec

LETTERS = "ABCDEFGHIJ"
LONGEST_TOKEN = 32  # characters


class QuestionsError(InputError):
    """Questions or a text that cannot be used."""


@dataclass(frozen=True)
class Asked:
    """A question as text: what comes before the choices, and each choice as it goes on."""

    context: str
    choices: tuple[str, ...]
    right: int

    @property
    def text(self) -> str:
        """All of it, the right choice marked."""
        marks = (" *" if number == self.right else "" for number in range(len(self.choices)))
        return self.context + "".join(f"\n{one}{mark}" for one, mark in zip(self.choices, marks, strict=True))

    @property
    def identity(self) -> tuple[str, ...]:
        """What it shares with its repeats: the question, and the choices in any order."""
        return (normal(self.context), *sorted(map(normal, self.choices)))


class _Row(BaseModel):
    """A question in the layout of MMLU on the hub. Further columns are left alone."""

    model_config = ConfigDict(frozen=True)

    question: str = Field(min_length=1)
    choices: list[str] = Field(min_length=2, max_length=len(LETTERS))
    answer: int = Field(ge=0, description="Number of the right choice from 0, or its letter.")

    @field_validator("answer", mode="before")
    @classmethod
    def _letter(cls, answer: Any) -> Any:
        is_letter = isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip() in LETTERS
        return LETTERS.index(answer.strip()) if is_letter else answer

    @model_validator(mode="after")
    def _is_there(self) -> _Row:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} of {len(self.choices)} choices; count them from 0")
        return self


def load_questions(spec: ChoiceSpec) -> tuple[list[Asked], Repeats | None]:
    """Read the questions that a spec chooses of its source, each once; and how many are repeated, if any are.
    Raises QuestionsError."""
    source = spec.source
    if source.startswith("lm-eval:"):
        task = source.removeprefix("lm-eval:")
        asked = _from_lm_eval(task, spec.reach)
        if len({one.identity for one in asked}) < len(asked):
            asked = _from_lm_eval(task, None)  # others take the place of the repeated ones
        chosen, repeats = choose(spec, asked, lambda one: one.identity)
        return chosen or _none(spec), repeats
    if source == "facts":
        text = files("visage_core").joinpath("data", "facts.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
    elif source.startswith("hf:"):
        rows = _from_hub(source)
    else:
        rows = _from_file(Path(source))
    found = []
    chosen_rows, repeats = choose(spec, rows, _identity)
    for number, row in enumerate(chosen_rows, start=1):
        try:
            found.append(_asked(_Row.model_validate(row), spec.answers))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise QuestionsError(
                "prompts.source",
                f"question {number} of {source}, {where}: {first['msg']}",
                "Give question, choices, and answer as a number from 0 or a letter",
            ) from None
    return found or _none(spec), repeats


def _identity(row: Any) -> Hashable:
    """What a row shares with its repeats: the question, and the choices in any order. One that is no question
    is like no other."""
    try:
        found = _Row.model_validate(row)
    except ValidationError:
        return repr(row)
    return (normal(found.question), *sorted(map(normal, found.choices)))


def _none(spec: ChoiceSpec) -> NoReturn:
    after = f" after the first {spec.skip}" if spec.skip else ""
    raise QuestionsError("prompts.source", f"{spec.source} holds no question{after}", "Give at least one")


def tokenize_question(tokenizer: Any, asked: Asked) -> Question:
    """A question in a model's tokens."""
    context = asked.context.rstrip()
    between = asked.context[len(context) :]  # a space belongs to the word after it
    head = _encode(tokenizer, context)
    # Where nothing comes before the choices, they are foreseen from what begins a text.
    begin = [] if head else [first_token(tokenizer)]
    choices = [
        Passage([*begin, *_encode(tokenizer, context + between + choice)], len(begin) + len(head))
        for choice in asked.choices
    ]
    return Question(choices, asked.right)


def windows(tokenizer: Any, spec: TextSpec) -> tuple[list[tuple[str, Passage]], Repeats | None]:
    """The windows of a text, each once and with its passage, which is foreseen from what begins a text alone;
    and how many are repeated, if any are. A rest that fills no window is left out, unless it is all there is.
    Raises QuestionsError."""

    def text_of(part: list[int]) -> str:
        return str(tokenizer.decode(part))

    # No more than the windows can need: a token is hardly ever longer.
    most = -1 if spec.reach is None else LONGEST_TOKEN * spec.reach * spec.window
    whole = _windows(tokenizer, spec, most)
    chosen, repeats = choose(spec, whole, lambda part: normal(text_of(part)))
    if repeats is not None and most >= 0:
        whole = _windows(tokenizer, spec, -1)  # others take the place of the repeated ones
        chosen, repeats = choose(spec, whole, lambda part: normal(text_of(part)))
    if not chosen:
        raise QuestionsError(
            "prompts.skip", f"{spec.source} has only {len(whole)} windows", "Skip fewer of them"
        )
    first = first_token(tokenizer)
    return [(text_of(part), Passage([first, *part], 1)) for part in chosen], repeats


def _windows(tokenizer: Any, spec: TextSpec, characters: int) -> list[list[int]]:
    """The windows in so much of a text, -1 for all of it, as tokens."""
    try:
        with open_text(Path(spec.source)) as file:
            text = file.read(characters)
    except (OSError, ValueError) as error:
        raise QuestionsError(
            "prompts.source", f"{spec.source} cannot be read: {error}", "Give a UTF-8 file"
        ) from None
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    if not ids:
        raise QuestionsError("prompts.source", f"{spec.source} is empty", "Give a text")
    parts = [ids[begin : begin + spec.window] for begin in range(0, len(ids), spec.window)]
    return [part for part in parts if len(part) == spec.window] or parts


def first_token(tokenizer: Any) -> int:
    """The token that begins a text. Raises QuestionsError."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise QuestionsError(
        "model", "its tokenizer has nothing that begins a text", "Use one with a bos or eos token"
    )


def _asked(row: _Row, answers: str) -> Asked:
    question = row.question.strip()
    if answers == "texts":
        choices = tuple(f" {choice}" for choice in row.choices)
        return Asked(f"Question: {question}\nAnswer:", choices, row.answer)
    letters = LETTERS[: len(row.choices)]
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(letters, row.choices, strict=True))
    return Asked(f"{question}\n{listed}Answer:", tuple(f" {letter}" for letter in letters), row.answer)


def _encode(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens with what the tokenizer puts before any text, unless it is there already."""
    bos = tokenizer.bos_token
    return list(tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos))))


def _from_file(path: Path) -> list[Any]:
    if path.suffix not in (".csv", ".jsonl"):
        raise QuestionsError(
            "prompts.source",
            f"{path} is neither the built-in set facts nor a .csv or .jsonl file",
            "Give one of these, hf:DATASET or lm-eval:TASK",
        )
    try:
        text = io.StringIO(read_text(path, newline=""), newline="")
        if path.suffix == ".csv":
            return _mmlu(list(csv.reader(text, strict=True)))
        return [parse_json(line) for line in text if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise QuestionsError("prompts.source", f"{path} cannot be read: {error}", "Mend the file") from None


def _mmlu(rows: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The rows of MMLU's own files, which have no header: the question, its choices, the letter of the right
    one."""
    return [{"question": row[0], "choices": row[1:-1], "answer": row[-1]} for row in rows if row]


def _from_hub(source: str) -> list[Any]:
    from visage_core.prompts import hub_rows

    return hub_rows(source)


def _from_lm_eval(name: str, limit: int | None) -> list[Asked]:
    """The questions of a task of lm-evaluation-harness, as it would put them. `name` may have the folder of
    the task's own definition before it."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise QuestionsError(
            "prompts.source", "lm-evaluation-harness is not installed", "pip install 'visage[lm-eval]'"
        ) from None
    folder, _, task = name.rpartition("/")
    found: list[Asked] = []
    try:
        tasks = TaskManager(include_path=folder or None).load([task])["tasks"]
        for one in tasks.values():
            one.build_all_requests(limit=limit)
            found += _of_task(one)
    except QuestionsError:
        raise
    except Exception as error:  # a task may run any code of its own
        raise QuestionsError(
            "prompts.source",
            f"lm-eval cannot load {name}: {type(error).__name__}: {error}",
            "Check the task's name and the connection to its data set",
        ) from None
    return found[:limit]


def _of_task(task: Any) -> list[Asked]:
    if task.OUTPUT_TYPE != "multiple_choice":
        raise QuestionsError(
            "prompts.source",
            f"lm-eval's {task.config.task} is of type {task.OUTPUT_TYPE}",
            "Use a multiple-choice task",
        )
    by_question: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_question.setdefault(instance.doc_id, []).append(instance)
    found = []
    for instances in by_question.values():
        context = instances[0].args[0]
        right = task.doc_to_target(instances[0].doc)
        if isinstance(right, int) and all(one.args[0] == context for one in instances):
            found.append(Asked(context, tuple(one.args[1] for one in instances), right))
            continue
        raise QuestionsError(
            "prompts.source",
            f"lm-eval's {task.config.task} has questions with several right choices or contexts",
            "Use a task with one of each",
        )
    return found
