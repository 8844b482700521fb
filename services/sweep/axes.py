"""The axes of a landscape on a node: what its weights move along, made where the cache lacks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from services.sweep.nodes import Folder
from services.sweep.plan import Plan
from visage_core.checkpoints import Checkpoint
from visage_core.directions import (
    Values,
    cached_direction,
    combined_values,
    difference_values,
    direction_tensors,
    random_values,
    stored_values,
)
from visage_core.geometry import Geometry, PlaceOf, geometry
from visage_core.grid import Point
from visage_core.paths import cache_dir
from visage_core.sources import OpenDirection, TensorSource
from visage_core.spec import (
    Axis,
    CombinationDirection,
    DifferenceDirection,
    FileDirection,
    Norm,
    RandomDirection,
    SecondAxis,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Axes:
    """What leads along each axis, by seed; the only one by None where it has nothing to do with seeds."""

    first: dict[int | None, TensorSource]
    second: dict[int | None, TensorSource]

    def steps(self, point: Point) -> list[tuple[TensorSource, float]]:
        """What leads from the model to a point."""
        coordinates = ((self.first, point.alpha), (self.second, point.beta))
        return [(_of(axis, point.seed), value) for axis, value in coordinates if value]

    def of(self, seed: int | None) -> list[TensorSource]:
        """The directions of a seed's curve or plane."""
        return [_of(axis, seed) for axis in (self.first, self.second) if axis]


def _of(axis: dict[int | None, TensorSource], seed: int | None) -> TensorSource:
    return axis[seed] if seed in axis else axis[None]


@dataclass(frozen=True)
class Here:
    """A plan's files on this node. `fetch` brings a folder here, once."""

    plan: Plan
    base: Checkpoint
    fetch: Callable[[Folder], Path]

    def axes(self) -> Axes:
        """The directions of both axes. Raises DiskSpaceError."""
        first = self._axis("axis", self.plan.spec.axis, {})
        second = self.plan.spec.second_axis
        return Axes(first, {} if second is None else self._axis("second_axis", second, first))

    def geometry(self, axes: Axes) -> list[Geometry] | None:
        """How the directions lie to each other, and where the trajectory's checkpoints are; None on a curve
        without a trajectory. Reckoned once on a node."""
        spec = self.plan.spec
        if spec.second_axis is None and not spec.trajectory:
            return None
        path = cache_dir() / "geometry" / f"{self.plan.digest()}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps([asdict(one) for one in self._measured(axes)]))
                partial.replace(path)
        return [_decoded(one) for one in json.loads(path.read_text())]

    def _measured(self, axes: Axes) -> list[Geometry]:
        spec = self.plan.spec
        others = {}
        for number, name in enumerate(spec.trajectory):
            folder = self.plan.files[f"trajectory.{number}"]
            others[f"{number}\0{name}"] = Checkpoint.open(self.fetch(folder)).weights
        found = []
        for seed in spec.seeds:
            one = geometry(self.base, seed, [OpenDirection.of(source) for source in axes.of(seed)], others)
            found.append(one)
        return found

    def _axis(
        self, name: str, axis: Axis, first: dict[int | None, TensorSource]
    ) -> dict[int | None, TensorSource]:
        """The directions of an axis; on the second, `first` has those of the first."""
        direction = axis.direction
        along = first if isinstance(axis, SecondAxis) and axis.orthogonal else {}
        if isinstance(direction, RandomDirection):
            return {
                seed: self._made(
                    axis,
                    random_values(seed, second_axis=bool(first)),
                    list(self.base.tensors),
                    [seed, bool(first)],
                    _of(along, seed) if along else None,
                )
                for seed in direction.seeds
            }
        if isinstance(direction, CombinationDirection):
            values = combined_values(direction.seeds, direction.weights)
            return self._made_each(axis, values, list(self.base.tensors), [direction.seeds], along)
        files = {field: self.plan.files[f"{name}.direction.{field}"] for field in direction.FILES}
        paths = {field: self.fetch(folder) for field, folder in files.items()}
        digests = [folder.digest for folder in files.values()]
        if isinstance(direction, DifferenceDirection):
            start, end = (Checkpoint.open(paths[field]).weights for field in ("start", "end"))
            values = difference_values(start, end)
            return self._made_each(axis, values, list(self.base.tensors), digests, along)
        if isinstance(direction, FileDirection):
            (file,) = files["file"].files
            source = TensorSource(str(paths["file"] / file[0]), "direction")
            tensors = source.open()
            return self._made_each(axis, stored_values(tensors), list(tensors), digests, along)
        (path,) = paths.values()
        kind: Literal["checkpoint", "adapter"] = "adapter" if direction.kind == "adapter" else "checkpoint"
        source = TensorSource(str(path), kind, digests[0], direction.selection)
        if not along:
            return {None: source}
        opened = OpenDirection.of(source)
        return self._made_each(axis, opened.tensor, list(opened.tensors), digests, along)

    def _made_each(
        self,
        axis: Axis,
        values: Values,
        names: Sequence[str],
        identity: list[Any],
        along: dict[int | None, TensorSource],
    ) -> dict[int | None, TensorSource]:
        """One direction; or one for each that it is to be orthogonal to."""
        if not along:
            return {None: self._made(axis, values, names, identity, None)}
        return {seed: self._made(axis, values, names, identity, first) for seed, first in along.items()}

    def _made(
        self,
        axis: Axis,
        values: Values,
        names: Sequence[str],
        identity: list[Any],
        along: TensorSource | None,
    ) -> TensorSource:
        direction = axis.direction
        chosen = direction.selection.of(names)
        settings = direction.model_dump(exclude={"seeds", *direction.FILES}, mode="json")
        whole = [self.plan.model.digest, settings, *identity, along and _identity(along)]

        def make() -> Iterator[tuple[str, torch.Tensor]]:
            first = None if along is None else OpenDirection.of(along)
            norm: Norm = getattr(direction, "norm", "none")
            return direction_tensors(self.base, chosen, values, norm, first)

        path = cached_direction(self.base, chosen, whole, make, cache_dir() / "directions")
        return TensorSource(str(path), "direction")


def _identity(source: TensorSource) -> list[Any]:
    """What tells a source from any other, wherever it lies: a made one is named by its content."""
    name = source.digest or Path(source.path).name
    return [source.kind, name, source.selection.only, source.selection.leave_out]


def _decoded(document: dict[str, Any]) -> Geometry:
    places = tuple(
        PlaceOf(**place | {"name": place["name"].partition("\0")[2]}) for place in document["places"]
    )
    return Geometry(**document | {"lengths": tuple(document["lengths"]), "places": places})
