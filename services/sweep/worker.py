"""A worker: one warm engine that measures points."""

from __future__ import annotations

import time
from pathlib import Path

from services.engine.engine import Engine
from services.engine.weights import DirectionFile
from services.sweep.plan import Plan
from visage_core.checkpoints import Checkpoint
from visage_core.directions import cached_random_direction
from visage_core.errors import InputError
from visage_core.grid import Point, seeds_of
from visage_core.judges import JUDGES
from visage_core.paths import cache_dir
from visage_core.results import PointResult


class EngineStartError(InputError):
    """vLLM did not start."""


class Worker:
    """Owns one engine; a Ray actor runs it. It knows of points, and nothing of jobs or results."""

    def start(self, plan: Plan) -> None:
        """Make the directions that are not cached yet and start the engine. Raises InputError."""
        self._plan = plan
        self._directions = _directions(plan)
        try:
            self._engine = Engine(plan.model, plan.spec.engine)
        except Exception as error:  # vLLM's own are of many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineStartError(
                "engine",
                f"vLLM did not start: {lines[0]}",
                "Its log is in the newest session of Ray's temporary folder, in logs/worker-*.err",
            ) from error

    def measure(self, point: Point) -> PointResult:
        """Move the weights to a point, put every prompt to them, and judge the responses."""
        spec = self._plan.spec
        judge = JUDGES[spec.judge]
        begin = time.perf_counter()
        self._engine.move(self._directions[point.seed] if point.alpha else None, point.alpha)
        moved = time.perf_counter()
        stops = judge.stops() if spec.generation.early_stop else []
        responses = self._engine.generate(self._plan.tokens, spec.generation, stops)
        generated = time.perf_counter()
        verdicts = tuple(not judge.refused(response.text) for response in responses)
        return PointResult(
            point=point,
            verdicts=verdicts,
            responses=tuple(responses),
            prompt_tokens=sum(map(len, self._plan.tokens)),
            move_seconds=moved - begin,
            generate_seconds=generated - moved,
            judge_seconds=time.perf_counter() - generated,
        )


def _directions(plan: Plan) -> dict[int | None, DirectionFile]:
    """What each curve of the landscape moves along, by its seed."""
    if plan.endpoint is not None:
        return {None: DirectionFile(str(plan.endpoint), endpoint=True)}
    base = Checkpoint.open(Path(plan.model))
    cache = cache_dir() / "directions"
    files = {
        seed: cached_random_direction(base, plan.model_digest, seed, cache)
        for seed in seeds_of(plan.spec.axis)
        if seed is not None
    }
    return {seed: DirectionFile(str(path), endpoint=False) for seed, path in files.items()}
