"""The points of a landscape and the order in which a sweep visits them."""

from __future__ import annotations

from dataclasses import dataclass

from visage_core.spec import Axis, RandomDirection


@dataclass(frozen=True)
class Point:
    """A place in weight space: theta + alpha * direction.

    `seed` names the random direction. It is None where no random direction takes part: on an
    interpolation, and at the origin, which all directions share and which is measured once.
    """

    seed: int | None
    alpha: float

    def __str__(self) -> str:
        where = f"alpha = {self.alpha:g}"
        return where if self.seed is None else f"seed {self.seed}, {where}"


def seeds_of(axis: Axis) -> tuple[int | None, ...]:
    """The directions of an axis by seed, one curve each; an interpolation is (None,)."""
    return axis.direction.seeds if isinstance(axis.direction, RandomDirection) else (None,)


def curve(axis: Axis, seed: int | None) -> list[Point]:
    """The points of one direction's curve, from low to high."""
    return [Point(seed if alpha else None, alpha) for alpha in axis.coordinates()]


def points(axis: Axis) -> list[Point]:
    """Every point once, in visiting order: the origin first, then the curves one after another."""
    every = (point for seed in seeds_of(axis) for point in curve(axis, seed))
    return list(dict.fromkeys([Point(None, 0.0), *every]))
