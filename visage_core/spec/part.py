"""What all parts of a spec have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from visage_core.errors import InputError


class SpecError(InputError):
    """A job description that cannot be run."""


class Part(BaseModel):
    """A part of a spec: immutable, and unknown fields are refused rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
