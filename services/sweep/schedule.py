"""Which piece of a landscape comes next: points, the parts that they are split into, and their failures.

Plain bookkeeping without clock, network or disk, so that it can be tested by itself.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from visage_core.grid import Point
from visage_core.results import Measurement

TRIES = 3
# A point is not split into parts of fewer prompts: a move of the weights would cost more than it saves.
SMALLEST_PART = 8


@dataclass(frozen=True)
class Shard:
    """The prompts `begin` to `end` at a point, counted over all prompt sets one after another.

    `batch` is how many of them are generated at a time, None for as many as the engine takes. What is to be
    measured `alone` shares its worker with nothing that lies ready there.
    """

    point: Point
    begin: int
    end: int
    batch: int | None = None
    alone: bool = False


@dataclass
class _Open:
    """A point that was begun: what is measured, and how often a worker failed on each of its parts."""

    tries: Counter[int] = field(default_factory=Counter)
    measured: dict[int, Measurement] = field(default_factory=dict)


class Schedule:
    """The points that are left of a landscape, each of so many `prompts`, of which an engine takes `batch`
    at a time. `failed` has those that were given up, with the reason."""

    def __init__(self, todo: Iterable[Point], prompts: int, batch: int) -> None:
        self._points = deque(todo)
        self._prompts = prompts
        self._batch = batch
        self._waiting: deque[Shard] = deque()
        self._open: dict[Point, _Open] = {}
        self._out: dict[tuple[Point, int], Shard] = {}
        self.failed: dict[Point, str] = {}

    @property
    def left(self) -> int:
        """How many pieces wait to be handed out."""
        return len(self._points) + len(self._waiting)

    @property
    def over(self) -> bool:
        """Whether every point is measured or given up."""
        return not (self._points or self._open)

    def add(self, todo: Iterable[Point]) -> None:
        """More points, after those that are left."""
        self._points.extend(todo)

    def take(self, workers: int, ahead: bool = False, alone: bool = True) -> Shard | None:
        """The next piece for one of `workers`, None where there is none now.

        `ahead` asks for one to lie ready while the worker is busy; the last pieces are kept for workers
        that are idle. `alone` says that the worker has nothing else: only then it gets suspects. Where
        fewer points than workers are left, a point is split by its prompts.
        """
        if ahead and self.left < workers:
            return None
        shard = next((shard for shard in self._waiting if alone or not shard.alone), None)
        if shard is None and self._points:
            shard = self._begin(self._points.popleft(), workers)
        if shard is not None:
            self._waiting.remove(shard)
            self._out[shard.point, shard.begin] = shard
        return shard

    def finish(self, shard: Shard, measurement: Measurement) -> list[Measurement] | None:
        """Take in a piece's result; gives all pieces of the point, in their order, once they are there."""
        point = self._open.get(shard.point)
        self._out.pop((shard.point, shard.begin), None)
        if point is None:
            return None  # given up or stopped meanwhile
        point.measured[shard.begin] = measurement
        if sum(len(piece.verdicts) for piece in point.measured.values()) < self._prompts:
            return None
        del self._open[shard.point]
        return [point.measured[begin] for begin in sorted(point.measured)]

    def put_back(
        self, shard: Shard, reason: str, *, blamed: bool, suspect: bool = False, smaller_batch: bool = False
    ) -> None:
        """Have a piece done again; after `TRIES` failures that are its own (`blamed`) give the point up.

        A `suspect` is one of several that a worker had when it died: it is done alone from now on, so that
        the next death tells whose it is.
        """
        point = self._open.get(shard.point)
        if self._out.pop((shard.point, shard.begin), None) is None or point is None:
            return
        point.tries[shard.begin] += blamed
        if point.tries[shard.begin] >= TRIES:
            self.failed[shard.point] = reason
            del self._open[shard.point]
            self._waiting = deque(other for other in self._waiting if other.point != shard.point)
            return
        if smaller_batch:
            size = shard.batch or min(shard.end - shard.begin, self._batch)
            shard = replace(shard, batch=max(1, size // 2))
        self._waiting.append(replace(shard, alone=shard.alone or suspect))

    def reclaim(self) -> None:
        """Have all that is under way done again: those who were at it are gone."""
        for shard in list(self._out.values()):
            self.put_back(shard, "the workers are gone", blamed=False)

    def stop(self) -> None:
        """Hand out nothing more, and forget what is under way."""
        self._out.clear()
        self._points.clear()
        self._waiting.clear()
        self._open.clear()

    def _begin(self, point: Point, workers: int) -> Shard:
        """Split a point into parts; gives the first of them."""
        self._open[point] = _Open()
        parts = max(1, workers // (len(self._points) + 1))
        parts = max(1, min(parts, self._prompts // SMALLEST_PART))
        edges = [self._prompts * part // parts for part in range(parts + 1)]
        shards = [Shard(point, begin, end) for begin, end in pairwise(edges)]
        self._waiting += shards
        return shards[0]
