"""Where to measure: what the weights move along, and how far."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from visage_core.selection import Selection
from visage_core.spec.part import Part

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Norm = Literal["layer", "filter", "global", "none"]
Parts = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]


class Movement(Part):
    """Which tensors a direction moves: those that `only` names (all, where it is empty), without those that
    `leave_out` names."""

    # The fields that name files: a kind of direction that needs none has none.
    FILES: ClassVar[tuple[str, ...]] = ()

    only: Parts = Field(
        default=(),
        description="Move these tensors alone: attention, mlp, embeddings, lm_head, norms, biases, "
        "layers:FIRST-LAST, or patterns such as *.q_proj.*; empty for all.",
    )
    leave_out: Parts = Field(default=(), description="Leave these as they are, named as in `only`.")

    @property
    def selection(self) -> Selection:
        """The tensors that move."""
        return Selection(self.only, self.leave_out)

    @property
    def label(self) -> str:
        """What to call it in a figure; nothing where it is random."""
        return " to ".join(Path(getattr(self, field)).name for field in self.FILES)

    @property
    def ends_at_model(self) -> bool:
        """Whether coordinate 1 is the very model that its files make: all of it moves, as far as they say."""
        whole = self.selection == Selection() and getattr(self, "norm", "none") == "none"
        return whole and kind_of(self) in MODEL_AT_ONE


class RandomDirection(Movement):
    """Gaussian directions, rescaled to the size of the weights (paper, section 3)."""

    kind: Literal["random"] = "random"
    seeds: tuple[Seed, ...] = Field(
        default=(0, 1, 2), min_length=1, description="One direction, and so one curve, for each seed."
    )
    norm: Norm = Field(
        default="layer",
        description="Rescale each tensor (layer) or each of its rows (filter) to the norm of the weights "
        "there, or all of it to the norm of all weights that move (global); or not (none).",
    )
    leave_out: Parts = Field(
        default=("norms",), description="Leave these as they are, named as in `only`: norms unless given."
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} repeat; give each seed once")
        return seeds


class InterpolationDirection(Movement):
    """The straight line from the model (0) to another checkpoint of the same shape (1)."""

    FILES = ("to",)
    kind: Literal["interpolation"] = "interpolation"
    to: str = Field(min_length=1, description="Path or hub id of the checkpoint at coordinate 1.")


class AdapterDirection(Movement):
    """What a LoRA adapter adds to the model's weights: at 1 it is merged, beyond it is more than that."""

    FILES = ("adapter",)
    kind: Literal["adapter"] = "adapter"
    adapter: str = Field(min_length=1, description="Path or hub id of a PEFT LoRA adapter of the model.")


class DifferenceDirection(Movement):
    """From one checkpoint to another, added to the model: a task vector, or the step from a base model to
    its aligned one."""

    FILES = ("start", "end")
    kind: Literal["difference"] = "difference"
    start: str = Field(min_length=1, description="Path or hub id of the checkpoint that is subtracted.")
    end: str = Field(min_length=1, description="Path or hub id of the checkpoint that is added.")
    norm: Norm = Field(default="none", description="Rescale it as random directions are; none leaves it.")

    @property
    def label(self) -> str:
        """What to call it in a figure."""
        return f"{Path(self.end).name} − {Path(self.start).name}"


class FileDirection(Movement):
    """The tensors of a file, by the names of the model's; tensors that it lacks do not move."""

    FILES = ("file",)
    kind: Literal["file"] = "file"
    file: str = Field(
        min_length=1,
        pattern=r"\.safetensors$",
        description="A safetensors file; `visage import-direction` makes one of the paper's dirs*.pt.",
    )
    norm: Norm = Field(default="none", description="Rescale it as random directions are; none leaves it.")


class CombinationDirection(Movement):
    """A weighted sum of the Gaussian values of several seeds, rescaled as one random direction is."""

    kind: Literal["combination"] = "combination"
    seeds: tuple[Seed, ...] = Field(min_length=1, max_length=64, description="What is added up.")
    weights: tuple[float, ...] = Field(min_length=1, description="The share of each seed.")
    norm: Norm = Field(default="layer", description="As of random directions.")
    leave_out: Parts = Field(default=("norms",), description="As of random directions.")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.weights) != len(self.seeds) or not any(self.weights):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.seeds)} seeds; give one for each, not all 0"
            )
        return self


Direction = (
    RandomDirection
    | InterpolationDirection
    | AdapterDirection
    | DifferenceDirection
    | FileDirection
    | CombinationDirection
)
# By the field that only this kind has, where a document does not say what kind it is.
KINDS = {
    "to": "interpolation",
    "adapter": "adapter",
    "end": "difference",
    "file": "file",
    "weights": "combination",
}
BRANCHES = {"random", *KINDS.values()}
# Coordinate 1 is a model of its own: the ranges show it, and what lies beyond.
MODEL_AT_ONE = ("interpolation", "adapter", "difference")


def kind_of(direction: object) -> str:
    """The kind of a direction, in a document or as a model."""
    if isinstance(direction, dict):
        return str(
            direction.get("kind") or next((KINDS[name] for name in KINDS if name in direction), "random")
        )
    return str(getattr(direction, "kind", "random"))


class Axis(Part):
    """Evenly spaced coordinates along a direction. The origin must be one of them."""

    # What is not given is filled in before it is validated: a JSON schema must not ask for it.
    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None))

    direction: Annotated[Direction, Field(discriminator="kind")] = Field(
        default_factory=RandomDirection, description="What the weights move along."
    )
    low: float = Field(description="First coordinate: -0.5 unless given.")
    high: float = Field(description="Last coordinate: 0.5 unless given, 1.5 where a model lies at 1.")
    points: int = Field(
        default=21, ge=2, le=100_001, description="Number of coordinates, both ends included."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_range(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        direction = values.get("direction")
        kind = kind_of(direction)
        if isinstance(direction, dict):
            values = values | {"direction": {"kind": kind} | direction}
        high = 1.5 if kind in MODEL_AT_ONE else 0.5
        return {"low": -0.5, "high": high} | values

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low={self.low:g} must be below high={self.high:g}; give a range such as -0.5 to 0.5"
            )
        low, high = Fraction(repr(self.low)), Fraction(repr(self.high))
        before = -low * (self.points - 1) / (high - low)  # how many coordinates the origin has before it
        if before.denominator != 1 or not 0 <= before < self.points:
            raise ValueError(
                f"points={self.points} from {self.low:g} to {self.high:g} leave out the origin, where the "
                "unperturbed model is measured; use an odd number of points around 0, or start at 0"
            )
        return self

    def coordinates(self) -> list[float]:
        """The coordinates in rising order, each the double nearest to its exact decimal value."""
        return list(_coordinates(self.low, self.high, self.points))


@lru_cache(maxsize=64)
def _coordinates(low: float, high: float, points: int) -> tuple[float, ...]:
    first, last = Fraction(repr(low)), Fraction(repr(high))
    step = (last - first) / (points - 1)
    return tuple(float(first + i * step) for i in range(points))


class SecondAxis(Axis):
    """The other axis of a plane."""

    orthogonal: bool = Field(
        description="Make its direction orthogonal to the first axis', tensor by tensor, and rescale it. "
        "Unless given, yes; no where a model lies at 1, which would not be there any more."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_orthogonal(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("orthogonal") is not None:
            return values
        return values | {"orthogonal": kind_of(values.get("direction")) not in MODEL_AT_ONE}
