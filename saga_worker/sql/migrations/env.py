"""Alembic calls this module: it runs the revisions on the connection that `saga_worker.sql.migrate` opened."""

from __future__ import annotations

from alembic import context

from saga_worker.sql.migrate import VERSION_TABLE

config = context.config
context.configure(
    connection=config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=config.attributes["schema"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
