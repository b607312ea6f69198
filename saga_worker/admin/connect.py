"""How commands reach the database: listings, fixed statements, and the stages' `Database` for acting.

Every error of connecting becomes a sentence; what only looks cannot write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from saga_worker.admin.failure import reaching
from saga_worker.settings import Settings, describe_url
from saga_worker.sql import migrate
from saga_worker.sql.connection import Connection, Database, single_connection

CONNECT_SECONDS: Final = 5
LISTING_SECONDS: Final = 300


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """For listings: a read-only connection through SQLAlchemy, as of one moment."""
    url = settings.database_url.get_secret_value()

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, command_timeout=LISTING_SECONDS, statement_cache_size=0,
            server_settings=None if settings.pgbouncer else {"application_name": "saga_worker listing"},
        )  # fmt: skip

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, hide_parameters=True, poolclass=NullPool
    )
    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with reaching("PostgreSQL", describe_url(url)):
        try:
            async with engine.connect() as connection:
                yield await connection.execution_options(**options)
        finally:
            await engine.dispose()


@asynccontextmanager
async def looking(settings: Settings) -> AsyncIterator[Connection]:
    """For fixed statements: one read-only transaction, all as of one moment."""
    url = settings.database_url.get_secret_value()
    with reaching("PostgreSQL", describe_url(url)):
        async with (
            single_connection(
                url, settings.schema_, application_name="saga_worker command", pgbouncer=settings.pgbouncer
            ) as connection,
            connection.raw.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection


@asynccontextmanager
async def acting(settings: Settings) -> AsyncIterator[Database]:
    """The database as the stages use it, after a look whether its schema fits."""
    url = settings.database_url.get_secret_value()
    with reaching("PostgreSQL", describe_url(url)):
        await migrate.check(url, schema=settings.schema_)
        database = Database(
            url, settings.schema_, max_size=2, application_name="saga_worker command", pgbouncer=settings.pgbouncer
        )
        await database.open()
        try:
            yield database
        finally:
            await database.close()
