"""How the directions of a landscape lie to each other, and where other checkpoints lie beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visage_core.checkpoints import Checkpoint
from visage_core.sources import OpenDirection

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PlaceOf:
    """Where a checkpoint lies: the point of the line or plane that is nearest to it, and how far off it is
    itself, as a share of its distance from the model (0: on the plane, 1: at a right angle to it)."""

    name: str
    alpha: float
    beta: float
    off: float


@dataclass(frozen=True)
class Geometry:
    """The directions of one curve or plane. Lengths are Frobenius norms over all tensors, as shares of that
    of all the model's weights; `cosine` is that between both directions, None on a curve."""

    seed: int | None
    lengths: tuple[float, ...]
    cosine: float | None
    places: tuple[PlaceOf, ...]


def geometry(
    base: Checkpoint,
    seed: int | None,
    directions: Sequence[OpenDirection],
    others: Mapping[str, Mapping[str, torch.Tensor]],
) -> Geometry:
    """Measure one or two directions, and the places of other checkpoints by name: the least-squares solution
    of theta' - theta = alpha * d1 + beta * d2. Sums are in float64; one tensor of each is held at a time.
    """
    names, k = list(others), len(directions)
    products = np.zeros((k + len(names), k + len(names)))
    weights = 0.0
    for name, weight in base.weights.items():
        origin = weight.float()
        rows = [one.tensor(name, weight) for one in directions]
        rows += [others[other][name].float() - origin for other in names]
        for i, row in enumerate(rows):
            # Only what is asked for: the checkpoints' products with each other are not.
            for j in {*range(k), i}:
                products[i, j] += float((row.double() * rows[j].double()).sum())
        weights += float((origin.double() ** 2).sum())
    gram = products[:k, :k]
    places = []
    for number, other in enumerate(names, start=k):
        towards, distance = products[number, :k], products[number, number]
        along = np.linalg.lstsq(gram, towards, rcond=None)[0]
        left = max(0.0, distance - float(along @ towards))
        alpha, beta = (*map(float, along), 0.0)[:2]
        places.append(PlaceOf(other, alpha, beta, float(np.sqrt(left / distance)) if distance else 0.0))
    lengths = np.sqrt(np.diag(gram))
    cosine = None
    if k > 1:
        cosine = float(gram[0, 1] / (lengths[0] * lengths[1])) if lengths.all() else 0.0
    shares = tuple(float(length / np.sqrt(weights)) for length in lengths)
    return Geometry(seed, shares, cosine, tuple(places))
