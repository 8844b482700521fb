"""`visage bench soak`: a service whose parts are killed at random for minutes, and what that costs.

Jobs of all kinds are submitted and cancelled all the while, also when nobody is there to take them. The
service is started again as a service manager does it. Then a calm, in which it only works, and a stop.
"""

from __future__ import annotations

import itertools
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from services.api.ports import free_ports
from services.bench import Figure, Report
from services.bench.fake_serve import WORKERS
from services.bench.fakes import VARIABLE
from services.bench.leaks import (
    Use,
    growth,
    left_actors,
    left_shared_memory,
    marked,
    shared_memory,
    unfinished,
    use_of,
)
from services.bench.served import API, Served, command_of, visage_serve
from services.client import Client
from services.demo.model import demo_model
from services.jobs.states import OVER, Kind, State
from services.sweep.plan import versions
from visage_core.grid import count_points
from visage_core.results import PLACE, Results
from visage_core.spec import parse_spec

RUNNER, HEAD, NODE = "ServeReplica:visage:Runner", "gcs_server", "raylet/raylet"
WORKER, SERVICE = "a worker", "the service"
# By Ray's names of processes: what measures, hands out and keeps, and drives the gates of audits.
RAYS_OWN = tuple(
    f"ray::{one}" for one in ("Worker", "FakeWorker", "Pool", "Coordinator", "FileServer", "ImplicitFunc")
)
STOP: tuple[str, ...] = ()  # the orderly end
# What is killed together.
KILLS = ((WORKER,), (API,), (RUNNER,), (API, RUNNER), (HEAD,), (NODE,), (SERVICE,), STOP)
EVERYTHING = (SERVICE, HEAD, NODE, API, RUNNER)
KINDS = (Kind.LANDSCAPE,) * 8 + (Kind.GATE, Kind.AUDIT)
MARK = "VISAGE_SOAK"
UNFINISHED_JOBS = 6
CALM_SHARE = 0.4
POINTS_BETWEEN = 4
LOOK_SECONDS = 5.0
END_SECONDS = 300.0
LINGER_SECONDS = 30.0
FAKE_SECONDS = 0.1
LEAST_USES = 20
# Of what is left of a job, Ray's own books of the processes that it had are the most.
MEMORY_GROWTH, FILES_GROWTH = 1.0, 0.5
Durable = dict[tuple[Any, ...], datetime]


@dataclass
class Asked:
    """A job that was submitted. `points` is how many a landscape has; `cancelled` is the state that the
    answer to its cancellation had."""

    id: str
    kind: Kind
    points: int
    cancelled: State | None = None


