"""A Ray cluster and an engine on it, which the tests of a process share: to start them takes half a minute.

A command or a function that opens engines, called in this process within `WARM.lent()`, gets these instead of
engines of its own. Tests whose landscapes have the same engine settings and the same kind of model find the
engine warm; for any other, the pool replaces it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ray

from services.sweep import run
from services.sweep.engines import Engines
from services.sweep.pool import WorkerResources
from tests.services.patience import patience

# The settings of the engine that tests share, in a spec and on the command line. CPUs that do not know
# bfloat16 compute in it five times as slowly as in float32.
ENGINE = {"max_model_len": 512, "dtype": "float32", "kv_cache_gib": 1}
OPTIONS = ("--max-model-len", 512, "--dtype", "float32", "--kv-cache-gib", 1)
# More than there are: a judge model has an engine next to the sweep's, on the same core.
CORES = 4


class WarmEngines(Engines):
    """Engines that outlive a run."""

    def close(self) -> None:
        """End the judges alone."""
        for name in self._actors.keys() - {"pool", "server"}:
            ray.kill(self._actors.pop(name))


class Warm:
    """Starts the cluster when a test first needs it, and again after `close`."""

    def __init__(self) -> None:
        self.engines: WarmEngines | None = None
        self.packages = Path()
        self._started: ExitStack | None = None

    def start(self) -> None:
        """Start the cluster. Its processes find the Python packages that a test puts into `packages`."""
        if self._started is not None:
            return
        self._started = ExitStack()
        self.packages = Path(self._started.enter_context(TemporaryDirectory()))
        patch = self._started.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYTHONPATH", os.pathsep.join([str(self.packages), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(sys, "path", [*sys.path, str(self.packages)])
        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        with patience():
            ray.init("local", num_cpus=CORES, **options)
        self._started.callback(ray.shutdown)

    def close(self) -> None:
        """End the cluster, so that a test may have another."""
        if self._started is not None:
            self._started.close()
        self._started = self.engines = None

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give these engines to whatever opens some in this process."""
        self.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "cluster", lambda _: nullcontext())
            patch.setattr(run, "Engines", self._of)
            yield

    def _of(self, workers: int, resources: WorkerResources) -> WarmEngines:
        assert workers == 1
        if self.engines is None:
            one = WorkerResources(1) if resources.gpus == 0 else resources
            self.engines = WarmEngines(workers, one)
        return self.engines


WARM = Warm()
