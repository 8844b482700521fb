"""One landscape job from its spec to its files, and again from where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from services import traces
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
from services.sweep.engines import Borrowed, Engines
from services.sweep.inputs import mark_changed
from services.sweep.nodes import store_folder
from services.sweep.plan import Plan, make_plan
from services.sweep.pool import Job
from services.sweep.report import write_summary
from visage_core.checkpoints import Checkpoint, require_same_architecture
from visage_core.errors import InputError
from visage_core.results import Results
from visage_core.spec import LandscapeSpec, ModelJudgeSpec

WAIT_SECONDS = 5.0
# A coordinator or a pool that dies is started again, unless it dies so often without a point in between.
LIVES = 10


@dataclass
class Run:
    """A job on a Ray cluster, from the process that asked for it.

    With `outside`, that process is on a machine that is not of the cluster (Ray's client): its files go
    there, and finished points come from there into `out`. Several runs may share `engines`, under names of
    their own; `priority` and `owner` then decide whose turn it is, and `order` among those of an owner.
    `trace` is the traceparent of what the landscape is a part of.
    """

    plan: Plan
    out: Path
    engines: Engines | Borrowed
    stop_when: float | None = None
    outside: bool = False
    name: str = "run"
    priority: int = 0
    owner: str = ""
    order: int = 0
    trace: str | None = None
    _lives: int = LIVES
    _coordinator: Any = None
    _served_by: tuple[Any, Any] | None = None

    def __iter__(self) -> Iterator[Progress]:
        """Measure what is left; yields the progress whenever it has changed. The last one says how it
        ended. Raises InputError where the job cannot be measured."""
        self._plan_ref = None if self.outside else ray.put(self.plan)
        lease = None
        about = {"visage.landscape": self.name, "visage.model": self.plan.spec.model}
        try:
            with traces.span("landscape", self.trace, about) as span:
                self._span = traces.here(span)
                if self.outside:
                    lease = lease_of(self.out)
                    claim(Results(self.out), self.plan, lease, LEASE_SECONDS)
                yield from self._watch()
                if self.outside:
                    self._take_over()
                self._require_unchanged()
        finally:
            if lease is not None:
                lease.release()
            self._leave()
            traces.flush()  # this process may be one that is killed next

    def _watch(self) -> Iterator[Progress]:
        self._seen, done = -1, 0
        waiting: str | None = None
        state = WORKING
        while state == WORKING:
            try:
                self._start_what_is_missing()
                progress: Progress = ray.get(
                    self._coordinator.changed.remote(self._seen, WAIT_SECONDS), timeout=60
                )
                pool, server = self.engines.pool(), self.engines.server()
                now, _ = ray.get([pool.state.remote(), server.ready.remote()], timeout=60)
                if progress.state == WORKING and self.name not in now["jobs"]:
                    # The pool could not reach the coordinator for a moment, and took it for dead.
                    self._submit(pool, server)
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
            if progress.revision != self._seen or now["waiting"] != waiting:
                waiting = now["waiting"]
                yield replace(progress, waiting=waiting)
                self._seen, state = progress.revision, progress.state
            if progress.done > done:
                done, self._lives = progress.done, LIVES

    def _require_unchanged(self) -> None:
        """Raise ChangedError where files changed while they were measured: no point of the folder counts."""
        if changed := self.plan.changed():
            mark_changed(self.out, changed)
        self.plan.require_unchanged()

    def cancel(self) -> None:
        """End the job, as far as it can still be reached; finished points stay."""
        coordinator = self._coordinator
        if coordinator is not None:
            with suppress(RayActorError, ray.exceptions.GetTimeoutError):
                ray.get(coordinator.cancel.remote(), timeout=20)

    def _start_what_is_missing(self) -> None:
        server = self.engines.server()
        anew = self._served_by is None or self._served_by[1] != server
        if anew and self.outside:
            self._plan_there = self.plan.moved(lambda folder: store_folder(folder, server))
            self._plan_ref = ray.put(self._plan_there)
        elif anew:
            ray.get(server.serve.remote(self.plan.folders))
        # Judges before the workers, which take all the room that is left.
        judges = self.engines.judges(self._plan_there if self.outside else self.plan)
        pool = self.engines.pool()
        anew = anew or self._served_by != (pool, server)
        if self._coordinator is None:
            anew = True
            folder = None if self.outside else self.out
            actor = on_this_node(Coordinator).remote(
                self.plan, folder, self.stop_when, not self.outside, judges, self._span
            )
            if self.outside:
                ray.get(actor.receive.remote(Results(self.out).parts()))
            ray.get(actor.open.remote())
            self._coordinator = actor
        if anew:
            self._submit(pool, server)
            self._served_by = (pool, server)

    def _submit(self, pool: Any, server: Any) -> None:
        """Give the job to the pool; what the coordinator takes for being under way is not any more."""
        job = Job(
            name=self.name,
            coordinator=self._coordinator,
            plan=self._plan_ref,
            server=server,
            engine_key=self.plan.engine_key,
            priority=self.priority,
            owner=self.owner,
            order=self.order,
            trace=self._span,
        )
        ray.get(self._coordinator.reclaim.remote())
        ray.get(pool.submit.remote(job))

    def _leave(self) -> None:
        """At the end, whatever it is: the engines are others' now, and the coordinator has no more to do."""
        with suppress(RayError):
            if self._served_by is not None:
                ray.get(self._served_by[0].withdraw.remote(self.name), timeout=60)
        if self._coordinator is not None:
            ray.kill(self._coordinator)
            self._coordinator = None

    def _mirror(self) -> None:
        """Keep here what is finished there."""
        here = Results(self.out)
        known = set(here.parts())
        for name, content in ray.get(self._coordinator.send.remote(known)).items():
            here.add_part(name, content)

    def _take_over(self) -> None:
        """At the end: finish the results here, and leave none there."""
        here = Results(self.out)
        for name in ("run.json", "geometry.json"):
            document = ray.get(self._coordinator.read_json.remote(name))
            if document is not None:
                here.write_json(name, document)
        here.merge()
        write_summary(self.out)
        ray.get(self._coordinator.discard.remote())

    def _bury(self, error: RayActorError) -> None:
        """Forget the actors that are dead."""
        self._lives -= 1
        if not self._lives:
            raise error
        self.engines.bury()
        if self._coordinator is not None:
            try:
                ray.get(self._coordinator.progress.remote(), timeout=60)
            except RayActorError:
                self._coordinator = None
                self._seen = -1


@contextmanager
def open_engines(spec: LandscapeSpec, address: str = "local") -> Iterator[Engines]:
    """A cluster's engines, with the resources of a spec. Raises an InputError."""
    with cluster(address):
        models = [one for one in spec.judges if isinstance(one, ModelJudgeSpec)]
        judges = [one.cores for one in models for _ in range(one.workers)]
        resources = worker_resources(spec.resources, spec.engine.tensor_parallel, judges)
        engines = Engines(spec.resources.workers, resources)
        try:
            yield engines
        finally:
            # In whatever process the next run lies about.
            engines.close()


@contextmanager
def open_runs(
    specs: Sequence[LandscapeSpec],
    folders: Sequence[Path],
    address: str = "local",
    stop_when: float | None = None,
) -> Iterator[list[Run]]:
    """Begin or continue the job of each spec in its folder, on engines that stay warm from one to the next.

    All specs have the resources of the first. Raises an InputError where something in a spec cannot be used,
    where the models are not of one architecture, where a folder holds another job, or, while it runs, where
    another process is at work in it.
    """
    here = specs[0].resources.workers if address == "local" else 0
    plans = [make_plan(spec, here) for spec in specs]
    base, *others = [Checkpoint.open(Path(plan.model.path)) for plan in plans]
    for number, other in enumerate(others, start=1):
        require_same_architecture(base, other, f"models.{number}")
    outs = [folder.resolve() for folder in folders]
    for plan, out in zip(plans, outs, strict=True):
        require_same_job(Results(out), plan)
    with open_engines(specs[0], address) as engines:
        runs = [
            Run(
                plan.on_node(this_node()),
                out,
                engines,
                stop_when,
                outside=address.startswith("ray://"),
                name=f"run-{number}",
            )
            for number, (plan, out) in enumerate(zip(plans, outs, strict=True))
        ]
        try:
            yield runs
        except BaseException:
            for run in runs:
                run.cancel()
            raise