@dataclass
class Soak:
    """A service under test, and what was asked of it so far."""

    service: Served
    data: Path
    models: list[Path]
    chance: random.Random
    kinds: Sequence[Kind]
    workers: int
    jobs: list[Asked] = field(default_factory=list)
    durable: Durable = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    asks: Iterator[int] = field(default_factory=itertools.count)
    faults: int = 0  # times that the service did not stop, end or work on

    def storm(self, kills: Iterable[tuple[str, ...]]) -> None:
        """Kill one part of the service after another."""
        for kill in kills:
            self._work_on()
            self.durable |= finished(self.data)
            name = " and ".join(kill) or "stop"
            self.kills[name] += 1
            tell(f"{name}: {len(self.durable):,} points are durable, of {len(self.jobs)} jobs")
            # The service starts in this thread, with which it would end.
            with ThreadPoolExecutor(1) as beside:
                asked = beside.submit(self._ask)
                self._kill(kill)
                asked.result()

    def calm(self, seconds: float) -> list[Use]:
        """Let the service work, and look at what it uses."""
        uses, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            self._ask()
            uses.append(use_of(self.service, len(self.jobs)))
            time.sleep(LOOK_SECONDS)
        return uses

    def end(self) -> list[str]:
        """Wait for all jobs; gives what actors are left then."""
        _until(lambda: all(job.state in OVER for job in self._all().values()), END_SECONDS)
        _until(lambda: not self._left_actors(), LINGER_SECONDS)
        return self._left_actors()

    def stop(self) -> None:
        """Stop the service in an orderly way."""
        try:
            if (status := self.service.stop()) != 0:
                self._fault(f"its stop ended with {status}")
        except subprocess.TimeoutExpired:
            self._fault("it does not stop")

    def wrong_jobs(self) -> int:
        """How many jobs are lost, there without having been asked for, or in a state that they should not be
        in."""
        found = self._all()
        wrong = found.keys() ^ {asked.id for asked in self.jobs}
        for asked in self.jobs:
            if asked.id not in found:
                continue
            state = found[asked.id].state
            right = {None: {State.DONE}, State.CANCELLED: {State.CANCELLED}}
            # What was running may have been done before it heard of it.
            if state not in right.get(asked.cancelled, {State.CANCELLED, State.DONE}):
                tell(f"{asked.kind} {asked.id} is {state}: {found[asked.id].error}")
                wrong.add(asked.id)
        return len(wrong)

    def wrong_points(self) -> int:
        """How many points are lost, there twice, or were measured again once they were finished."""
        now, jobs = finished(self.data), self._all()
        wrong = sum(now.get(place) != at for place, at in self.durable.items())
        for asked in self.jobs:
            if asked.kind == Kind.LANDSCAPE and jobs[asked.id].state == State.DONE:
                folder = self.data / "jobs" / asked.id
                wrong += abs(pq.read_metadata(folder / "points.parquet").num_rows - asked.points)
                wrong += abs(len(Results(folder).done()) - asked.points)
        return wrong

    def _ask(self) -> None:
        """Submit jobs until there is enough to do, and cancel one each third time."""
        with Client(self.service.url, patience=END_SECONDS) as client:
            there = {job.id for job in _jobs(client) if job.state not in OVER}
            unfinished = [asked for asked in self.jobs if asked.id in there]
            for _ in range(UNFINISHED_JOBS - len(unfinished)):
                self.jobs.append(self._submit(client))
                unfinished.append(self.jobs[-1])
            if next(self.asks) % 3 == 1:
                victim = self.chance.choice(unfinished)
                cancel = {Kind.GATE: client.cancel_gate, Kind.AUDIT: client.cancel_audit}
                answer = cancel.get(victim.kind, client.cancel)(victim.id)
                victim.cancelled = victim.cancelled or State(answer.state)

    def _submit(self, client: Client) -> Asked:
        chance = self.chance
        kind = chance.choice(self.kinds)
        priority = chance.randint(-2, 2)
        size = {Kind.LANDSCAPE: (11, 41, 161), Kind.GATE: (11, 31), Kind.AUDIT: (5, 11)}[kind]
        landscape = {
            "axis": {"points": chance.choice(size), "direction": {"seeds": [chance.randrange(100)]}},
            "prompts": [{"source": "harmful", "limit": chance.randint(2, 20)}],
            "generation": {"max_tokens": 8},
            "engine": {"max_model_len": 512},
        }
        models = [str(model) for model in chance.sample(self.models, 2)]
        if kind == Kind.LANDSCAPE:
            spec = {"model": models[0], **landscape}
            job = client.submit(spec, priority=priority).id
            return Asked(job, kind, count_points(parse_spec(spec)))
        rules = [{"measure": "asr_at_origin", "at_most": 50}]
        policy = {"name": "soak", "landscape": landscape, "rules": rules}
        if kind == Kind.GATE:
            return Asked(client.submit_gate(policy, models[0], priority=priority).id, kind, 0)
        return Asked(client.submit_audit(policy, models, priority=priority).id, kind, 0)

    def _work_on(self) -> None:
        """Wait until the service has finished some points more, and a moment after that."""

        def done() -> int:
            return sum(job.done for job in self._all().values())

        before, deadline = done(), time.monotonic() + END_SECONDS
        self._ask()
        while not _until(lambda: done() >= before + POINTS_BETWEEN, LOOK_SECONDS):
            self._ask()
            if time.monotonic() > deadline:
                self._fault("no points for minutes")
                break
        time.sleep(self.chance.uniform(0, 2))

    def _kill(self, names: tuple[str, ...]) -> None:
        """Kill parts of the service. Serve starts its replicas again, and the pool its workers; the rest is
        for a service manager to do."""
        service = self.service
        assert service.process is not None
        if names == STOP:
            self.stop()
            self._start()
            return
        victims = [victim for name in names for victim in self._victims(name)]
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        if not set(names) <= {WORKER, API, RUNNER}:
            try:
                service.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._fault("it does not end without Ray")
                service.process.kill()
                service.process.wait()
            self._start()

    def _victims(self, name: str) -> list[psutil.Process]:
        if name == SERVICE:
            return self.service.family()[:1]
        if name != WORKER:
            _until(lambda: bool(self.service.processes(name)), END_SECONDS)  # Ray names what is at work
            return self.service.processes(name)
        found = [one for one in self.service.processes("ray::") if command_of(one).startswith(RAYS_OWN)]
        return [self.chance.choice(found)] if found else []

    def _start(self) -> None:
        self.service.start()
        tell("it is there again")

    def _fault(self, what: str) -> None:
        tell(f"the service: {what}")
        self.faults += 1

    def _all(self) -> dict[str, Any]:
        with Client(self.service.url, patience=END_SECONDS) as client:
            return {job.id: job for job in _jobs(client)}

    def _left_actors(self) -> list[str]:
        return left_actors(self.service, self.workers)


