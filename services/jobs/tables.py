"""The tables, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Index, String, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Moment(TypeDecorator[datetime]):
    """A time with its zone: SQLite forgets the zone, and every time here is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC))


class Table(DeclarativeBase):
    """The base of all tables."""


class JobRow(Table):
    """A job: a landscape, a release gate, whose `spec` has its policy, model and baseline, or an audit, whose
    `spec` has the policy, models and baseline. `id` sorts by the time of submission; `revision` rises with
    every change."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    # The default is that of rows from before there were gates.
    kind: Mapped[str] = mapped_column(String(16), server_default="landscape")
    revision: Mapped[int] = mapped_column(default=1)
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    model: Mapped[str] = mapped_column(String(1024))  # the first of an audit's
    label: Mapped[str | None] = mapped_column(String(200))
    owner: Mapped[str] = mapped_column(String(32))  # the API key's id, "local" where there are no keys
    priority: Mapped[int] = mapped_column(default=0)
    # What it may cost: its points, the prompts to answer at all of them, and the most tokens of the answers.
    points: Mapped[int]
    prompts: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    request_digest: Mapped[str] = mapped_column(String(64))
    # Where its trace goes on, whoever runs it: a W3C traceparent, null where nothing is traced.
    traceparent: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    # Who runs it, and until when that holds without a sign of life: two services never run one job.
    runner: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[datetime | None] = mapped_column(Moment)
    # Since its last finished point, but for those in which its runner died while it waited for workers.
    starts: Mapped[int] = mapped_column(default=0)
    webhook: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    webhook_due: Mapped[datetime | None] = mapped_column(Moment)  # null: nothing to deliver
    webhook_attempts: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key", name="jobs_idempotency"),
        Index("jobs_by_state", "state", "priority", "id"),
        Index("jobs_by_owner", "owner", "state", "started_at"),
        Index("jobs_by_model", "model", "id"),
        Index("jobs_by_kind", "kind", "id"),
        Index("jobs_by_runner", "runner"),
        Index("jobs_by_webhook", "webhook_due"),
    )


class KeyRow(Table):
    """An API key. Of its secret only the SHA-256 is here: it has 256 random bits, and nothing to guess."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    limits: Mapped[dict[str, int]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)


class RunnerRow(Table):
    """A process that runs jobs, and when it was last seen alive."""

    __tablename__ = "runners"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(Moment)
    workers: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
