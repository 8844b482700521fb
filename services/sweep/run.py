"""One landscape job from its spec to its files, and again from where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from services.sweep.cluster import cluster, on_this_node, this_node, worker_resources
from services.sweep.coordinator import (
    LEASE_SECONDS,
    WORKING,
    Coordinator,
    Progress,
    claim,
    lease_of,
    require_same_job,
)
from services.sweep.nodes import FileServer, store_folder
from services.sweep.plan import Plan, make_plan
from services.sweep.pool import Job, Pool
from services.sweep.report import write_summary
from services.sweep.worker import Worker
from visage_core.errors import InputError
from visage_core.results import Results
from visage_core.spec import LandscapeSpec

WAIT_SECONDS = 5.0
# A coordinator or a pool that dies is started again, unless it dies so often without a point in between.
LIVES = 10


@dataclass
class Run:
    """A job on a Ray cluster, from the process that asked for it.

    With `outside`, that process is on a machine that is not of the cluster (Ray's client): its files go
    there, and finished points come from there into `out`.
    """

    plan: Plan
    out: Path
    stop_when: float | None = None
    outside: bool = False
    worker: type = Worker
    name: str = "run"
    _lives: int = LIVES
    _actors: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Progress]:
        """Measure what is left; yields the progress whenever it has changed. The last one says how it
        ended. Raises InputError where the job cannot be measured."""
        self._plan_ref = None if self.outside else ray.put(self.plan)
        lease = None
        try:
            if self.outside:
                lease = lease_of(self.out)
                claim(Results(self.out), self.plan, lease, LEASE_SECONDS)
            yield from self._watch()
            if self.outside:
                self._take_over()
        finally:
            if lease is not None:
                lease.release()
            # The workers hold what the next run needs, in whatever process this one lies about.
            for name in ("pool", "server"):
                if name in self._actors:
                    ray.kill(self._actors.pop(name))

    def _watch(self) -> Iterator[Progress]:
        self._seen, done = -1, 0
        state = WORKING
        while state == WORKING:
            try:
                self._start_what_is_missing()
                progress: Progress = ray.get(
                    self._actors["coordinator"].changed.remote(self._seen, WAIT_SECONDS), timeout=60
                )
                probes = [self._actors["pool"].state.remote(), self._actors["server"].ready.remote()]
                pool, _ = ray.get(probes, timeout=60)
                if progress.state == WORKING and self.name not in pool["jobs"]:
                    # The pool could not reach the coordinator for a moment, and took it for dead.
                    self._submit()
                if self.outside:
                    self._mirror()
            except RayActorError as error:
                self._bury(error)
                continue
            except RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from None
                raise
            if progress.error is not None:
                raise progress.error
            if progress.revision != self._seen:
                yield progress
                self._seen, state = progress.revision, progress.state
            if progress.done > done:
                done, self._lives = progress.done, LIVES

    def cancel(self) -> None:
        """End the job, as far as it can still be reached; finished points stay."""
        coordinator = self._actors.get("coordinator")
        if coordinator is not None:
            with suppress(RayActorError, ray.exceptions.GetTimeoutError):
                ray.get(coordinator.cancel.remote(), timeout=20)

    def _start_what_is_missing(self) -> None:
        new = {"coordinator", "server", "pool"} - self._actors.keys()
        if "server" in new:
            folders = [] if self.outside else self.plan.folders
            self._actors["server"] = server = on_this_node(FileServer).remote(folders)
            if self.outside:
                self._plan_ref = ray.put(self.plan.moved(lambda folder: store_folder(folder, server)))
        if "coordinator" in new:
            folder = None if self.outside else self.out
            actor = on_this_node(Coordinator).remote(self.plan, folder, self.stop_when, not self.outside)
            if self.outside:
                ray.get(actor.receive.remote(Results(self.out).parts()))
            ray.get(actor.open.remote())
            self._actors["coordinator"] = actor
        if "pool" in new:
            resources = worker_resources(self.plan.spec)
            pool = on_this_node(Pool).remote(self.plan.spec.resources.workers, resources, self.worker)
            ray.get(pool.open.remote())
            self._actors["pool"] = pool
        if new:
            self._submit()

    def _submit(self) -> None:
        """Give the job to the pool; what the coordinator takes for being under way is not any more."""
        job = Job(
            name=self.name,
            coordinator=self._actors["coordinator"],
            plan=self._plan_ref,
            server=self._actors["server"],
            engine_key=self.plan.engine_key,
        )
        ray.get(self._actors["coordinator"].reclaim.remote())
        ray.get(self._actors["pool"].submit.remote(job))

    def _mirror(self) -> None:
        """Keep here what is finished there."""
        here = Results(self.out)
        known = set(here.parts())
        for name, content in ray.get(self._actors["coordinator"].send.remote(known)).items():
            here.add_part(name, content)

    def _take_over(self) -> None:
        """At the end: finish the results here, and leave none there."""
        here = Results(self.out)
        coordinator = self._actors["coordinator"]
        here.write_json("run.json", ray.get(coordinator.read_json.remote("run.json")))
        here.merge()
        write_summary(self.out)
        ray.get(coordinator.discard.remote())

    def _bury(self, error: RayActorError) -> None:
        """Forget the actors that are dead."""
        self._lives -= 1
        if not self._lives:
            raise error
        for name, probe in (("coordinator", "progress"), ("pool", "state"), ("server", "ready")):
            if name in self._actors:
                try:
                    ray.get(getattr(self._actors[name], probe).remote(), timeout=60)
                except RayActorError:
                    del self._actors[name]
                    self._seen = -1


@contextmanager
def open_run(
    spec: LandscapeSpec, out: Path, address: str = "local", stop_when: float | None = None
) -> Iterator[Run]:
    """Begin or continue the job of `spec` in the folder `out`.

    Raises an InputError where something in the spec cannot be used, where `out` holds another job, or,
    while it runs, where another process is at work in it.
    """
    out = out.resolve()
    here = spec.resources.workers if address == "local" else 0
    plan = make_plan(spec, here)
    require_same_job(Results(out), plan)
    with cluster(address):
        run = Run(plan.on_node(this_node()), out, stop_when, outside=address.startswith("ray://"))
        try:
            yield run
        except BaseException:
            run.cancel()
            raise
