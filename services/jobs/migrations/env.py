"""Alembic's entry: migrate over the connection that `services.jobs.database.migrate` hands in."""

from __future__ import annotations

from alembic import context

from services.jobs.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
