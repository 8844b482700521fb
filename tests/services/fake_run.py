"""A driver with fake workers: fake_run ADDRESS OUT SPEC. Prints how many points are finished."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from services.sweep.cluster import cluster, this_node, worker_resources
from services.sweep.engines import Engines
from services.sweep.run import Run
from tests.services.fakes import FakeWorker, fake_plan

if __name__ == "__main__":
    address, out, document = sys.argv[1:]
    with cluster(address):
        plan = fake_plan(**json.loads(document)).on_node(this_node())
        engines = Engines(plan.spec.resources.workers, worker_resources(plan.spec.resources), FakeWorker)
        for progress in Run(plan, Path(out), engines, outside=address.startswith("ray://")):
            print(progress.done, flush=True)
