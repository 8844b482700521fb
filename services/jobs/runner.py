"""The runner: takes jobs from the table and measures them, several at a time, on engines that they share."""

from __future__ import annotations

import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog
from ray.exceptions import RayActorError, RayError
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, stop_after_delay, wait_exponential

from services import traces
from services.audit.audit import Audit, AuditCancelled
from services.gate.evidence import BASELINE, MODEL
from services.gate.gate import Gate, conclude
from services.jobs.allowed import Allowed
from services.jobs.audits import AuditTally
from services.jobs.gates import Tally
from services.jobs.states import Kind, State
from services.jobs.storage import Storage
from services.jobs.store import LEASE, Jobs
from services.jobs.tables import JobRow
from services.jobs.webhooks import deliver
from services.sweep.cluster import this_node
from services.sweep.coordinator import CANCELLED, WORKING, FolderBusyError, Progress
from services.sweep.engines import Engines
from services.sweep.plan import make_plan
from services.sweep.run import Run
from visage_core.errors import InputError
from visage_core.policy import recorded_policy
from visage_core.results import Results
from visage_core.spec import parse_spec

TICK_SECONDS = 1.0
# Progress of a job is noted at most so often: each note is a write to the disk.
NOTE_SECONDS = 1.0
# Of an audit's time, where there is much to count and to keep.
NOTE_SHARE = 0.05
# An end that comes with a shutdown waits so long for what is under way.
STOP_SECONDS = 20.0
# After an outage of a bucket or of Ray no job is taken for a while: it would end in the same way.
PAUSE_SECONDS = 10.0
# A runner whose signs of life do not arrive ends its jobs itself before another one takes them over.
SILENCE_SECONDS = LEASE.total_seconds() - 5
MESSENGERS = 4
# Of a job that was measured, or broken off: its finished points, its progress, and whether it is whole.
_Last = tuple[int, dict[str, Any], bool]
log = structlog.get_logger("visage.runner")


@dataclass
class _Driver:
    """A job under way: the thread that runs it, and what to stop."""

    row: JobRow
    thread: threading.Thread
    run: Run | Gate | Audit | None = None
    trace: str | None = None  # of its span
    cancelled: threading.Event = field(default_factory=threading.Event)
    asked: bool = False  # by somebody who wants it cancelled; else it goes on later

    def cancel(self, asked: bool = False) -> None:
        """End the job, without waiting for that."""
        self.asked |= asked
        if not self.cancelled.is_set():
            self.cancelled.set()
            if self.run is not None:
                threading.Thread(target=self.run.cancel, daemon=True).start()


