"""The pool: warm workers, and whose work each of them does next."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError as NodeOutOfMemoryError
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from services import traces
from services.sweep import meters
from services.sweep.actors import actor
from services.sweep.room import congestion, shortage
from services.sweep.schedule import Shard
from services.sweep.worker import GROUPS, OutOfMemoryError, Place, Prepared, Worker
from visage_core.errors import InputError

# Nothing is missed that is told of; this only bounds what a lost message costs.
LOOK_AGAIN_SECONDS = 2.0
# A job for which so many workers in a row do not even start, and none works, is given up.
START_TRIES = 3
DEATH = "the worker's process ended"
# In Ray's words, of a process that was not ended through Ray, nor with its node.
BY_ITSELF = "worker process has died"
LONGEST_PAUSE_SECONDS = 30.0
# A worker's process that has not started for so long probably waits for room.
ROOM_SECONDS = 60.0
SEE_LOGS = "Ray's logs say more: logs/worker-*.err in the newest session of its temporary folder"


class WorkerStartError(InputError):
    """A worker that Ray cannot start, or that fails or dies before it has measured anything."""


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a pool gets: CPU cores, or GPUs (one a tensor-parallel rank) with so many each."""

    cores: int
    gpus: int = 0


@dataclass
class Job:
    """A job of the pool: its coordinator, and its plan and file server as the workers get them."""

    name: str
    coordinator: Any
    plan: Any
    server: Any
    engine_key: str
    priority: int = 0
    owner: str = ""
    order: int = 0
    trace: str | None = None
    failed_starts: int = 0


