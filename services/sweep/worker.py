"""A worker: one warm engine that measures shards of landscapes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import ray

from services.engine.engine import Engine, Interrupted
from services.sweep.answers import Answer, ask, mark_blank, mark_gibberish, mark_unlikely
from services.sweep.axes import Axes, Here
from services.sweep.memory import require_memory
from services.sweep.nodes import folder_here
from services.sweep.plan import Plan, versions
from services.sweep.schedule import Shard
from visage_core.checkpoints import Checkpoint, some
from visage_core.directions import mark_used
from visage_core.errors import InputError
from visage_core.geometry import Geometry
from visage_core.grid import Point, somewhere
from visage_core.provenance import MeasuredBy
from visage_core.results import Measurement
from visage_core.sources import TensorSource

# The methods of an engine run one after another in one thread, for vLLM binds that thread to its cores;
# the others answer while it is at work.
GROUPS = ("engine", "control")
Method = TypeVar("Method", bound=Callable[..., Any])


def _in_engine(method: Method) -> Method:
    """Run a method in the engine's thread."""
    return cast("Method", ray.method(concurrency_group="engine")(method))


def _in_control(method: Method) -> Method:
    """Run a method beside the engine's."""
    return cast("Method", ray.method(concurrency_group="control")(method))


class EngineStartError(InputError):
    """vLLM did not start."""


class OutOfMemoryError(RuntimeError):
    """The engine ran out of memory; it is of no use any more."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its node, and the CPU cores that it may use."""

    node: str
    cores: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A worker that is ready for a job: what it measures with, as `MeasuredBy.text` has it, and how the
    directions lie where that is asked for."""

    about: str
    geometry: list[Geometry] | None


@dataclass(frozen=True)
class _Job:
    """A plan on this node: the model's folder, and what its weights move along."""

    here: Here
    model: TensorSource
    axes: Axes
    unlikely: dict[str, bool] = field(default_factory=dict)  # of texts, as mark_unlikely knows them

    def steps(self, point: Point) -> list[tuple[TensorSource, float]]:
        """What leads from the model to a point; made again where it had to make room for something else."""
        steps = self.axes.steps(point)
        made = [Path(source.path) for source, _ in steps if source.kind == "direction"]
        return steps if all(map(mark_used, made)) else self.here.axes().steps(point)


class Worker:
    """Owns one engine; a Ray actor runs it. It knows of jobs' plans, and nothing of their results."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._engine: Engine | None = None
        self._about = ""
        self._cancelled: set[str] = set()

    @_in_control
    def place(self) -> Place:
        """Where this worker came to run."""
        return Place(ray.get_runtime_context().get_node_id(), tuple(sorted(os.sched_getaffinity(0))))

    @_in_control
    def cancel(self, name: str) -> None:
        """End what is under way for a job, within a step of the engine, and forget the job."""
        self._cancelled.add(name)

    @_in_engine
    def prepare(self, name: str, plan: Plan, server: Any, cores: list[int] | None) -> Prepared:
        """Get ready for a job: bring its files and directions to this node, and start the engine unless
        it runs. Raises InputError."""
        self._cancelled.discard(name)
        for ended in list(self._cancelled):
            self._jobs.pop(ended, None)
        base = Checkpoint.open(folder_here(plan.model, server))
        here = Here(plan, base, lambda folder: folder_here(folder, server))
        model = TensorSource(str(base.path), "checkpoint", plan.model.digest)
        self._jobs[name] = job = _Job(here, model, here.axes())
        found = here.geometry(job.axes)
        if self._engine is not None:
            return Prepared(self._about, found)
        print(require_memory(base, plan.spec.engine))  # into its log
        try:
            self._engine = Engine(job.model, plan.spec.engine, cores)
        except Exception as error:  # vLLM's own are of many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineStartError(
                "engine",
                f"vLLM did not start: {lines[0]}",
                "Its log is in the newest session of Ray's temporary folder, in logs/worker-*.err",
            ) from error
        if plan.spec.engine.check_weights:
            self._check_weights(job)
        self._about = MeasuredBy.model_validate({"versions": versions(), **self._engine.device()}).text()
        return Prepared(self._about, found)

    def _check_weights(self, job: _Job) -> None:
        """Raise EngineStartError unless the engine, moved to somewhere on the job's landscape, holds the
        weights of that place. One that keeps some from before would measure a landscape that is wrong."""
        import vllm

        assert self._engine is not None
        point = somewhere(job.here.plan.spec)
        steps = job.steps(point)
        self._engine.move(job.model, steps)
        if names := self._engine.differences(job.model, steps):
            raise EngineStartError(
                "engine",
                f"at {point} {len(names)} tensors of the engine are not those of the perturbed weights: "
                f"{some(names)} (vLLM {vllm.__version__})",
                "Use the version of vLLM that visage is pinned to, and a kind of model that it can move; "
                "engine.check_weights=false measures all the same, perhaps wrongly",
            )

    @_in_engine
    def rest(self) -> None:
        """Put the engine back to the origin of what it measured last, to lie warm."""
        if self._engine is not None and self._jobs:
            self._engine.move(list(self._jobs.values())[-1].model, [])

    @_in_engine
    def measure(self, name: str, shard: Shard) -> Measurement | None:
        """Move the weights to a shard's point, put its prompts to them, and judge the responses; None
        where the job was cancelled."""
        import torch

        assert self._engine is not None
        job = self._jobs.get(name)
        if job is None:
            return None
        plan, spec = job.here.plan, job.here.plan.spec

        def cancelled() -> bool:
            return name in self._cancelled

        begin = time.perf_counter()
        try:
            if cancelled():
                raise Interrupted
            self._engine.move(job.model, job.steps(shard.point))
            moved = time.perf_counter()
            queries = plan.queries[shard.begin : shard.end]
            answers = ask(self._engine, queries, plan, shard.batch, cancelled)
            generated = time.perf_counter()
            answers = self._mark_incoherent(job, answers, cancelled)
        except Interrupted:
            self._engine.move(job.model, [])
            return None
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(str(error)) from None
        judged = time.perf_counter()
        if not spec.keep_responses and len(plan.keywords) == len(spec.judges):
            answers = [replace(answer, response=replace(answer.response, text="")) for answer in answers]
        return Measurement(
            point=shard.point,
            verdicts=tuple(answer.verdict for answer in answers),
            responses=tuple(answer.response for answer in answers),
            move_seconds=moved - begin,
            generate_seconds=generated - moved,
            judge_seconds=judged - generated,
            measured_by=(self._about,),
        )

    def _mark_incoherent(
        self, job: _Job, answers: list[Answer], cancelled: Callable[[], bool]
    ) -> list[Answer]:
        """Tell gibberish from text, in the way that the spec says."""
        assert self._engine is not None
        way = job.here.plan.spec.coherence
        if way == "statistics":
            return mark_gibberish(answers)
        if way == "likelihood":
            engine = self._engine
            return mark_unlikely(engine, answers, job.unlikely, lambda: engine.move(job.model, []), cancelled)
        return mark_blank(answers)
