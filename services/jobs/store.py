"""Reading and writing jobs. Every change of a job goes through here, each in one transaction."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Select, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from services.jobs.database import now, writing
from services.jobs.limits import Limits
from services.jobs.states import OVER, Kind, State, require_follows
from services.jobs.tables import JobRow, KeyRow, RunnerRow
from visage_core.errors import InputError

# A runner that gives no sign of life for so long has lost its jobs.
LEASE = timedelta(seconds=15)
# Nobody else tells of a job's end meanwhile.
WEBHOOK_LEASE = timedelta(minutes=2)
# A job whose runner died so often without a point in between may be what kills it.
MOST_STARTS = 5
SINCE = "since"  # in a job's progress: since when it was running when that was told
JOB_ID = re.compile(r"[0-9a-f]{32}")


class NoSuchJobError(InputError):
    """There is no job of that id, or none that the caller may see."""


class ReplayError(InputError):
    """An idempotency key comes again with another request."""


class TooLargeError(InputError):
    """A job that is larger than a key's limits: it can never be taken."""


class QueueFullError(InputError):
    """A key's unfinished jobs leave no room for another one now."""


class NotOverError(InputError):
    """What only a finished job allows is asked of an unfinished one."""


@dataclass(frozen=True)
class Submission:
    """What is asked for. `spec`, and what it may cost (`points`, `prompts` and `tokens`), are as in the
    table."""

    spec: dict[str, Any]
    points: int
    prompts: int
    tokens: int
    owner: str
    label: str | None = None
    priority: int = 0
    webhook: dict[str, Any] | None = None
    idempotency_key: str | None = None
    request: dict[str, Any] | None = None
    kind: Kind = Kind.LANDSCAPE
    traceparent: str | None = None

    @property
    def asked(self) -> str:
        """The field of the request that decides how large the job is."""
        return "spec" if self.kind == Kind.LANDSCAPE else "policy"

    @property
    def model(self) -> str:
        """The model that the job is filed under."""
        models: list[str] = self.spec["models"] if self.kind == Kind.AUDIT else [self.spec["model"]]
        return models[0]

    def digest(self) -> str:
        """SHA-256 over the request as it was sent, where that is given, to tell a repeated one from another
        under the same key."""
        request = self.request or [self.spec, self.label, self.priority, self.webhook]
        return digest_of(request)