class Runner:
    """One at least is needed for jobs to get on; a lease on each job keeps several from each other's.

    `at_once` is how many jobs it runs at a time: with two, the next one starts while the last points of one
    are measured. A job of higher priority than all that run starts at once.
    """

    def __init__(
        self,
        jobs: Jobs,
        storage: Storage,
        allowed: Allowed,
        engines: Engines,
        at_once: int = 2,
        private_webhooks: bool = False,
    ) -> None:
        self.id = secrets.token_hex(16)
        self._jobs, self._storage, self._allowed, self._engines = jobs, storage, allowed, engines
        self._at_once = at_once
        self._private_webhooks = private_webhooks
        self._drivers: dict[str, _Driver] = {}
        self._messengers = ThreadPoolExecutor(MESSENGERS, thread_name_prefix="webhook")
        self._delivering: set[str] = set()
        self._paused_until = self._beaten = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End within seconds; jobs under way go back to the queue, and on from their durable points."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        self._end_all()
        deadline = time.monotonic() + STOP_SECONDS
        while self._drivers and time.monotonic() < deadline:
            with suppress(SQLAlchemyError):
                self._jobs.beat(self.id, [])
            time.sleep(TICK_SECONDS)
        self._engines.close()
        traces.flush()

    def _end_all(self) -> None:
        for driver in list(self._drivers.values()):
            driver.cancel()

    def _work(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self._tick()
            except SQLAlchemyError as error:
                # A database that is away for a moment comes back; until then jobs go on without it.
                log.warning("database", problem=str(error).splitlines()[0])
                if time.monotonic() - self._beaten > SILENCE_SECONDS:
                    self._end_all()

    def _tick(self) -> None:
        states = self._jobs.beat(self.id, self._workers())
        self._beaten = time.monotonic()
        for job, driver in list(self._drivers.items()):
            if states.get(job) != State.RUNNING:  # to be ended, or another runner's by now
                driver.cancel(asked=states.get(job) == State.CANCELLING)
        for job in states:
            if job not in self._drivers:  # its end could not be noted
                self._jobs.put_back(job, self.id, blameless=True)
        for job in self._jobs.recover():
            self._storage.tidy(job)
            log.info("recovered", job=job)
        if time.monotonic() >= self._paused_until:
            self._take()
        if free := MESSENGERS - len(self._delivering):
            for row in self._jobs.take_webhooks(free):
                self._delivering.add(row.id)
                self._messengers.submit(self._deliver, row)

    def _take(self) -> None:
        while True:
            above = None
            if len(self._drivers) >= self._at_once:
                above = max(driver.row.priority for driver in self._drivers.values())
            row = self._jobs.take(self.id, above)
            if row is None:
                return
            if row.id in self._drivers:  # whose thread is about to end
                self._jobs.put_back(row.id, self.id, blameless=True)
                return
            thread = threading.Thread(target=self._drive, args=(row,), name=f"job-{row.id}", daemon=True)
            self._drivers[row.id] = _Driver(row, thread)
            thread.start()

    def _workers(self) -> list[dict[str, Any]]:
        try:
            workers: list[dict[str, Any]] = self._engines.state()["workers"]
        except RayError:
            return []  # a run finds that out too, and mends it
        return workers

    def _drive(self, row: JobRow) -> None:
        """Run a job to its end, and note that, in the job's trace."""
        driver = self._drivers[row.id]
        about: traces.Attributes = {
            "visage.job": row.id,
            "visage.kind": row.kind,
            "visage.starts": row.starts,
        }
        with traces.span("job", row.traceparent, about) as span:
            driver.trace = traces.here(span)
            state = self._ended(row, driver)
            span.set_attribute("visage.state", state)
            if state == State.FAILED:
                traces.failed(span, state)

    def _ended(self, row: JobRow, driver: _Driver) -> str:
        """Run a job to its end, and note that; gives its state then."""
        log.info("started", job=row.id, model=row.model, owner=row.owner, starts=row.starts)
        error: InputError | None = None
        blameless = True
        try:
            state = self._measure(row, driver)
        except FolderBusyError:
            state = None  # a runner that is dead, but not yet all of it
        except RayActorError as problem:  # again and again, or the run would have mended it
            log.warning("interrupted", job=row.id, problem=str(problem).strip().splitlines()[0])
            state, blameless = None, False
        except InputError as problem:
            state, error = State.FAILED, problem
        except (RayError, OSError, SQLAlchemyError) as problem:
            log.warning("interrupted", job=row.id, problem=str(problem).strip().splitlines()[0])
            state = None
            self._paused_until = time.monotonic() + PAUSE_SECONDS
        except Exception as problem:
            log.exception("crashed", job=row.id)
            state = State.FAILED
            error = InputError("service", f"{type(problem).__name__} in the service", "See the service's log")
        told = None
        if error is not None:
            told = {"field": error.field, "problem": error.problem, "remedy": error.remedy}
        try:
            if state is None:
                noted = self._jobs.put_back(row.id, self.id, blameless=blameless)
            else:
                noted = self._jobs.end(row.id, self.id, state, told)
            log.info("ended", job=row.id, state=state or "put back", noted=noted, error=told)
        except (SQLAlchemyError, InputError) as problem:
            log.warning("end not noted", job=row.id, problem=str(problem).splitlines()[0])
        finally:
            self._storage.forget(row.id)
            del self._drivers[row.id]
        return state or "put back"

    def _measure(self, row: JobRow, driver: _Driver) -> State | None:
        """Measure what is left of a job; gives the state in which that leaves it, None where it is to go
        on later."""
        measures = {Kind.GATE: self._measure_gate, Kind.AUDIT: self._measure_audit}
        measure = measures.get(Kind(row.kind), self._measure_landscape)
        last = measure(row, driver, self._storage.fetch(row.id))
        if last is None:
            return _left(driver)
        done, document, whole = last
        if not self._jobs.note(row.id, self.id, done, document):
            return None  # another runner's by now, and so is what is stored
        # Not done before it is kept where it outlives this machine.
        for attempt in Retrying(wait=wait_exponential(max=60), stop=stop_after_delay(300), reraise=True):
            with attempt:
                self._storage.keep(row.id)
        return State.DONE if whole else _left(driver)

    def _measure_landscape(self, row: JobRow, driver: _Driver, folder: Path) -> _Last | None:
        plan = make_plan(self._allowed.resolve(parse_spec(row.spec)), workers_here=0)
        driver.run = run = Run(
            plan.on_node(this_node()),
            folder,
            self._engines,
            name=row.id,
            priority=row.priority,
            owner=row.owner,
            trace=driver.trace,
        )
        if driver.cancelled.is_set():
            return None
        progress = None
        for progress in run:
            if driver.cancelled.is_set() and progress.state != CANCELLED:
                run.cancel()  # it was asked for before there was something to cancel
            if progress.state == WORKING:
                self._note_if_possible(row.id, progress.done, _document(progress))
                time.sleep(NOTE_SECONDS)
        assert progress is not None
        return progress.done, _document(progress, Results(folder)), progress.state != CANCELLED

    def _measure_gate(self, row: JobRow, driver: _Driver, folder: Path) -> _Last | None:
        policy = recorded_policy(row.spec["policy"])
        models = {name: row.spec[name] for name in (MODEL, BASELINE) if row.spec[name] is not None}
        tally = Tally(row, policy)

        def told(name: str, _: int, progress: Progress) -> None:
            tally.measured(name, progress)
            if progress.state == WORKING:
                self._note_if_possible(row.id, tally.done, tally.document())
                time.sleep(NOTE_SECONDS)

        driver.run = gate = Gate(
            policy,
            models,
            folder,
            self._engines,
            told,
            resolve=self._allowed.resolve,
            name=row.id,
            priority=row.priority,
            owner=row.owner,
            trace=driver.trace,
        )
        if driver.cancelled.is_set():
            return None
        look = None
        for look in gate:
            tally.looked(look)
            self._note_if_possible(row.id, tally.done, tally.document())
        if look is None or not look.last:
            return tally.done, tally.document(), False
        conclude(policy, models, folder, look)
        return tally.done, tally.document(), True

    def _measure_audit(self, row: JobRow, driver: _Driver, folder: Path) -> _Last | None:
        policy = recorded_policy(row.spec["policy"])
        tally = AuditTally(row, policy, folder)
        due = 0.0

        def told(settled: int, of: int) -> None:  # noqa: ARG001
            nonlocal due
            begun = time.monotonic()
            if begun >= due:
                tally.count(settled)
                self._note_if_possible(row.id, tally.done, tally.document())
                took = time.monotonic() - begun
                due = time.monotonic() + max(NOTE_SECONDS, took / NOTE_SHARE)

        driver.run = audit = Audit(
            policy,
            row.spec["baseline"],
            folder,
            told=told,
            engines=self._engines,
            resolve=self._allowed.resolve,
            name=row.id,
            priority=row.priority,
            owner=row.owner,
            trace=driver.trace,
        )
        if driver.cancelled.is_set():
            return None
        document = None
        with suppress(AuditCancelled):
            document = audit.of(row.spec["models"])
        tally.count(audit.done)
        return tally.done, tally.document(document), document is not None

    def _note_if_possible(self, job: str, done: int, progress: dict[str, Any]) -> None:
        """Note how far a job is. What is away for a while, a database or a bucket, gets it the next time."""
        try:
            if self._jobs.note(job, self.id, done, progress):
                self._storage.keep(job)
        except (SQLAlchemyError, OSError) as error:
            log.warning("progress not noted", job=job, problem=str(error).splitlines()[0])

    def _deliver(self, row: JobRow) -> None:
        try:
            deliver(self._jobs, row, _message(row), self._private_webhooks)
        except Exception:
            log.exception("webhook failed", job=row.id)
        finally:
            self._delivering.discard(row.id)


def _message(row: JobRow) -> dict[str, Any]:
    """What is told of a job's end."""
    body: dict[str, Any] = {"id": row.id, "state": row.state, "label": row.label, "model": row.model}
    body |= {"points": row.points, "done": row.done, "error": row.error}
    if row.kind != Kind.LANDSCAPE:
        body |= {"name": row.spec["policy"]["name"], "baseline": row.spec["baseline"]}
    # Without its end a job has no score, and a gate or an audit no verdict.
    told = {Kind.LANDSCAPE: "visage", Kind.GATE: "verdict", Kind.AUDIT: "verdicts"}[Kind(row.kind)]
    body[told] = (row.progress or {}).get(told) if row.state == State.DONE else None
    return {"type": f"{row.kind}.finished", "data": body}


def _left(driver: _Driver) -> State | None:
    """What becomes of a job that was ended: unless somebody wanted that, it goes on later."""
    return State.CANCELLED if driver.asked else None


def _document(progress: Progress, finished: Results | None = None) -> dict[str, Any]:
    """A job's progress as the table has it; with the score where the results have one."""
    latest = None
    if progress.latest is not None:
        point, rate = progress.latest
        latest = asdict(point) | {"asr": rate}
    summary = finished and finished.read_json("summary.json")
    return {
        "points": progress.points,
        "done": progress.done,
        "failed": progress.failed,
        "eta_seconds": progress.eta_seconds,
        "worker_seconds": round(progress.worker_seconds, 3),
        "tokens": progress.tokens,
        "latest": latest,
        "estimate": progress.estimate and asdict(progress.estimate),
        "visage": summary and summary["landscapes"][0]["visage"],
    }
