"""The warm engines that runs share: the pool of their workers, and the server of their models' files."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from services.sweep.cluster import on_this_node
from services.sweep.judging import JudgeActor, judge_key, judge_worker
from services.sweep.nodes import FileServer
from services.sweep.plan import Plan
from services.sweep.pool import Pool, WorkerResources
from services.sweep.worker import Worker
from visage_core.spec import ModelJudgeSpec


@dataclass
class Engines:
    """Started when a run first asks for them, and again after their death. Threads may share it."""

    workers: int
    resources: WorkerResources
    worker: type = Worker
    _actors: dict[str, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def pool(self) -> Any:
        """The pool, as a Ray actor."""
        with self._lock:
            if "pool" not in self._actors:
                pool = on_this_node(Pool).remote(self.workers, self.resources, self.worker)
                ray.get(pool.open.remote())
                self._actors["pool"] = pool
            return self._actors["pool"]

    def server(self) -> Any:
        """The file server, as a Ray actor."""
        with self._lock:
            if "server" not in self._actors:
                self._actors["server"] = on_this_node(FileServer).remote()
            return self._actors["server"]

    def judges(self, plan: Plan) -> dict[int, list[JudgeActor]]:
        """The actors of the judges of a plan that are models, by their number in its spec."""
        server, engine = self.server(), plan.spec.engine
        found: dict[int, list[JudgeActor]] = {}
        beside = 0
        with self._lock:
            for number, folder in plan.judges.items():
                spec = plan.spec.judges[number]
                assert isinstance(spec, ModelJudgeSpec)
                found[number] = []
                for worker in range(spec.workers):
                    key = f"{judge_key(folder, spec, engine)} {worker}"
                    if key not in self._actors:
                        self._actors[key] = judge_worker(
                            folder, server, spec, engine, self.resources.gpus > 0, beside
                        )
                    found[number].append(JudgeActor(self._actors[key], server))
                    beside += spec.cores
        return found

    def lend(self, plan: Plan | None = None) -> Borrowed:
        """For runs in other processes, whose plans have the same judges that are models, or none."""
        # Before the workers, which take all the room that is left.
        judges = {} if plan is None else self.judges(plan)
        return Borrowed(self.pool(), self.server(), judges)

    def state(self) -> dict[str, Any]:
        """Who works, as `Pool.state` tells it; without workers where none was asked for yet. Raises RayError
        soon where the pool does not answer: whoever asks has other things to do."""
        pool = self._actors.get("pool")  # without the lock, which others may hold while something starts
        if pool is None:
            return {"workers": [], "jobs": [], "engine_starts": 0, "waiting": None}
        return dict(ray.get(pool.state.remote(), timeout=2))

    def bury(self) -> None:
        """Forget those that are dead."""
        with self._lock:
            for name, probe in (("pool", "state"), ("server", "ready")):
                if name in self._actors:
                    try:
                        ray.get(getattr(self._actors[name], probe).remote(), timeout=60)
                    except RayActorError:
                        del self._actors[name]

    def close(self) -> None:
        """End the workers: they hold what others may need."""
        with self._lock:
            for actor in self._actors.values():
                ray.kill(actor)
            self._actors.clear()


@dataclass(frozen=True)
class Borrowed:
    """The engines of another process, for runs in this one. They cannot be started again from here."""

    _pool: Any
    _server: Any
    _judges: dict[int, list[JudgeActor]] = field(default_factory=dict)

    def pool(self) -> Any:
        """The pool, as a Ray actor."""
        return self._pool

    def server(self) -> Any:
        """The file server, as a Ray actor."""
        return self._server

    def judges(self, plan: Plan) -> dict[int, list[JudgeActor]]:
        """The actors of the judges that were lent, which are those of the plan."""
        assert plan.judges.keys() == self._judges.keys()
        return self._judges

    def bury(self) -> None:
        """Do nothing: their owner starts them anew, and whatever was under way here with them."""