def digest_of(request: Any) -> str:
    """SHA-256 over a JSON document, in hexadecimal."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Page:
    """Some jobs, the newest first, and the cursor of the next page; None at the end."""

    jobs: list[JobRow]
    next: str | None


class Jobs:
    """The jobs in a database. Rows that are given out are detached: they do not change any more."""

    def __init__(self, engine: Engine) -> None:
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    def submit(self, submission: Submission, limits: Limits | None = None) -> tuple[JobRow, bool]:
        """Add a job; gives it and whether it is new. A repeated idempotency key gives the first job.

        Raises ReplayError where the key was used for another request, TooLargeError and QueueFullError
        where the owner's limits leave no room.
        """
        row = JobRow(
            id=_new_id(),
            kind=submission.kind,
            revision=1,
            state=State.QUEUED,
            spec=submission.spec,
            model=submission.model,
            label=submission.label,
            owner=submission.owner,
            priority=submission.priority,
            points=submission.points,
            prompts=submission.prompts,
            tokens=submission.tokens,
            done=0,
            idempotency_key=submission.idempotency_key,
            request_digest=submission.digest(),
            traceparent=submission.traceparent,
            created_at=now(),
            starts=0,
            webhook=submission.webhook,
            webhook_attempts=0,
        )
        try:
            with self._writing() as session:
                _take_turn(session, submission.owner)
                first = _first_of(session, submission.owner, submission.idempotency_key, row.request_digest)
                if first is not None:
                    return first, False
                if limits is not None:
                    _require_room(submission, limits, _usage(session, submission.owner))
                session.add(row)
        except IntegrityError:
            with self._sessions() as session:
                first = _first_of(session, submission.owner, submission.idempotency_key, row.request_digest)
            assert first is not None
            return first, False
        return row, True

    def submitted(self, owner: str, idempotency_key: str, request: dict[str, Any]) -> JobRow | None:
        """The job that the same request made under this key before. Raises ReplayError."""
        with self._sessions() as session:
            return _first_of(session, owner, idempotency_key, digest_of(request))

    def get(self, job: str, owner: str | None = None, kind: Kind | None = None) -> JobRow:
        """A job by its id; with `owner`, only one of that key, with `kind`, only one of that kind. Raises
        NoSuchJobError."""
        with self._sessions() as session:
            row = session.get(JobRow, job) if JOB_ID.fullmatch(job) else None
        if row is None or owner not in (None, row.owner) or kind not in (None, row.kind):
            raise NoSuchJobError("id", f"there is no job {job!r}", "List the jobs to find its id")
        return row

    def page(
        self,
        *,
        kind: Kind | None = None,
        owner: str | None = None,
        state: State | None = None,
        model: str | None = None,
        label: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Page:
        """The newest jobs, or those before a cursor."""
        query = select(JobRow).order_by(JobRow.id.desc()).limit(limit + 1)
        wanted = {"kind": kind, "owner": owner, "state": state, "model": model, "label": label}
        for column, value in wanted.items():
            if value is not None:
                query = query.where(getattr(JobRow, column) == value)
        if before is not None:
            query = query.where(JobRow.id < before)
        rows = self._all(query)
        return Page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)

    def revisions(self, jobs: Collection[str]) -> dict[str, int]:
        """The revision of each of some jobs that is there."""
        with self._sessions() as session:
            found = session.execute(select(JobRow.id, JobRow.revision).where(JobRow.id.in_(jobs)))
            return {row.id: row.revision for row in found}

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        with self._sessions() as session:
            found = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)).all()
        return dict.fromkeys(State, 0) | {State(state): count for state, count in found}

    def take(self, runner: str, above: int | None = None) -> JobRow | None:
        """The job that is next, now running under `runner`'s lease; None where none waits.

        Highest priority first; among equals the key whose last start lies longest back, so that one key's
        many jobs do not hold up another's; then the oldest. With `above`, only a job of higher priority.
        """
        last_start = (
            select(JobRow.owner, func.max(JobRow.started_at).label("at")).group_by(JobRow.owner).subquery()
        )
        query = (
            select(JobRow)
            .join(last_start, last_start.c.owner == JobRow.owner)
            .where(JobRow.state == State.QUEUED)
            .order_by(JobRow.priority.desc(), last_start.c.at.asc().nulls_first(), JobRow.id)
            .limit(1)
        )
        if above is not None:
            query = query.where(JobRow.priority > above)
        while True:
            rows = self._all(query)
            if not rows:
                return None
            if (row := self._claim(rows[0].id, runner)) is not None:
                return row

    def beat(self, runner: str, workers: list[dict[str, Any]]) -> dict[str, State]:
        """A runner's sign of life: keeps its leases, and gives the states of its jobs, in which somebody
        may have asked for the end of one. A job that is not there has been lost."""
        with self._writing() as session:
            session.merge(RunnerRow(id=runner, seen_at=now(), workers=workers))
            session.execute(delete(RunnerRow).where(RunnerRow.seen_at < now() - 100 * LEASE))
            session.execute(update(JobRow).where(JobRow.runner == runner).values(lease_until=now() + LEASE))
            held = session.execute(select(JobRow.id, JobRow.state).where(JobRow.runner == runner))
            return {job: State(state) for job, state in held}

    def runners(self) -> list[RunnerRow]:
        """The runners that are alive."""
        return self._all(select(RunnerRow).where(RunnerRow.seen_at > now() - LEASE))

    def note(self, job: str, runner: str, done: int, progress: dict[str, Any]) -> bool:
        """Note how far a job is that `runner` has; False where the lease is lost."""
        with self._writing() as session:
            row = _held(session, job, runner)
            if row is None:
                return False
            progress = progress | {SINCE: _begin(row)}
            if progress != row.progress:
                row.starts = 0 if done > row.done else row.starts
                row.done, row.progress = done, progress
                row.revision += 1
            return True

    def end(self, job: str, runner: str, state: State, error: dict[str, Any] | None = None) -> bool:
        """Note the end of a job that `runner` has; False where the lease is lost."""
        with self._writing() as session:
            row = _held(session, job, runner)
            if row is None:
                return False
            _change(row, state)
            row.error = error
            return True

    def put_back(self, job: str, runner: str, *, blameless: bool) -> bool:
        """Give up a job that `runner` has: it is cancelled where that was asked for, else it goes back to the
        queue. Unless that is `blameless`, it has failed once it was started too often. False where the
        lease is lost."""
        with self._writing() as session:
            row = _held(session, job, runner)
            if row is None:
                return False
            row.starts -= blameless
            if row.state == State.CANCELLING:
                _change(row, State.CANCELLED)
            else:
                _put_back(row)
            return True

    def cancel(self, job: str, owner: str | None = None, kind: Kind | None = None) -> JobRow:
        """Ask for the end of a job. One that is over stays as it is. Raises NoSuchJobError."""
        self.get(job, owner, kind)
        with self._writing() as session:
            row = session.get(JobRow, job, with_for_update=True)
            if row is not None and row.state == State.QUEUED:
                _change(row, State.CANCELLED)
            elif row is not None and row.state == State.RUNNING:
                _change(row, State.CANCELLING)
        return self.get(job, owner)

    def require_over(self, job: str, owner: str | None = None, kind: Kind | None = None) -> JobRow:
        """A job that is over. Raises NoSuchJobError, and NotOverError."""
        row = self.get(job, owner, kind)
        if row.state not in OVER:
            raise NotOverError("id", f"the job is {row.state}", "Cancel it, and wait for its end")
        return row

    def delete(self, job: str) -> None:
        """Remove a job that is over."""
        with self._writing() as session:
            session.execute(delete(JobRow).where(JobRow.id == job, JobRow.state.in_(OVER)))

    def recover(self) -> list[str]:
        """Put jobs back into the queue whose runner gives no sign of life any more; their ids."""
        lost = select(JobRow.id).where(
            JobRow.state.in_([State.RUNNING, State.CANCELLING]), JobRow.lease_until < now()
        )
        found = []
        for job in self._all(lost):
            with self._writing() as session:
                row = session.get(JobRow, job, with_for_update=True)
                if row is None or row.lease_until is None or row.lease_until >= now():
                    continue
                if row.state == State.CANCELLING:
                    _change(row, State.CANCELLED)
                else:
                    # A runner reads a job's models before it tells of it, and draws its figures when all
                    # points are there. Between, it waits for workers, and is not what it dies of.
                    waits = (row.progress or {}).get(SINCE) == _begin(row) and row.done < row.points
                    row.starts = max(0, row.starts - waits)
                    _put_back(row)
                found.append(job)
        return found

    def pace(self, model: str) -> float | None:
        """Seconds of workers for each prompt answered, of the last finished landscape of a model; None where
        none of the last few tells: an adaptive one may have answered fewer than were reckoned with."""
        query = (
            select(JobRow)
            .where(JobRow.model == model, JobRow.state == State.DONE, JobRow.kind == Kind.LANDSCAPE)
            .order_by(JobRow.id.desc())
            .limit(10)
        )
        for row in self._all(query):
            if row.progress and row.done and row.prompts and not row.spec.get("adaptive"):
                answered = row.prompts * row.done / row.points
                return float(row.progress["worker_seconds"]) / answered or None
        return None

    def take_webhooks(self, most: int = 20) -> list[JobRow]:
        """At most so many finished jobs that somebody wants to be told of now. They are due again later,
        unless `webhook_tried` says otherwise."""
        due = select(JobRow).where(JobRow.webhook_due <= now()).limit(most)
        with self._writing() as session:
            rows = list(session.scalars(due.with_for_update(skip_locked=True)))
            for row in rows:
                row.webhook_due = now() + WEBHOOK_LEASE
        return rows

    def webhook_tried(self, job: str, again: datetime | None) -> None:
        """Note an attempt to tell of a job's end; `again` says when the next is due, None for never."""
        with self._writing() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.id == job)
                .values(webhook_due=again, webhook_attempts=JobRow.webhook_attempts + 1)
            )

    def _claim(self, job: str, runner: str) -> JobRow | None:
        """Take a queued job, unless another runner was faster."""
        with self._writing() as session:
            row: JobRow | None = session.get(JobRow, job, with_for_update=True)
            if row is None or row.state != State.QUEUED:
                return None
            _change(row, State.RUNNING)
            row.runner, row.lease_until, row.started_at = runner, now() + LEASE, now()
            row.starts += 1
            return row

    def _all(self, query: Select[Any]) -> list[Any]:
        with self._sessions() as session:
            return list(session.scalars(query))

    def _writing(self) -> Any:
        return writing(self._sessions())


