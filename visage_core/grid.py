"""The points of a landscape and the order in which a sweep visits them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from visage_core.spec import Axis, LandscapeSpec

ENDS = 64  # Coarser than any power of two among an axis' offsets.


@dataclass(frozen=True)
class Point:
    """A place in weight space: theta + alpha * d1 + beta * d2.

    `seed` names the random directions. It is None where none takes part: between checkpoints, and at the
    origin, which all directions share and which is measured once. `beta` is 0 on a curve.
    """

    seed: int | None
    alpha: float
    beta: float = 0.0

    def __str__(self) -> str:
        where = f"alpha = {self.alpha:g}" + (f", beta = {self.beta:g}" if self.beta else "")
        return where if self.seed is None else f"seed {self.seed}, {where}"


ORIGIN = Point(None, 0.0)


def point_at(spec: LandscapeSpec, seed: int | None, alpha: float, beta: float = 0.0) -> Point:
    """The point at coordinates of the curve or plane of `seed`, named as all that share it name it."""
    first_is_random = seed is not None and spec.axis.direction.kind == "random"
    moved_at_random = beta != 0 or (first_is_random and alpha != 0)
    return Point(seed if moved_at_random else None, alpha, beta)


def somewhere(spec: LandscapeSpec) -> Point:
    """A place within the ranges of the axes, as a rule off the grid; for the same spec the same one."""
    chance = random.Random(spec.model_dump_json())
    along = [axis for axis in (spec.axis, spec.second_axis) if axis is not None]
    return point_at(spec, chance.choice(spec.seeds), *(chance.uniform(axis.low, axis.high) for axis in along))


def betas(spec: LandscapeSpec) -> list[float]:
    """The coordinates of the second axis; [0.0] for a curve."""
    return [0.0] if spec.second_axis is None else spec.second_axis.coordinates()


def surface(spec: LandscapeSpec, seed: int | None) -> list[list[Point]]:
    """The points of one curve (a single row) or plane: a row for each beta, in rising order."""
    alphas = spec.axis.coordinates()
    return [[point_at(spec, seed, alpha, beta) for alpha in alphas] for beta in betas(spec)]


def points(spec: LandscapeSpec) -> list[Point]:
    """Every point once, in the order of the spec. Coarse before fine: the origin, the ends, and then ever
    smaller steps between, so that a part of a sweep is the whole landscape on a coarser grid."""
    if spec.order == "snake":
        rows = [
            row[::-1] if number % 2 else row
            for seed in spec.seeds
            for number, row in enumerate(surface(spec, seed))
        ]
        return list(dict.fromkeys(point for row in rows for point in row))
    levels: dict[Point, tuple[int, int, int]] = {}
    across = _levels(spec.second_axis) if spec.second_axis else [(ENDS, 0)]
    along = _levels(spec.axis)
    for turn, seed in enumerate(spec.seeds):
        for row, (level_beta, away_beta) in zip(surface(spec, seed), across, strict=True):
            for point, (level_alpha, away_alpha) in zip(row, along, strict=True):
                place = (-min(level_alpha, level_beta), away_alpha + away_beta, turn)
                levels.setdefault(point, place)
    return sorted(levels, key=lambda point: (point != ORIGIN, levels[point]))


def count_points(spec: LandscapeSpec) -> int:
    """How many points there are, without making them: a spec of few bytes may ask for billions."""
    along, across = spec.axis.points, spec.second_axis.points if spec.second_axis else 1
    if spec.seeds == (None,):
        return along * across
    # What all directions share: the origin, or the line to another checkpoint.
    shared = 1 if spec.axis.direction.kind == "random" else along
    return shared + len(spec.seeds) * (along * across - shared)


def _levels(axis: Axis) -> list[tuple[int, int]]:
    """For each coordinate how coarse a grid around the origin still holds it, and how far off it is."""
    coordinates = axis.coordinates()
    origin = coordinates.index(0.0)
    offsets = [abs(i - origin) for i in range(len(coordinates))]
    found = [((offset & -offset).bit_length() if offset else ENDS, offset) for offset in offsets]
    found[0], found[-1] = (ENDS, offsets[0]), (ENDS, offsets[-1])
    return found
