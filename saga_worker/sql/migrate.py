"""Brings a database to this release's schema, or says that it does not fit.

Takes a database URL and a schema name, guarantees that only one process migrates at a time and that a failed
migration leaves nothing behind. `worker` calls `check` before it takes any work.

A revision that workers of the release before can live with (it only adds, and what it adds has a default) says
`expand = True`. The schema notes from which revision on releases may run on it, so that two run side by side in a
rolling deploy; what the older one still needs is taken away one release later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from saga_worker.saga.errors import SchemaMismatch
from saga_worker.sql import DEFAULT_SCHEMA, in_schema, quoted
from saga_worker.sql.connection import dsn_of

if TYPE_CHECKING:  # importing the two takes as long as all of a worker's start, and a worker only checks
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

VERSION_TABLE: Final = "schema_version"
_ATTEMPTS: Final = 10
_LOCK_NOT_AVAILABLE: Final = "55P03"
# As JSON, since a schema that an earlier release has migrated lacks the second column.
_STATE: Final = "SELECT version_num, to_jsonb(v) ->> 'compatible_from' FROM {} AS v"


async def upgrade(database_url: str, *, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Run the missing migrations; the revision before them, None when there were no tables.

    A table that stays locked for 2 s is tried again, ten times. The schema of a newer release is left alone; raises
    `SchemaMismatch` if this one cannot run on it.
    """
    quoted(schema)
    engine = _engine(database_url)
    try:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with engine.begin() as connection:
                    return await connection.run_sync(_upgrade, schema)
            except Exception as error:
                if attempt == _ATTEMPTS or _sqlstate(error) != _LOCK_NOT_AVAILABLE:
                    raise
                await asyncio.sleep(0.2 * attempt)
    finally:
        await engine.dispose()


async def check(database_url: str, *, schema: str = DEFAULT_SCHEMA) -> None:
    """Raise `SchemaMismatch` unless this release can run on the schema: its own, or a newer one that allows it."""
    connection = await asyncpg.connect(dsn_of(database_url), timeout=5, command_timeout=15, statement_cache_size=0)
    try:
        found = await _state(connection, schema)
    finally:
        await connection.close()
    _judge(found, schema)


@dataclass(frozen=True, slots=True)
class _State:
    """The revision of a schema, and the oldest whose release may run on it; None: it was never noted."""

    revision: str
    compatible_from: str | None


def _judge(found: _State | None, schema: str) -> None:
    wanted = head()
    if found is None or found.revision < wanted:
        revision = found.revision if found is not None else "none"
        raise SchemaMismatch(
            f"Schema {schema} is at revision {revision}, this release needs {wanted}: run `saga-worker db upgrade`."
        )
    oldest = found.compatible_from or found.revision
    if wanted < oldest:
        raise SchemaMismatch(
            f"Schema {schema} is at revision {found.revision}, where only releases of revision {oldest} or later can"
            f" run; this one is of revision {wanted}: run a newer release."
        )


def head() -> str:
    """The newest revision this release knows."""
    versions = files("saga_worker.sql.migrations").joinpath("versions").iterdir()
    return max(name.partition("_")[0] for name in (file.name for file in versions) if name.endswith(".py"))


def run_script(name: str) -> None:
    """For revisions: run a file beside them, statement by statement (the driver prepares each one)."""
    from alembic import op

    schema = op.get_context().config.attributes["schema"]  # type: ignore[union-attr]
    script = files("saga_worker.sql.migrations").joinpath("versions", name).read_text(encoding="utf-8")
    for statement in in_schema(script, schema).split(";\n\n"):
        op.get_bind().exec_driver_sql(statement)


def _upgrade(connection: Connection, schema: str) -> str | None:
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import text

    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    # Transaction level, so that it also holds behind PgBouncer; the second process waits, then finds nothing to do.
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"migrate {schema}"})
    connection.execute(text("SET LOCAL lock_timeout = '2s'"))
    connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    before = MigrationContext.configure(connection, opts=options).get_current_revision()
    if before is not None and before > head():
        row = connection.exec_driver_sql(_STATE.format(_version_table(schema))).one()
        _judge(_State(*row), schema)
        return before
    config = _config()
    config.attributes.update(connection=connection, schema=schema)
    command.upgrade(config, "head")
    _note_compatibility(connection, schema, ScriptDirectory.from_config(config))
    return before


def _note_compatibility(connection: Connection, schema: str, scripts: ScriptDirectory) -> None:
    """The newest revision that the release before could not live with; all since then only add."""
    all_revisions = scripts.walk_revisions()  # newest first
    oldest = next(each.revision for each in all_revisions if not getattr(each.module, "expand", False))
    table = _version_table(schema)
    if connection.exec_driver_sql(_STATE.format(table)).one()[1] == oldest:
        return
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS compatible_from text")
    connection.exec_driver_sql(f"UPDATE {table} SET compatible_from = '{oldest}'")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _engine(database_url: str) -> AsyncEngine:
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn_of(database_url), timeout=5, statement_cache_size=0)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)


async def _state(connection: asyncpg.Connection, schema: str) -> _State | None:
    table = _version_table(schema)
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return None
    row = await connection.fetchrow(_STATE.format(table))
    return _State(*row) if row is not None else None


def _version_table(schema: str) -> str:
    return f"{quoted(schema)}.{VERSION_TABLE}"


def _sqlstate(error: Exception) -> str | None:
    return getattr(getattr(error, "orig", error), "sqlstate", None)
