"""A coordinator: one job's progress, from its spec to its durable points and its report."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from opentelemetry.trace import Span

from services import traces
from services.sweep import meters
from services.sweep.inputs import BEGUN, CHANGED, INPUTS, changes
from services.sweep.judging import JudgeActor, LateJudges
from services.sweep.plan import Plan
from services.sweep.report import write_summary
from services.sweep.schedule import Schedule, Shard
from visage_core.adaptive import wanted
from visage_core.errors import InputError
from visage_core.geometry import Geometry
from visage_core.grid import Point, points
from visage_core.landscape import estimate, has_visage, is_safety
from visage_core.metrics import Interval
from visage_core.paths import cache_dir
from visage_core.provenance import MeasuredBy, measured_by, other_versions
from visage_core.readings import readings, samples_of
from visage_core.results import (
    Measurement,
    PointResult,
    Results,
    ResultsError,
    by_prompt_set,
)
from visage_core.spec import differences

# A process that was killed a moment ago may still hold the folder's lease.
LEASE_SECONDS = 20.0
Verdicts = NDArray[np.float16]
WORKING, DONE, ENDED_EARLY, CANCELLED, FAILED = "working", "done", "ended early", "cancelled", "failed"


@dataclass(frozen=True)
class Progress:
    """How far a job is. `estimate` is what VISAGE of the first prompt set will probably be; `waiting` says
    what keeps all workers from measuring, in words."""

    revision: int
    state: str
    points: int
    done: int
    failed: int
    eta_seconds: float | None
    worker_seconds: float
    tokens: int
    latest: tuple[Point, float | None] | None
    estimate: Interval | None
    error: InputError | None
    waiting: str | None = None


class MixedVersionsError(InputError):
    """Workers of one job that have differing versions of visage or vLLM."""


class Coordinator:
    """Owns one job: hands out its points, writes finished ones to the disk before it acknowledges them, and
    knows how far it is. A Ray actor runs it, on the node that has the results folder.

    `stop_when` ends the job early once the 95 % interval of its running VISAGE is narrower. Without `report`
    the points stay as they came; without `folder` they lie in the cache of its machine, for a process on
    another one to fetch them. `judges` are the actors of judges that are models; `trace` is the
    traceparent for its points.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path | None,
        stop_when: float | None = None,
        report: bool = True,
        judges: dict[int, list[JudgeActor]] | None = None,
        trace: str | None = None,
    ) -> None:
        self._plan = plan
        # Ray's client lets a dead process' actors live for half a minute.
        self._lease_seconds = LEASE_SECONDS if folder else 3 * LEASE_SECONDS
        folder = folder or cache_dir() / "jobs" / plan.digest()
        self._results = Results(folder)
        self._lease = lease_of(folder)
        self._judge_models = judges or {}
        self._late_judges: LateJudges | None = None
        self._being_judged = 0
        self._stop_when = stop_when
        self._report = report
        self._trace = trace
        self._sizes = [len(part.prompts) for part in plan.prompts]
        keep = plan.spec.keep_responses
        self._kept_prompts = [part.prompts for part in plan.prompts] if keep else None
        self._known: dict[Point, None] = {}  # every point that has been asked for
        # The chief reading of each prompt set: what an adaptive sweep decides by. None: nothing is known.
        self._rates: list[dict[Point, float | None]] = [{} for _ in plan.prompts]
        self._batch = plan.spec.engine.max_num_seqs
        self._schedule = Schedule([], 0, self._batch)
        self._state = WORKING
        self._error: InputError | None = None
        self._revision = 0
        self._changed = asyncio.Condition()
        self._done = 0
        self._unwritten: list[tuple[list[PointResult], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._has_visage = has_visage(plan.spec, plan.spec.prompts[0])
        self._verdicts: dict[Point, Verdicts] = {}  # of the first prompt set, for the estimate
        self._estimate: Interval | None = None
        self._next_estimate = 0.0
        self._workers: list[dict[str, Any]] = []  # those that have measured, or may, as in MeasuredBy
        self._latest: tuple[Point, float | None] | None = None
        self._tokens, self._worker_seconds = 0, 0.0
        self._begun, self._measured = time.monotonic(), 0

    async def open(self) -> None:
        """Take the folder's lease and find out what is left. Raises ResultsError where another coordinator
        is at work in it, or where it holds another job, and InputError where a judge cannot be asked."""
        self._late_judges = LateJudges(self._plan, self._judge_models)
        await asyncio.to_thread(claim, self._results, self._plan, self._lease, self._lease_seconds)
        await asyncio.to_thread(self._results.tidy)
        plan, table = self._plan, await asyncio.to_thread(self._results.points)
        self._workers = [one for one in measured_by(table) if one is not None]
        done = set()
        for row in table.to_pylist():
            place = Point(row["seed"], row["alpha"], row["beta"])
            done.add(place)
            self._tokens += row["response_tokens"]
            self._worker_seconds += sum(row[f"{stage}_seconds"] for stage in ("move", "generate", "judge"))
            asked = plan.spec.prompts[row["prompt_set"]]
            chief = readings(plan.spec, asked)[0]
            self._rates[row["prompt_set"]][place] = row[chief.name]
            if row["prompt_set"] == 0 and self._has_visage:
                self._verdicts[place] = chief.by_prompt(row, samples_of(plan.spec, asked)).astype(np.float16)
        self._done = len(done)
        self._known = dict.fromkeys(self._wanted())
        self._schedule = Schedule([p for p in self._known if p not in done], sum(self._sizes), self._batch)
        self._begun = time.monotonic()
        await self._settle()

    def next(self, workers: int, ahead: bool = False, alone: bool = True) -> Shard | None:
        """The next piece of work for one of `workers`, as `Schedule.take` hands them out; None where there
        is none now."""
        shard = self._schedule.take(workers, ahead, alone)
        meters.queue_depth.set(self._schedule.left)
        return shard

    async def prepared(self, about: str, found: list[Geometry] | None) -> bool:
        """Take in a worker that is ready, and tell whether it may measure; `about` says with what, as
        `MeasuredBy.text` has it. What the first one found of the directions is the same for all."""
        if found is not None and self._results.read_json("geometry.json") is None:
            self._results.write_json("geometry.json", {"directions": [asdict(one) for one in found]})
        worker = MeasuredBy.model_validate_json(about).model_dump()
        changes = [change for known in self._workers for change in other_versions(worker, known)]
        if not changes or self._plan.spec.resources.mixed_versions:
            self._workers.append(worker)
            return True
        await self.abort(
            MixedVersionsError(
                "workers",
                f"a worker has {', '.join(dict.fromkeys(changes))}, as this landscape was begun with",
                "Install the same versions on all machines, or allow it by resources.mixed_versions: each "
                "point says what measured it",
            )
        )
        return False

    async def finished(self, shard: Shard, measurement: Measurement) -> None:
        """Take in a worker's result. Once a point is whole it is on the disk when this returns."""
        pieces = self._schedule.finish(shard, measurement)
        meters.measured(measurement)
        self._tokens += sum(response.tokens for response in measurement.responses)
        self._worker_seconds += (
            measurement.move_seconds + measurement.generate_seconds + measurement.judge_seconds
        )
        with meters.span(self._trace, measurement) as span:
            if pieces is not None and not await self._keep(shard.point, pieces, span):
                return
        await self._settle()

    async def _keep(self, point: Point, pieces: list[Measurement], span: Span) -> bool:
        """Have a whole point judged and written; False where the job was ended meanwhile, and the point is
        measured again."""
        results = by_prompt_set(pieces, self._sizes)
        if self._late_judges:
            self._being_judged += 1
            try:
                with traces.span("late judges", span):
                    results = await self._late_judges.judge(results)
            except InputError as error:
                await self.abort(error)
            finally:
                self._being_judged -= 1
            if self._finishing is not None:
                return False
        # Before it waits for the disk: nobody may find the job over meanwhile.
        self._take_note(point, results)
        with traces.span("write", span):
            await self._write(results)
        self._done += 1
        self._measured += 1
        if self._has_visage:
            self._verdicts[point] = results[0].by_prompt(self._plan.spec).astype(np.float16)
        rate = self._rates[0][point] if is_safety(self._plan.spec.prompts[0]) else None
        self._latest = (point, rate)
        meters.points.inc()
        return True

    async def lost(
        self, shard: Shard, reason: str, *, blamed: bool, suspect: bool = False, smaller_batch: bool = False
    ) -> None:
        """Take a piece back from a worker that failed, as `Schedule.put_back` does."""
        meters.retries.inc()
        self._schedule.put_back(shard, reason, blamed=blamed, suspect=suspect, smaller_batch=smaller_batch)
        await self._settle()

    def left(self) -> int:
        """How many pieces wait for a worker."""
        return self._schedule.left

    def reclaim(self) -> None:
        """Take back all that is under way: the pool that was at it is gone."""
        self._schedule.reclaim()

    async def receive(self, parts: dict[str, bytes]) -> None:
        """Before `open`: take in finished points that another machine has."""
        for name, content in parts.items():
            await asyncio.to_thread(self._results.add_part, name, content)

    async def send(self, known: set[str]) -> dict[str, bytes]:
        """The files of finished points that another machine lacks."""
        return await asyncio.to_thread(self._results.parts, known)

    def read_json(self, name: str) -> dict[str, object] | None:
        """A document of the results folder."""
        return self._results.read_json(name)

    def discard(self) -> None:
        """At the end: remove the results folder, which another machine has by now."""
        shutil.rmtree(self._results.folder, ignore_errors=True)

    async def abort(self, error: InputError) -> None:
        """End the job: it cannot be measured at all. Its finished points stay."""
        self._error = self._error or error
        await self._end(FAILED)

    async def cancel(self) -> None:
        """End the job; its finished points stay."""
        await self._end(CANCELLED)

    def progress(self) -> Progress:
        """How far the job is."""
        left = len(self._known) - self._done - len(self._schedule.failed)
        pace = (time.monotonic() - self._begun) / self._measured if self._measured else None
        return Progress(
            revision=self._revision,
            state=self._state,
            points=len(self._known),
            done=self._done,
            failed=len(self._schedule.failed),
            eta_seconds=None if pace is None else pace * left,
            worker_seconds=self._worker_seconds,
            tokens=self._tokens,
            latest=self._latest,
            estimate=self._estimate,
            error=self._error,
        )

    async def changed(self, since: int, timeout: float) -> Progress:
        """The progress, as soon as it is another than at revision `since`, or after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._revision != since)
        return self.progress()

    def _wanted(self) -> list[Point]:
        """The points to be measured, by what is known."""
        spec = self._plan.spec
        if not spec.adaptive:
            return points(spec)
        asked = zip(spec.prompts, self._rates, strict=True)
        return [point for prompts, rates in asked if is_safety(prompts) for point in wanted(spec, rates)]

    def _take_note(self, point: Point, results: list[PointResult]) -> None:
        """Note a point's rates, and ask for the points that an adaptive sweep wants then."""
        spec = self._plan.spec
        for rates, result in zip(self._rates, results, strict=True):
            rates[point] = result.rate(spec)
        if spec.adaptive:
            more = dict.fromkeys(one for one in self._wanted() if one not in self._known)
            self._known |= more
            self._schedule.add(more)

    async def _write(self, results: list[PointResult]) -> None:
        """Write a point; points that come while the disk is busy are written together."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwritten.append((results, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        await written

    async def _write_all(self) -> None:
        while self._unwritten:
            batch, self._unwritten = self._unwritten, []
            rows = [result for results, _ in batch for result in results]
            try:
                await asyncio.to_thread(self._results.add, self._plan.spec, rows, self._kept_prompts)
            except Exception as error:  # a disk fails in many ways, and no result may be lost in silence
                problem = _disk_error(self._results.folder, error)
                for _, written in batch:
                    written.set_exception(problem)
                self._error = problem
                self._end(FAILED)
            else:
                for _, written in batch:
                    written.set_result(None)

    async def _settle(self) -> None:
        """Tell what has changed, and finish the job where nothing is left."""
        if time.monotonic() >= self._next_estimate:
            await self._reckon()
        self._revision += 1
        if self._schedule.over and not self._being_judged:
            self._end(DONE)
        elif self._narrow_enough():
            self._end(ENDED_EARLY)
        async with self._changed:
            self._changed.notify_all()

    async def _reckon(self) -> None:
        """Bring the estimate up to date, where there is one; not more often than a twentieth of the time
        allows."""
        if not self._has_visage:
            return
        self._next_estimate = float("inf")  # not twice at the same time
        begin = time.monotonic()
        self._estimate = await asyncio.to_thread(estimate, self._plan.spec, dict(self._verdicts))
        spent = time.monotonic() - begin
        self._next_estimate = time.monotonic() + max(0.5, 20 * spent)

    def _narrow_enough(self) -> bool:
        interval = self._estimate
        return (
            self._stop_when is not None
            and interval is not None
            and interval.high - interval.low < self._stop_when
        )

    def _end(self, state: str) -> asyncio.Task[None]:
        """Begin to finish the job, unless that has begun."""
        if self._finishing is None:
            self._schedule.stop()
            self._finishing = asyncio.create_task(self._finish(state))
        return self._finishing

    async def _finish(self, state: str) -> None:
        """Merge what is there, write the report, and give the folder back."""
        if state != FAILED:
            try:
                if self._writing is not None:
                    await self._writing
                self._results.write_json(
                    "run.json",
                    {
                        "state": state,
                        "stop_when": self._stop_when,
                        "failed": [
                            {"seed": p.seed, "alpha": p.alpha, "beta": p.beta, "reason": reason}
                            for p, reason in self._schedule.failed.items()
                        ],
                        "tokens": self._tokens,
                        "worker_seconds": round(self._worker_seconds, 3),
                        "judge_costs": self._late_judges.costs() if self._late_judges else {},
                    },
                )
                if state == DONE:
                    await self._reckon()
                if state in (DONE, ENDED_EARLY) and self._report:
                    await asyncio.to_thread(self._results.merge)
                    await asyncio.to_thread(write_summary, self._results.folder)
            except Exception as error:
                self._error = _disk_error(self._results.folder, error)
                state = FAILED
        await asyncio.to_thread(traces.flush)  # the actor is killed once it is over
        self._lease.release()
        self._state = state
        self._revision += 1
        async with self._changed:
            self._changed.notify_all()


def lease_of(folder: Path) -> FileLock:
    """The lock of a results folder: one process at a time measures into it."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock", thread_local=False)


class FolderBusyError(ResultsError):
    """Another process is measuring into the results folder."""


@contextmanager
def alone_in(folder: Path, what: str, seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """Have a folder's lease; `what` wants it, and others may be at work there. Raises FolderBusyError where
    one is for longer than `seconds`."""
    lease = lease_of(folder)
    try:
        lease.acquire(timeout=seconds)
    except Timeout:
        raise FolderBusyError(
            "out", f"another {what} is at work in {folder}", "Wait for it, or use another folder"
        ) from None
    try:
        yield
    finally:
        lease.release()


def claim(results: Results, plan: Plan, lease: FileLock, seconds: float) -> None:
    """Take a folder's lease and make it this job's folder. Raises FolderBusyError where another process has
    it for longer than `seconds`, ResultsError where it holds another job."""
    try:
        lease.acquire(timeout=seconds)
    except Timeout:
        raise FolderBusyError(
            "out",
            f"another process is measuring in {results.folder}",
            "Wait for it, or use another folder",
        ) from None
    require_same_job(results, plan)
    begun = {BEGUN: datetime.now(UTC).isoformat(timespec="seconds")}
    for name, document in (("spec.json", _spec_of(plan)), (INPUTS, plan.inputs | begun)):
        if results.read_json(name) is None:
            results.write_json(name, document)


def require_same_job(results: Results, plan: Plan) -> None:
    """Refuse a folder that holds another job, saying how it differs. Raises ResultsError."""
    spec, inputs = results.read_json("spec.json"), results.read_json(INPUTS)
    lines = [] if spec is None else differences(_same_parts(spec), _same_parts(_spec_of(plan)))
    if inputs is not None:
        lines += changes(inputs, plan.inputs)
        if changed := inputs.get(CHANGED):
            lines.append(f"files changed while it was measured ({', '.join(changed)})")
    if lines:
        raise ResultsError(
            "out",
            f"{results.folder} holds another landscape: {'; '.join(lines)}",
            "Use another folder, or run with what that folder was begun with",
        )


def _spec_of(plan: Plan) -> dict[str, object]:
    return dict(plan.spec.model_dump(mode="json"))


def _same_parts(document: dict[str, object]) -> dict[str, object]:
    """What may not change within a job: all but the resources, which change no result, and the architecture,
    which follows from the model's digest and was not written at first."""
    return {name: value for name, value in document.items() if name not in ("resources", "architecture")}


def _disk_error(folder: Path, error: Exception) -> ResultsError:
    if isinstance(error, ResultsError):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ResultsError(
        "out",
        f"{folder} cannot be written: {'the disk is full' if full else error}",
        "Free some space" if full else "Mend the disk, and run the same command again",
    )
