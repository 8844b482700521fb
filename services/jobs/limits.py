"""What a key may have under way at a time."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """The most that a key's unfinished jobs may add up to. One job alone may not be larger either."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jobs: int = Field(default=1_000, ge=0, description="Unfinished jobs.")
    points: int = Field(default=200_000, ge=0, description="Points of all of them.")
    prompts: int = Field(default=20_000_000, ge=0, description="Prompts to answer at all points.")
    tokens: int = Field(
        default=10_000_000_000, ge=0, description="The most tokens that the answers may have."
    )