@dataclass
class _Seat:
    """A place for a worker. The one that dies or serves another architecture is followed by a new one."""

    actor: Any = None
    group: Any = None
    place: Place | None = None
    cores: list[int] | None = None
    engine_key: str | None = None
    prepared: set[str] = field(default_factory=set)
    held: list[Shard] = field(default_factory=list)  # at work, or lying ready
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: int = 0  # starts that failed in a row
    since: float = 0.0  # when its process was asked for
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pool:
    """Keeps workers fed: one shard at work and one lying ready for each, jobs in turn by priority.

    A Ray actor runs it. Engines outlive jobs: a worker takes any job whose engine key is its own, and is
    replaced to serve another only where it would be idle, or where a job has no worker and its kind of
    engine has several.
    """

    def __init__(self, workers: int, resources: WorkerResources, worker: type = Worker) -> None:
        self._resources = resources
        self._worker = worker
        self._jobs: list[Job] = []
        self._turn = itertools.count(1)
        self._turns: dict[str, int] = {}  # when each owner had its last turn
        self._news = asyncio.Event()
        self._seats = [_Seat() for _ in range(workers)]
        self._keepers: list[asyncio.Future[None]] = []
        self._engine_starts = 0

    async def open(self) -> None:
        """Begin to hire workers."""
        self._keepers = [asyncio.ensure_future(self._keep(seat)) for seat in self._seats]
        for keeper in self._keepers:
            keeper.add_done_callback(self._ended)

    async def submit(self, job: Job) -> None:
        """Take in a job; one of the same name is replaced (its coordinator is another)."""
        self._jobs = [other for other in self._jobs if other.name != job.name]
        self._jobs.append(job)
        for seat in self._seats:
            seat.prepared.discard(job.name)
        self._wake()

    async def withdraw(self, name: str) -> None:
        """Drop a job: what is under way for it ends within seconds, and the engines stay warm."""
        self._jobs = [job for job in self._jobs if job.name != name]
        for seat in self._seats:
            seat.prepared.discard(name)
            if seat.place is not None:
                seat.actor.cancel.remote(name)
        if not self._jobs:
            await asyncio.gather(
                *(seat.actor.rest.remote() for seat in self._seats if seat.engine_key is not None),
                return_exceptions=True,
            )

    async def state(self) -> dict[str, Any]:
        """Who is there: an entry for each worker, the jobs, how many engines were started, and what keeps
        all workers from measuring, in words (None: nothing does)."""
        return {
            "waiting": await asyncio.to_thread(self._waiting),
            "workers": [
                {
                    "node": seat.place and seat.place.node,
                    "engine": seat.engine_key,
                    "under_way": len(seat.held),
                }
                for seat in self._seats
            ],
            "jobs": [job.name for job in self._jobs],
            "engine_starts": self._engine_starts,
        }

    def _waiting(self) -> str | None:
        """What the jobs wait for before anything can be measured."""
        if any(seat.engine_key is not None for seat in self._seats):
            return None
        if any(seat.place is not None for seat in self._seats):
            return "starting the engine"
        needed = (self._resources.cores, self._resources.gpus)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if (why := shortage(*needed, nodes)) is not None:
            return why
        if time.monotonic() - min(seat.since for seat in self._seats) > ROOM_SECONDS:
            return congestion(*needed, ray.available_resources())
        return "starting a worker"

    async def workers(self) -> list[Any]:
        """The workers that are there."""
        return [seat.actor for seat in self._seats if seat.place is not None]

    def _ended(self, keeper: asyncio.Future[None]) -> None:
        """End the process where a seat is not kept any more, which no error that is known leads to: whoever
        waits for its work learns of it, and makes another pool."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            traceback.print_exception(error)
            os._exit(1)

    async def _keep(self, seat: _Seat) -> None:
        while True:
            await self._hire(seat)
            feeders = [asyncio.ensure_future(self._feed(seat, ahead)) for ahead in (False, True)]
            await asyncio.wait(feeders, return_when=asyncio.FIRST_COMPLETED)
            # The worker is gone or is to go; the other feeder learns it by its own call, or waits for work.
            self._dismiss(seat)
            for feeder in feeders:
                feeder.cancel()
            await asyncio.gather(*feeders, return_exceptions=True)
            if seat.failures:
                await _pause(seat)

    async def _hire(self, seat: _Seat) -> None:
        """Start a worker's process, as soon as a node has room for it."""
        options: dict[str, Any] = {"max_restarts": 0}
        if self._resources.gpus > 1:
            # A bundle for each tensor-parallel rank; vLLM places its ranks in the group of its actor.
            bundles = [{"GPU": 1, "CPU": self._resources.cores}] * self._resources.gpus
            seat.group = placement_group(bundles, strategy="PACK")
            options |= {
                "num_cpus": self._resources.cores,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    seat.group, placement_group_capture_child_tasks=True
                ),
            }
        elif self._resources.gpus:
            options |= {"num_gpus": 1, "num_cpus": self._resources.cores}
        else:
            options |= {"num_cpus": self._resources.cores}
        seat.since = time.monotonic()
        while seat.place is None:
            seat.actor = actor(self._worker, GROUPS).options(**options).remote()
            try:
                place: Place = await seat.actor.place.remote()
            except RayError as error:
                if await self._failed_start(seat, error):
                    await _pause(seat)
                continue
            seat.cores = self._free_cores(place)
            seat.place = place

    def _free_cores(self, place: Place) -> list[int] | None:
        """CPU cores of a node that no other worker of the pool is bound to; None with GPUs."""
        if self._resources.gpus:
            return None
        taken: set[int] = set()
        for seat in self._seats:
            if seat.place is not None and seat.place.node == place.node:
                taken |= set(seat.cores or ())
        free = [core for core in place.cores if core not in taken]
        # Where Ray was told of more cores than there are, workers share them.
        return (free or list(place.cores))[: self._resources.cores]

    def _dismiss(self, seat: _Seat) -> None:
        ray.kill(seat.actor)
        if seat.group is not None:
            remove_placement_group(seat.group)
        seat.actor = seat.group = seat.place = seat.cores = seat.engine_key = None
        seat.prepared.clear()

    async def _failed_start(self, seat: _Seat, error: RayError, job: Job | None = None) -> bool:
        """Note that a worker did not start, and tell whether that counts; jobs for which none works are given
        up at last."""
        if _was_ended(error):
            return False
        cause = error.cause if isinstance(error, RayTaskError) else error
        known = isinstance(cause, InputError)
        problem = cause if known else WorkerStartError("workers", _reason(error), SEE_LOGS)
        seat.failures += 1
        for one in [job] if job else list(self._jobs):
            one.failed_starts += 1
            works = any(one.name in other.prepared for other in self._seats)
            if one.failed_starts >= START_TRIES and not works:
                await self._tell(one, "abort", problem)
        return True

    async def _feed(self, seat: _Seat, ahead: bool) -> None:
        """Give a worker one shard after another; returns when the worker has to be replaced."""
        while True:
            found = await self._find(seat, ahead)
            if found is None:
                return
            try:
                alive = await self._measure(seat, *found)
            finally:
                seat.held.remove(found[1])
            self._wake()
            if not alive:
                return

    async def _measure(self, seat: _Seat, job: Job, shard: Shard) -> bool:
        """Have a shard measured; tells whether the worker can go on."""
        try:
            admitted = await self._prepare(seat, job)
        except RayError as error:
            await self._lost(job, shard, _reason(error))
            return False
        except asyncio.CancelledError:
            await self._lost(job, shard, DEATH)
            raise
        if not admitted:
            await self._lost(job, shard, "the worker is not one for this job")
            return True
        # With nothing beside it a shard is the cause of its worker's death; else each of them may be.
        doubt = {"blamed": shard.alone, "suspect": not shard.alone}
        try:
            measurement = await seat.actor.measure.remote(job.name, shard)
        except RayTaskError as error:
            # What an engine is worth after an error nobody knows; a new one is sure.
            memory = isinstance(error.cause, OutOfMemoryError)
            await self._lost(job, shard, _reason(error), blamed=True, smaller_batch=memory)
            return False
        except RayError as error:
            memory = isinstance(error, NodeOutOfMemoryError)
            await self._lost(job, shard, DEATH, **doubt, smaller_batch=memory)
            return False
        except asyncio.CancelledError:
            # The other feeder found the worker dead or of no use.
            await self._lost(job, shard, DEATH, suspect=True)
            raise
        if measurement is not None:
            await asyncio.shield(self._tell(job, "finished", shard, measurement))
        return True

    async def _lost(self, job: Job, shard: Shard, reason: str, blamed: bool = False, **how: bool) -> None:
        """Give a shard back to its coordinator."""
        await self._tell(job, "lost", shard, reason, blamed=blamed, **how)

    async def _prepare(self, seat: _Seat, job: Job) -> bool:
        """Get a worker ready for a job; tells whether the job's coordinator takes it."""
        async with seat.lock:
            if job.name in seat.prepared:
                return True
            starts = seat.engine_key is None
            try:
                with traces.span("start engine" if starts else "prepare", job.trace):
                    prepared: Prepared = await seat.actor.prepare.remote(
                        job.name, job.plan, job.server, seat.cores
                    )
            except RayError as error:
                await self._failed_start(seat, error, job)
                raise
            if starts:
                meters.engine_starts.inc()
                self._engine_starts += 1
            seat.failures = job.failed_starts = 0
            seat.engine_key = job.engine_key
            admitted = bool(await self._tell(job, "prepared", prepared.about, prepared.geometry))
            if admitted:
                seat.prepared.add(job.name)
        self._wake()
        return admitted

    async def _find(self, seat: _Seat, ahead: bool) -> tuple[Job, Shard] | None:
        """The next shard for a worker; None where it should make room for another kind of engine."""
        while True:
            news = self._news
            if not ahead and self._should_make_room(seat):
                return None
            # Nothing lies ready for a worker before it is known which engine it has.
            for job in [] if ahead and seat.engine_key is None else self._in_turn(seat):
                shard = await self._take(seat, job, ahead)
                if shard is not None:
                    if job in self._jobs:  # to the end of the line
                        self._jobs.remove(job)
                        self._jobs.append(job)
                    self._turns[job.owner] = next(self._turn)
                    return job, shard
            if not ahead and not seat.held and await self._other_kind_waits(seat):
                return None
            # Not wait_for: until Python 3.12 it may swallow a cancellation that comes with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                    await news.wait()

    async def _take(self, seat: _Seat, job: Job, ahead: bool) -> Shard | None:
        """The next shard of a job; one that comes too late for a feeder that is being ended goes back."""
        async with seat.taking:
            if any(shard.alone for shard in seat.held):
                return None
            asking = asyncio.ensure_future(
                self._tell(job, "next", self._serving(job), ahead, alone=not seat.held)
            )
            try:
                shard: Shard | None = await asyncio.shield(asking)
            except asyncio.CancelledError:
                if (late := await asking) is not None:
                    await self._lost(job, late, DEATH)
                raise
            if shard is not None:
                seat.held.append(shard)
            return shard

    def _in_turn(self, seat: _Seat) -> list[Job]:
        """The jobs that a worker may serve, the one first that is next: by priority, then owners in turn,
        then an owner's jobs by their order, and in turn."""
        mine = [job for job in self._jobs if seat.engine_key in (None, job.engine_key)]
        return sorted(mine, key=lambda job: (-job.priority, self._turns.get(job.owner, 0), job.order))

    def _serving(self, job: Job) -> int:
        """How many workers there are for a job."""
        return max(
            1, sum(s.place is not None and s.engine_key in (None, job.engine_key) for s in self._seats)
        )

    def _should_make_room(self, seat: _Seat) -> bool:
        """Whether a job finds no worker while there are several of this worker's kind."""
        if seat.engine_key is None or seat.held:
            return False
        served = {other.engine_key for other in self._seats}
        starved = None not in served and any(job.engine_key not in served for job in self._jobs)
        return starved and sum(other.engine_key == seat.engine_key for other in self._seats) > 1

    async def _other_kind_waits(self, seat: _Seat) -> bool:
        others = [job for job in self._jobs if seat.engine_key not in (None, job.engine_key)]
        left = [await self._tell(job, "left") for job in others]
        return any(left)

    async def _tell(self, job: Job, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a job's coordinator. A dead one ends the job here: a new one comes with a new submission."""
        try:
            return await getattr(job.coordinator, method).remote(*arguments, **options)
        except RayTaskError as error:
            # The coordinator has ended the job by itself, for it could not write.
            if not isinstance(error.cause, InputError):
                raise
        except RayError:
            self._jobs = [other for other in self._jobs if other is not job]
        return None

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _pause(seat: _Seat) -> None:
    """Wait before the next start, longer each time: memory of the worker before may not be free yet."""
    await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, 2.0 ** (seat.failures - 1)))


def _was_ended(error: RayError) -> bool:
    """Whether a worker's process was ended on purpose, or with its node, or Ray does not know why in time:
    that tells nothing about its job."""
    told = str(error)
    return isinstance(error, RayActorError) and not error.actor_init_failed and BY_ITSELF not in told


def _reason(error: RayError) -> str:
    """The first line of what went wrong, without Ray's wrapping."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