def _first_of(session: Session, owner: str, key: str | None, digest: str) -> JobRow | None:
    """The job of an earlier request with the same idempotency key."""
    if key is None:
        return None
    query = select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == key)
    row: JobRow | None = session.scalars(query).one_or_none()
    if row is not None and row.request_digest != digest:
        raise ReplayError(
            "Idempotency-Key",
            f"{key!r} was used for another request (job {row.id})",
            "Use a new key for a new request",
        )
    return row


def _take_turn(session: Session, owner: str) -> None:
    """Let one submission of an owner after another be looked at, or two could both fill the last place."""
    if session.get(KeyRow, owner, with_for_update=True) is None and (
        session.get_bind().dialect.name == "postgresql"
    ):
        # Who has no key has no row to lock. SQLite lets in one writer at a time anyway.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(owner))))


def _begin(row: JobRow) -> str | None:
    """When a job was begun the last time, as JSON has it."""
    return None if row.started_at is None else row.started_at.isoformat()


def _put_back(row: JobRow) -> None:
    """Put a job back into the queue, unless it may be what its runners die of."""
    if row.starts < MOST_STARTS:
        _change(row, State.QUEUED)
        return
    _change(row, State.FAILED)
    row.error = {
        "field": "model",
        "problem": f"the job was begun {row.starts} times and broken off each time before it was under way",
        "remedy": "Look into the service's log for the reason",
    }


