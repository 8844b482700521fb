"""A sweep: the points of a plan, measured by workers on Ray."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from services.sweep.plan import Plan
from services.sweep.worker import Worker
from visage_core.errors import InputError
from visage_core.grid import Point
from visage_core.results import PointResult

# One that is measured and one that waits at the worker, so that the engine never does.
IN_FLIGHT = 2


class WorkerDiedError(RuntimeError):
    """A worker's process ended; the points it had finished are kept."""


def sweep(plan: Plan, todo: Iterable[Point]) -> Iterator[PointResult]:
    """Measure points in their order, on a Ray instance of its own with one worker.

    Yields each point as soon as it is measured. Raises InputError where the engine cannot start, and
    WorkerDiedError where the worker's process ends.
    """
    with _local_ray(), _typed_errors():
        worker = _actor(plan)
        ray.get(worker.start.remote(plan))
        flying: deque[Any] = deque()
        for point in todo:
            flying.append(worker.measure.remote(point))
            if len(flying) == IN_FLIGHT:
                yield ray.get(flying.popleft())
        while flying:
            yield ray.get(flying.popleft())


@contextmanager
def _local_ray() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would hide the GPUs from a driver that asks for none, and the plan looks at them.
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def _actor(plan: Plan) -> Any:
    if torch.cuda.is_available():
        resources = {"num_gpus": plan.spec.engine.tensor_parallel}
    else:
        resources = {"num_cpus": ray.cluster_resources()["CPU"]}
    return ray.remote(**resources)(Worker).remote()


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Give the caller the error that a worker raised, not Ray's wrapper around it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise WorkerDiedError(f"the worker's process ended: {error}") from None
