"""`SearchSpec`: what is searched, how, and how a candidate is measured."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from visage_core.landscape import is_safety
from visage_core.spec import LandscapeSpec, Part, RandomDirection, parse_spec, spec_error

ALGORITHMS = {"seeds": ("random",), "layers": ("random", "optuna"), "subspace": ("random", "optuna", "cmaes")}


class SearchSpec(Part):
    """A search for the direction with the smallest radius: the distance from the model to the nearer edge of
    its basin, as a share of the norm of all its weights.

    Candidates are measured by an adaptive sweep of `landscape`, whose axis says how far and how finely, with
    its first `prompts` prompts. What is found is measured again with all of them, as the random directions
    beside it are: the smallest of many noisy numbers is too small.
    """

    landscape: LandscapeSpec
    space: Literal["seeds", "layers", "subspace"] = Field(
        default="subspace",
        description="seeds: other random directions; layers: which consecutive layers move, along one random "
        "direction; subspace: combinations of a few random directions.",
    )
    algorithm: Literal["random", "optuna", "cmaes"] = Field(
        default="optuna", description="random search, Optuna's tree-structured estimator, or CMA-ES."
    )
    trials: int = Field(default=30, ge=1, le=100_000, description="Candidates to measure.")
    dimension: int = Field(default=8, ge=2, le=64, description="Random directions that span the subspace.")
    prompts: int = Field(default=20, ge=1, description="Prompts with which candidates are measured.")
    beside: int = Field(default=3, ge=2, le=100, description="Random directions to compare with.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of the search's own choices.")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.algorithm not in ALGORITHMS[self.space]:
            fit = " or ".join(ALGORITHMS[self.space])
            raise ValueError(f"algorithm {self.algorithm} does not search {self.space}; use {fit}")
        if self.landscape.second_axis is not None:
            raise ValueError("the landscape has a second axis; a direction is searched along one")
        if any(judge.kind != "keyword" for judge in self.landscape.judges):
            raise ValueError("the landscape has a judge that is no list of keywords; a search takes no other")
        if not is_safety(self.landscape.prompts[0]):
            raise ValueError("the landscape's first prompts are no requests that should be refused")
        direction = self.landscape.axis.direction
        if not isinstance(direction, RandomDirection) or direction.norm == "none":
            raise ValueError(
                "the landscape's direction has to be random and to have a norm, to tell how far it goes"
            )
        return self

    def along(self, direction: dict[str, Any], prompts: int | None = None, reach: int = 1) -> LandscapeSpec:
        """The adaptive landscape along a direction, `reach` times as far as the spec says, with so many
        prompts."""
        document = self.landscape.model_dump(mode="json")
        axis, first = document["axis"], document["prompts"][0]
        own = axis["direction"]
        axis["direction"] = {name: own[name] for name in ("norm", "only", "leave_out")} | direction
        for end in ("low", "high"):
            axis[end] = float(reach * Fraction(repr(axis[end])))
        document["adaptive"] = True
        document["prompts"] = [first if prompts is None else first | {"limit": prompts}]
        return parse_spec(document)

    def direction(self, config: dict[str, Any]) -> dict[str, Any]:
        """The direction that a point of the search space stands for. The seeds of the random directions
        beside it are not among those of the subspace."""
        if self.space == "seeds":
            return {"kind": "random", "seeds": [config["seed"]]}
        if self.space == "layers":
            first = config["first"]
            return {"kind": "random", "seeds": [0], "only": [f"layers:{first}-{first + config['more']}"]}
        weights = [config[f"w{number}"] for number in range(self.dimension)]
        length = math.hypot(*weights) or 1.0
        seeds = list(range(self.beside, self.beside + self.dimension))
        return {"kind": "combination", "seeds": seeds, "weights": [weight / length for weight in weights]}

    @property
    def beside_it(self) -> dict[str, Any]:
        """The random directions to compare with."""
        return {"kind": "random", "seeds": list(range(self.beside))}


def parse_search(values: dict[str, Any]) -> SearchSpec:
    """Make a search's spec of a document. Raises SpecError naming the field, its value and the remedy."""
    landscape = parse_spec(values["landscape"])
    try:
        return SearchSpec.model_validate(values | {"landscape": landscape})
    except ValidationError as error:
        raise spec_error(error) from None
