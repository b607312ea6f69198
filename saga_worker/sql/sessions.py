"""Transactions that this package and a user's `AsyncSession` share: ours, for local steps, or the user's own.

Takes a database URL; guarantees that both write through one connection and commit together, and that a session's
own commit or rollback ends only what the session did. Imported by the few processes that have local steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from saga_worker.saga.errors import ConfigurationError
from saga_worker.sql.connection import Connection, UnknownCommit, connect_options, dsn_of, limits_of, outcome_is_unknown

_LIMITS = "SELECT " + ", ".join(f"set_config('{n}', '{v}', true)" for n, v in limits_of("2s", "15s").items())


class Sessions:
    """A small pool of connections of its own, so that local steps cannot starve the other stages."""

    def __init__(self, url: str, schema: str, *, size: int, pgbouncer: bool = False) -> None:
        options = connect_options("saga_worker local steps", pgbouncer)

        async def connect() -> Any:
            return await asyncpg.connect(dsn_of(url), **options)

        self._schema = schema
        self._engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=connect, pool_size=size, max_overflow=0,
            connect_args={"prepared_statement_cache_size": 0} if pgbouncer else {},
        )  # fmt: skip

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[tuple[Connection, AsyncSession]]:
        """One transaction, ours and the session's; raises `UnknownCommit` as `Database.transaction` does."""
        async with self._engine.connect() as connection:
            transaction = await connection.begin()
            try:
                await connection.exec_driver_sql(_LIMITS)  # the first statement begins the transaction
                raw = (await connection.get_raw_connection()).driver_connection
                assert raw is not None
                async with AsyncSession(
                    connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
                ) as session:
                    yield Connection(raw, self._schema), session
            except BaseException:
                await transaction.rollback()
                raise
            await self._commit(connection)

    async def close(self) -> None:
        await self._engine.dispose()

    async def _commit(self, connection: AsyncConnection) -> None:
        try:
            await connection.commit()
        except Exception as error:
            cause = driver_error(error)
            if outcome_is_unknown(cause):
                await connection.invalidate()
                raise UnknownCommit("COMMIT got no answer.") from error
            raise cause from error


async def joined(session: AsyncSession, schema: str) -> Connection:
    """A connection to our tables inside the transaction of an application's own session, which ends it.

    Raises `ConfigurationError` when the session does not reach PostgreSQL by asyncpg.
    """
    await session.execute(text("SELECT 1"))  # the first statement begins the transaction
    raw = (await (await session.connection()).get_raw_connection()).driver_connection
    if not isinstance(raw, asyncpg.Connection):
        raise ConfigurationError(
            "The session belongs to an engine that does not use asyncpg; make it with a postgresql+asyncpg:// URL."
        )
    return Connection(raw, schema)


def driver_error(error: Exception) -> Exception:
    """The driver's error inside one of SQLAlchemy's, so that it is judged like all others."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig.__cause__ or error.orig
        return cause if isinstance(cause, Exception) else error
    return error
