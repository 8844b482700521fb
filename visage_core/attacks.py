"""Attacks: the JSON files in which others publish jailbreaks, and texts that any request is put into.

Layouts: JailbreakBench's artifacts (Chao et al. 2024), logs of GCG as the llm-attacks code writes them (Zou
et al. 2023), tables of Weights & Biases, which is where PAIR's code (Chao et al. 2023) leaves its prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from visage_core.documents import parse_json
from visage_core.errors import InputError
from visage_core.spec import LONGEST_ATTACK, REQUEST

Row = dict[str, Any]


class AttackError(InputError):
    """An attack, or a file of attacks, that cannot be used."""


class _Artifact(BaseModel):
    jailbreaks: list[Row]


class _Table(BaseModel):
    columns: list[str]
    data: list[list[Any]]


class _Parameters(BaseModel):
    goals: list[str]
    # Runs for one suffix that fits all goals have it, runs with a suffix for each goal have not.
    progressive_goals: bool | None = None


class _Log(BaseModel):
    params: _Parameters
    controls: list[str] = Field(min_length=1)
    # What each control was tested on: by goal, and some sums.
    tests: list[Row] = []


class _Suffixes(BaseModel):
    """The collected suffixes that llm-attacks evaluates: one for each goal."""

    goal: list[str]
    controls: list[str]


def rows_of(text: str, source: str, field: str = "prompts.source") -> list[Row]:
    """The rows of a JSON document: those of a list, or the attacks of a published file as rows with `goal`
    and `prompt`, null where none was found. Raises AttackError."""
    try:
        document = parse_json(text)
    except ValueError:
        raise AttackError(field, f"{source} is no JSON file", "Mend the file") from None
    keys = set(document) if isinstance(document, dict) else set()
    try:
        if "jailbreaks" in keys:
            return _Artifact.model_validate(document).jailbreaks
        if {"goal", "controls"} <= keys:
            return _of_suffixes(_Suffixes.model_validate(document))
        if "controls" in keys:
            return _of_log(_Log.model_validate(document))
        if {"columns", "data"} <= keys:
            table = _Table.model_validate(document)
            return [dict(zip(table.columns, row, strict=True)) for row in table.data]
        return TypeAdapter(list[Row]).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input is an attack, which is not for a terminal
        where = ".".join(map(str, first["loc"])) or "the document"
        problem = f"{where}: {first['msg']}"
    except ValueError as error:
        problem = str(error)
    raise AttackError(
        field,
        f"{source} has none of the layouts of prompts or attacks; {problem}",
        "Give a list of rows, a JailbreakBench artifact, a log of GCG or a table of Weights & Biases",
    )


def template_in(text: str, path: Path) -> str:
    """The text with one {request} that an attack's file holds: a .txt file the text itself, a .json file
    attacks that are the same but for their goals. Raises AttackError."""
    if path.suffix == ".json":
        rows = rows_of(text, str(path), "prompts.attack")
        found = {
            _template(row.get("goal"), row.get("prompt")) for row in rows if row.get("prompt") is not None
        }
        text = found.pop() if len(found) == 1 else ""
        if not text:
            raise AttackError(
                "prompts.attack",
                f"{path} holds no single attack in which all goals stand in the same place",
                "Give attacks that are made for one request each as the source of the prompts",
            )
    else:
        text = text.removesuffix("\n")  # Editors end a file with it.
    if text.count(REQUEST) != 1 or len(text) > LONGEST_ATTACK:
        raise AttackError(
            "prompts.attack",
            f"{path} has {REQUEST} {text.count(REQUEST)} times in {len(text):,} characters",
            f"Give a text with it once, in at most {LONGEST_ATTACK:,} characters",
        )
    return text


def _template(goal: object, prompt: object) -> str:
    """A prompt with {request} in the place of its goal; "" where that is not in it, or more than once."""
    if not isinstance(goal, str) or not isinstance(prompt, str) or not goal or prompt.count(goal) != 1:
        return ""
    return prompt.replace(goal, REQUEST)


def _of_suffixes(found: _Suffixes) -> list[Row]:
    return [_row(goal, control) for goal, control in zip(found.goal, found.controls, strict=True)]


def _of_log(log: _Log) -> list[Row]:
    # GCG logs the best control so far: the last one is what a run came to.
    goals = log.params.goals
    if log.params.progressive_goals is not None or len(goals) == 1:
        return [_row(goal, log.controls[-1]) for goal in goals]
    if len(log.tests) != len(log.controls):
        raise ValueError("its tests do not tell which of its goals each control is for")
    last = {goal: control for control, tested in zip(log.controls, log.tests, strict=True) for goal in tested}
    return [_row(goal, last.get(goal)) for goal in goals]


def _row(goal: str, control: str | None) -> Row:
    # As the llm-attacks code joins the two.
    return {"goal": goal, "prompt": None if control is None else f"{goal} {control}"}