def _held(session: Session, job: str, runner: str) -> JobRow | None:
    row = session.get(JobRow, job, with_for_update=True)
    return row if row is not None and row.runner == runner else None


def _change(row: JobRow, state: State) -> None:
    require_follows(State(row.state), state)
    row.state = state
    row.revision += 1
    if state in OVER or state == State.QUEUED:
        row.runner = row.lease_until = None
    if state in OVER:
        row.finished_at = now()
        if row.webhook is not None:
            row.webhook_due = now()


def _usage(session: Session, owner: str) -> dict[str, int]:
    columns = (JobRow.points, JobRow.prompts, JobRow.tokens)
    query = select(func.count(), *(func.coalesce(func.sum(column), 0) for column in columns)).where(
        JobRow.owner == owner, JobRow.state.not_in(OVER)
    )
    found = session.execute(query).one()
    return dict(zip(("jobs", "points", "prompts", "tokens"), map(int, found), strict=True))


def _require_room(submission: Submission, limits: Limits, usage: dict[str, int]) -> None:
    for name, most in limits.model_dump().items():
        wanted = 1 if name == "jobs" else getattr(submission, name)
        if wanted > most:
            raise TooLargeError(
                submission.asked,
                f"the job has {wanted:,} {name}, and this key may have {most:,}",
                "Make it smaller",
            )
        if usage[name] + wanted > most:
            raise QueueFullError(
                submission.asked,
                f"the unfinished jobs of this key have {usage[name]:,} {name}, this one {wanted:,}, and the "
                f"key may have {most:,}",
                "Wait until some are finished, or cancel some",
            )


def _new_id() -> str:
    """32 hexadecimal digits that sort by time: milliseconds since 1970, nanoseconds, then chance."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    return f"{milliseconds:012x}{nanoseconds:05x}{secrets.token_hex(8)[1:]}"
