"""Specs from JSON or YAML, and errors that say what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from visage_core.documents import read_yaml
from visage_core.spec.axes import BRANCHES
from visage_core.spec.judges import JUDGING
from visage_core.spec.landscape import LandscapeSpec
from visage_core.spec.part import SpecError
from visage_core.spec.prompts import ASKED


def parse_spec(values: object) -> LandscapeSpec:
    """Make a spec of decoded JSON or YAML. Raises SpecError naming the field, its value and the remedy."""
    try:
        return LandscapeSpec.model_validate(values)
    except ValidationError as error:
        raise spec_error(error) from None


def field_path(location: Sequence[int | str]) -> list[str]:
    """A field's path from where pydantic says it is, which names the branch of a union it took, too."""
    pairs = zip(("", *location), location, strict=False)
    return [
        str(part)
        for before, part in pairs
        if not (
            (before == "direction" and part in BRANCHES)
            or (isinstance(before, int) and part in ASKED | JUDGING)
        )
    ]


def spec_error(error: ValidationError, command: str = "visage spec") -> SpecError:
    """What pydantic found first, with its field, its value and the remedy: the command that prints the
    fields."""
    first = error.errors()[0]
    path = field_path(first["loc"])
    seen = first["input"]
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        problem = "there is no such field"
    elif first["type"] == "missing":
        problem = "is missing"
    elif not isinstance(seen, dict | BaseModel):
        problem += f", got {seen!r}"
    more = f" ({error.error_count() - 1} more like it)" if error.error_count() > 1 else ""
    return SpecError(
        ".".join(path) or "spec",
        problem + more,
        f"`{command}` prints every field with its meaning and default",
    )


def parse_experiment(values: object) -> list[LandscapeSpec]:
    """The specs of a document: one, or with `models` in the place of `model` one for each of them. Raises
    SpecError."""
    if not isinstance(values, dict) or "models" not in values:
        return [parse_spec(values)]
    models = values["models"]
    if "model" in values:
        raise SpecError("models", "both model and models are given", "Give one of them")
    if not isinstance(models, list) or len(models) < 2 or len(set(map(str, models))) != len(models):
        raise SpecError("models", f"{models!r} are not several models", "Give a list of two or more")
    rest = {name: value for name, value in values.items() if name != "models"}
    return [parse_spec(rest | {"model": model}) for model in models]


def read_spec(path: Path, field: str = "spec") -> dict[str, Any]:
    """The document of a JSON or YAML file, not checked yet. Raises SpecError, of the field that names it."""
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise SpecError(field, f"{path} does not exist", "Name a JSON or YAML file") from None
    except (OSError, ValueError) as error:
        raise SpecError(field, f"{path} cannot be read: {error}", "Give valid JSON or YAML") from None
    if not isinstance(values, dict):
        example = "model: PATH" if field == "spec" else "name: NAME"
        raise SpecError(field, f"{path} holds no settings", f"Give a document such as `{example}`")
    return values


def load_spec(path: Path) -> LandscapeSpec:
    """Read a spec from a JSON or YAML file. Raises SpecError."""
    return parse_spec(read_spec(path))


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested documents, a line each: `axis.points: 21 -> 11`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines
