"""The tables of jobs, keys and runners."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("model", sa.String(1024), nullable=False),
        sa.Column("label", sa.String(200)),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("prompts", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("progress", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.Column("runner", sa.String(32)),
        sa.Column("lease_until", MOMENT),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("webhook", sa.JSON),
        sa.Column("webhook_due", MOMENT),
        sa.Column("webhook_attempts", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "idempotency_key", name="jobs_idempotency"),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "priority", "id"])
    op.create_index("jobs_by_owner", "jobs", ["owner", "state", "started_at"])
    op.create_index("jobs_by_model", "jobs", ["model", "id"])
    op.create_index("jobs_by_runner", "jobs", ["runner"])
    op.create_index("jobs_by_webhook", "jobs", ["webhook_due"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT),
    )
    op.create_table(
        "runners",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("workers", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    for table in ("jobs", "keys", "runners"):
        op.drop_table(table)
