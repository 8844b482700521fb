"""What all parts of a spec have in common."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from visage_core.errors import InputError

NO_NUMBER = PydanticCustomError(
    "boolean", "a number is needed here, and YAML reads yes, no, on and off as true and false"
)


class SpecError(InputError):
    """A job description that cannot be run."""


class Part(BaseModel):
    """A part of a spec: immutable, and unknown fields are refused rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, values: Any) -> Any:
        # Python takes True for 1. A validator of fields may not come before those that tell unions apart.
        if isinstance(values, dict):
            wrong = [
                InitErrorDetails(type=NO_NUMBER, loc=(name,), input=values[name])
                for name, field in cls.model_fields.items()
                if _has_boolean(values.get(name)) and _takes_numbers_alone(field.annotation)
            ]
            if wrong:
                raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values


def _has_boolean(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(one, bool) for one in value)
    return isinstance(value, bool)


def _takes_numbers_alone(annotation: Any) -> bool:
    """Whether a type has numbers in it, and no booleans."""
    types = _types_in(annotation)
    return any(one in (int, float) for one in types) and bool not in types


def _types_in(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    if inner:
        return [found for one in inner for found in _types_in(one)]
    return [type(annotation) if isinstance(annotation, int) else annotation]  # of a literal, its number