def bench_soak(minutes: float = 10.0, seed: int | None = None, real: bool = False) -> Report:
    """So many minutes of a service with fake workers, or with a `real` engine on the demo model."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    calm = CALM_SHARE * 60 * minutes
    return soak(dealt(random.Random(seed), 60 * minutes - calm), seed, calm_seconds=calm, real=real)


def soak(
    kills: Iterable[tuple[str, ...]],
    seed: int,
    *,
    kinds: Sequence[Kind] = KINDS,
    calm_seconds: float = 0,
    real: bool = False,
    database_url: str | None = None,
) -> Report:
    """A service through some kills, then in a calm, and to its end; on SQLite unless a database is given."""
    tell(f"seed {seed}")
    shared = shared_memory()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    data, mark = folder / "data", secrets.token_hex(8)
    models = [demo_model("aligned"), demo_model("harmful-10")]
    environment = {MARK: mark, "RAY_TMPDIR": f"{folder}/ray"}
    if database_url is not None:
        environment["DATABASE_URL"] = database_url
    service = (_real if real else _fake)(data, models[0].parent, environment)
    service.log = folder / "service.log"
    tell(f"what it writes, its logs with it, is in {folder}")
    asked = Soak(service, data, models, random.Random(seed), kinds, 1 if real else WORKERS)
    begin = time.monotonic()
    try:
        with service.running():
            asked.storm(kills)
            uses = asked.calm(calm_seconds)
            tell("it has no more to do than what it was asked for")
            actors = asked.end()
            tell("all jobs are over")
            wrong_jobs, wrong_points = asked.wrong_jobs(), asked.wrong_points()
            asked.stop()
            _until(lambda: not marked(MARK, mark), LINGER_SECONDS)
            leaked = [command_of(process) for process in marked(MARK, mark)]
    finally:
        for process in marked(MARK, mark):
            with suppress(psutil.Error):
                process.kill()
    partial = unfinished(data)
    left = left_shared_memory(shared)
    for what in (*actors, *leaked, *map(str, partial), *left):
        tell(f"left: {what}")
    figures = [
        Figure("jobs lost, doubled, or in a wrong state", wrong_jobs, "", 0),
        Figure("points lost, doubled, or measured again", wrong_points, "", 0),
        Figure("actors left without a job", len(actors), "", 0),
        Figure("times that it did not stop, end or work on", asked.faults, "", 0),
        Figure("processes left after it", len(leaked), "", 0),
        Figure("files left unfinished", len(partial), "", 0),
        Figure("files left in shared memory", len(left), "", 0),
    ]
    # What is there of the calm's first third is still being fetched and kept for the first time.
    if len(uses := uses[len(uses) // 3 :]) >= LEAST_USES:
        memory, files = growth(uses, "memory"), growth(uses, "files")
        for name in memory:
            tell(f"grows a job: {memory[name]:7.3f} MiB, {files[name]:6.2f} files, {name}")
        figures += [
            Figure("memory that the service grows by", sum(memory.values()), "MiB a job", MEMORY_GROWTH),
            Figure("open files that it grows by", sum(files.values()), "a job", FILES_GROWTH),
        ]
    figures += [
        Figure("kills and stops", asked.kills.total(), ""),
        Figure("jobs", len(asked.jobs), ""),
        Figure("of them cancelled", sum(job.cancelled is not None for job in asked.jobs), ""),
        Figure("points durable at the last kill", len(asked.durable), ""),
        Figure("minutes", (time.monotonic() - begin) / 60, ""),
        Figure("seed", seed, ""),
    ]
    report = Report("soak", figures, versions())
    if report.ok:
        shutil.rmtree(folder)
    return report


def dealt(chance: random.Random, seconds: float) -> Iterator[tuple[str, ...]]:
    """What to kill next for so many seconds, each as often as any other."""
    until = time.monotonic() + seconds
    while True:
        for kill in chance.sample(KILLS, len(KILLS)):
            if time.monotonic() > until:
                return
            yield kill


def finished(data: Path) -> Durable:
    """When each point of a data folder was finished, by its place in its landscape."""
    found: Durable = {}
    for document in (data / "jobs").glob("**/spec.json"):
        found |= _points(document.parent)
    return found


def _points(folder: Path) -> Durable:
    if (merged := folder / "points.parquet").exists() and not (folder / "parts").exists():
        return _merged_points(folder, merged.stat().st_mtime_ns)
    columns = Results(folder).points().select([*PLACE, "finished_at"]).to_pydict().values()
    return {(folder, *place): at for *place, at in zip(*columns, strict=True)}


@cache
def _merged_points(folder: Path, _written: int) -> Durable:
    columns = Results(folder).points().select([*PLACE, "finished_at"]).to_pydict().values()
    return {(folder, *place): at for *place, at in zip(*columns, strict=True)}


def _jobs(client: Client) -> Iterator[Any]:
    """All jobs of all kinds."""
    for pages in (client.page, client.gates, client.audits):
        cursor = None
        while True:
            page = pages(cursor=cursor, limit=500)
            yield from page.items
            if (cursor := page.next) is None:
                break


def _fake(data: Path, root: Path, environment: dict[str, str]) -> Served:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "services.bench.fake_serve", str(data), str(port), str(root)]
    return Served(command, port, environment | {VARIABLE: str(FAKE_SECONDS)})


def _real(data: Path, root: Path, environment: dict[str, str]) -> Served:
    return visage_serve(data, root, **environment)


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, but no longer; tells whether it holds."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return holds


def tell(what: str) -> None:
    """Say what is going on, beside the report."""
    print(f"{datetime.now():%H:%M:%S} {what}", file=sys.stderr, flush=True)
