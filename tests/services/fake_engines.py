"""Fake workers on a real Ray cluster: pools of them that tests share, and runs on these."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from services.bench.fakes import fake_verdict
from services.sweep.coordinator import Progress
from services.sweep.engines import Engines
from services.sweep.pool import WorkerResources
from services.sweep.run import Run
from tests.services.fakes import FakeWorker, fake_plan
from tests.services.patience import patience
from visage_core.grid import Point, points
from visage_core.results import Results

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = {"axis": {"points": 21, "direction": {"kind": "random", "seeds": [0, 1]}}}
ONE_CORE = WorkerResources(cores=1)


class FakeEngines:
    """Pools of fake workers on a cluster, by their size. A pool serves one test after another, because the
    start of a process takes seconds."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._made: dict[int, Engines] = {}

    def of(self, workers: int) -> Engines:
        """The pool of this size; the cores of the cluster are enough for a pool of one and a pool of two."""
        return self._made.setdefault(workers, Engines(workers, ONE_CORE, FakeWorker))

    def close(self) -> None:
        """End all workers."""
        while self._made:
            self._made.popitem()[1].close()


@contextmanager
def fake_engines() -> Iterator[FakeEngines]:
    """Start a cluster of one node with three cores, and connect this process to it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path  # the workers' processes find the fakes by it
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with patience():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield FakeEngines(cluster)
        finally:
            ray.shutdown()
            cluster.shutdown()


def run_of(folder: Path, engines: Engines, spec: dict[str, Any] = SPEC, **inputs: Any) -> Run:
    """A run of fake workers; `inputs` say what they do, as in fakes.py."""
    return Run(replace(fake_plan(**spec), inputs={"fake": True, **inputs}), folder, engines)


def finish(run: Run) -> Progress:
    """The last progress of a run."""
    *_, last = run
    return last


def expect_whole(folder: Path, spec: dict[str, Any] = SPEC) -> None:
    """Assert that every point is there once, with the verdicts that the fake worker gives."""
    plan = fake_plan(**spec)
    table = Results(folder).points()
    assert len(table) == len(points(plan.spec)) * len(plan.prompts)
    for row in table.to_pylist():
        assert row["verdicts"] == [fake_verdict(point_of(row), i) for i in range(len(row["verdicts"]))]
    assert {point_of(row) for row in table.to_pylist()} == set(points(plan.spec))


def point_of(row: dict[str, Any]) -> Point:
    return Point(row["seed"], row["alpha"], row["beta"])
