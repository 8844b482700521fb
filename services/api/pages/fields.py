"""The fields of the form to submit a landscape, each named by its place in the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from visage_core.spec import (
    AdapterDirection,
    Axis,
    EngineSpec,
    GenerationSpec,
    InterpolationDirection,
    LandscapeSpec,
    PromptSpec,
    RandomDirection,
    field_path,
)

Kind = Literal["text", "number", "select", "checkbox"]


@dataclass(frozen=True)
class Field:
    """A field: what it is called, what it means, and what it is unless changed. `choices` names a list of the
    page's, `only` the kind of direction that it belongs to."""

    name: str
    label: str
    meaning: str
    kind: Kind = "text"
    default: str = ""
    choices: str = ""
    only: str = ""


@dataclass(frozen=True)
class Message:
    """What is wrong at a field of the form; of none where `field` is empty. `path` is the spec's."""

    field: str
    path: str
    text: str


def _of(part: type[BaseModel], name: str) -> str:
    return part.model_fields[name].description or ""


def _default(part: type[BaseModel], name: str) -> str:
    return str(part.model_fields[name].default)


SECTIONS: dict[str, list[Field]] = {
    "The model": [
        Field("model", "Model", _of(LandscapeSpec, "model"), choices="models"),
        Field("label", "Label", "To find the job by; may be left empty."),
        Field("priority", "Priority", "From -10 to 10; higher ones go first.", "number", "0"),
    ],
    "Where to measure": [
        Field(
            "axis.direction.kind",
            "Direction",
            "What the weights move along.",
            "select",
            "random",
            choices="directions",
        ),
        Field(
            "axis.direction.seeds",
            "Seeds",
            _of(RandomDirection, "seeds") + " Separated by commas.",
            default="0, 1, 2",
            only="random",
        ),
        Field(
            "axis.direction.to",
            "To the model",
            _of(InterpolationDirection, "to"),
            choices="models",
            only="interpolation",
        ),
        Field("axis.direction.adapter", "Adapter", _of(AdapterDirection, "adapter"), only="adapter"),
        Field("axis.low", "From", _of(Axis, "low"), "number"),
        Field("axis.high", "To", _of(Axis, "high"), "number"),
        Field("axis.points", "Points", _of(Axis, "points"), "number", _default(Axis, "points")),
        Field("plane", "A plane", "With a second random axis, of as many points.", "checkbox"),
        Field("adaptive", "Adaptive", _of(LandscapeSpec, "adaptive"), "checkbox"),
    ],
    "What to ask": [
        Field(
            "prompts.0.source",
            "Prompts",
            _of(PromptSpec, "source"),
            default=_default(PromptSpec, "source"),
            choices="prompts",
        ),
        Field(
            "prompts.0.limit",
            "How many",
            "Use the first so many prompts; empty for all of them.",
            "number",
            _default(PromptSpec, "limit"),
        ),
        Field(
            "prompts.0.system",
            "System prompt",
            _of(PromptSpec, "system"),
            default=_default(PromptSpec, "system"),
            choices="systems",
        ),
        Field(
            "benign", "Harmless requests too", "The set benign, to see which of them are refused.", "checkbox"
        ),
        Field(
            "facts", "Questions too", "The multiple-choice set facts, to see what it still knows.", "checkbox"
        ),
    ],
    "How to answer and judge": [
        Field(
            "judges.0",
            "Judge",
            "What decides whether a response complied.",
            "select",
            "keyword-paper",
            choices="judges",
        ),
        Field(
            "generation.max_tokens",
            "Longest response",
            "In tokens.",
            "number",
            _default(GenerationSpec, "max_tokens"),
        ),
        Field(
            "engine.max_model_len",
            "Longest prompt and response",
            "Together, in tokens.",
            "number",
            _default(EngineSpec, "max_model_len"),
        ),
        Field(
            "basin_threshold",
            "Edge of the basin",
            _of(LandscapeSpec, "basin_threshold"),
            "number",
            f"{LandscapeSpec.model_fields['basin_threshold'].default:g}",
        ),
        Field("keep_responses", "Keep the responses", _of(LandscapeSpec, "keep_responses"), "checkbox"),
    ],
}
FIELDS = {field.name: field for fields in SECTIONS.values() for field in fields}


def values_of(values: Mapping[str, str]) -> dict[str, str]:
    """What stands in the form: what is given, and the defaults."""
    return {name: field.default for name, field in FIELDS.items()} | {"by": "fields"} | dict(values)


def document_of(values: Mapping[str, str]) -> dict[str, Any]:
    """The spec that the fields describe, not checked yet."""
    kind = values["axis.direction.kind"]
    direction: dict[str, Any] = {"kind": kind}
    for field in FIELDS.values():
        if field.only == kind:
            direction[field.name.rpartition(".")[2]] = values[field.name].strip()
    if kind == "random":
        direction["seeds"] = [_number(seed) for seed in direction["seeds"].replace(",", " ").split()]
    axis: dict[str, Any] = {"direction": direction}
    axis |= {name: values[f"axis.{name}"] for name in ("low", "high", "points") if values[f"axis.{name}"]}
    prompts = {name: values[f"prompts.0.{name}"] for name in ("source", "system")}
    asked: list[dict[str, Any]] = [prompts | {"limit": values["prompts.0.limit"] or None}]
    asked += [{"kind": "requests", "source": "benign"}] * bool(values["benign"])
    asked += [{"kind": "choices", "source": "facts"}] * bool(values["facts"])
    document: dict[str, Any] = {
        "model": values["model"].strip(),
        "axis": axis,
        "adaptive": bool(values["adaptive"]),
        "prompts": asked,
        "judges": [values["judges.0"]],
        "generation": _given(values, "generation.max_tokens"),
        "engine": _given(values, "engine.max_model_len"),
        "keep_responses": bool(values["keep_responses"]),
    }
    document |= _given(values, "basin_threshold")
    if values["plane"]:
        own = direction if kind == "random" else {"kind": "random", "seeds": [0]}
        document["second_axis"] = {"direction": own} | (
            {name: value for name, value in axis.items() if name != "direction"} if kind == "random" else {}
        )
    return document


def messages(error: ValidationError) -> list[Message]:
    """All that is wrong with a request, each at its field."""
    found = []
    for one in error.errors(include_url=False, include_input=False):
        path = ".".join(field_path(one["loc"])).removeprefix("spec.")
        text = "there is no such field" if one["type"] == "extra_forbidden" else one["msg"]
        found.append(Message(field_of(path), path, text.removeprefix("Value error, ")))
    return found


def field_of(path: str) -> str:
    """The field of the form at which something of the spec is said; empty where there is none."""
    path = path.removeprefix("spec.")
    if path in FIELDS:
        return path
    above = (name for name in FIELDS if path.startswith(f"{name}."))
    below = sorted(
        (name for name in reversed(FIELDS) if name.startswith(f"{path}.") and not FIELDS[name].only),
        key=lambda name: name.count("."),
    )
    return next(above, next(iter(below), ""))


def _given(values: Mapping[str, str], name: str) -> dict[str, str]:
    return {name.rpartition(".")[2]: values[name]} if values[name] else {}


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text
