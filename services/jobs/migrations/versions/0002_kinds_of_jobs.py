"""Jobs have a kind: landscape, as all were before, or gate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.String(16), nullable=False, server_default="landscape"))
    op.create_index("jobs_by_kind", "jobs", ["kind", "id"])


def downgrade() -> None:
    # What is older would take a gate for a landscape.
    op.execute("DELETE FROM jobs WHERE kind <> 'landscape'")
    op.drop_index("jobs_by_kind", "jobs")
    op.drop_column("jobs", "kind")
