"""Connections and transactions, as every table module uses them.

Takes a database URL and a schema, guarantees that a transaction runs under the time limits of this package, that it
is rolled back when its body raises, and that a COMMIT whose outcome is unknown is said to be so. Table modules get a
`Connection` and never open, commit or roll back anything themselves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import asyncpg

from saga_worker.saga.errors import ConfigurationError, SagaWorkerError
from saga_worker.sql import DEFAULT_SCHEMA, statements

CONNECT_SECONDS: Final = 5
COMMAND_SECONDS: Final = 15
_SCHEME: Final = re.compile(r"^(?:postgres|postgresql)(?:\+asyncpg)?://")
_DURATION: Final = re.compile(r"[0-9]{1,6}(?:ms|s|min)?")
# A sequential scan that is only just cheapest on an empty table would stay in the prepared plan when the table has
# grown. With it switched off the planner prices unavoidable ones so high that it would compile them: hence jit. A plan
# for the given arrays always looks cheaper than one for any, so that each batch was planned anew: reading the backlog
# of one saga took 0.55 ms instead of 0.13.
_PLANNER: Final = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}
_KEEPALIVE: Final = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
_DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError)
# What the driver says when a server has said farewell to an idle connection, whose end it has not read yet. It aborts
# the connection itself.
_LOST_ITS_PLACE: Final = "cannot switch to state"
_TRANSIENT_KINDS: Final = (
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
    asyncpg.TargetServerAttributeNotMatched,  # none of several hosts is the primary now
)
_TRANSIENT_CLASSES: Final = ("08", "40", "53")
_TRANSIENT_STATES: Final = frozenset(
    {"57P01", "57P02", "57P03", "57P04", "57P05", "57014", "55P03", "25006", "25P02", "25P03"}
)


class UnknownCommit(SagaWorkerError):
    """Nobody's: the connection ended while COMMIT was under way. Read what is there before anything is repeated."""


class AbortedTransaction(SagaWorkerError):
    """Ours: an error inside the transaction was swallowed, and PostgreSQL answered COMMIT with a rollback."""


class Connection:
    """One connection of the pool; runs the statements of this package by name."""

    __slots__ = ("_statements", "raw", "schema")

    def __init__(self, raw: asyncpg.Connection, schema: str) -> None:
        self.raw = raw
        self.schema = schema
        self._statements = statements(schema)

    async def fetch(self, name: str, *args: object) -> list[asyncpg.Record]:
        """The rows of statement `name`."""
        try:
            rows: list[asyncpg.Record] = await self.raw.fetch(self._statements[name], *args)
        except _DRIVER_ERRORS as error:
            _withhold_values(error)
            raise
        return rows

    async def fetchrow(self, name: str, *args: object) -> asyncpg.Record | None:
        """The first row of statement `name`, or None."""
        try:
            return await self.raw.fetchrow(self._statements[name], *args)
        except _DRIVER_ERRORS as error:
            _withhold_values(error)
            raise

    async def fetchval(self, name: str, *args: object) -> Any:
        """The first column of the first row of statement `name`, or None."""
        try:
            return await self.raw.fetchval(self._statements[name], *args)
        except _DRIVER_ERRORS as error:
            _withhold_values(error)
            raise

    async def execute(self, name: str, *args: object) -> int:
        """Run statement `name`; the number of rows it inserted, updated or deleted."""
        try:
            status = await self.raw.execute(self._statements[name], *args)
        except _DRIVER_ERRORS as error:
            _withhold_values(error)
            raise
        return int(status.rpartition(" ")[2])


class Database:
    """A pool of connections to one schema. `pgbouncer` leaves out what a pooler in transaction mode cannot carry."""

    def __init__(
        self,
        url: str,
        schema: str = DEFAULT_SCHEMA,
        *,
        min_size: int = 1,
        max_size: int = 8,
        application_name: str = "saga_worker",
        pgbouncer: bool = False,
    ) -> None:
        self.schema = schema
        self._dsn = dsn_of(url)
        self._sizes = (min(min_size, max_size), max_size)
        self._options = connect_options(application_name, pgbouncer)
        self._pool: asyncpg.Pool | None = None
        statements(schema)

    async def open(self) -> None:
        """Connect; raises when the server does not answer within 5 s."""
        low, high = self._sizes
        self._pool = await asyncpg.create_pool(self._dsn, min_size=low, max_size=high, reset=_reset, **self._options)

    async def close(self) -> None:
        """Give every connection back and end it; those still busy after 10 s are cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(10):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(
        self, *, lock_timeout: str = "2s", statement_timeout: str = "15s"
    ) -> AsyncIterator[Connection]:
        """One transaction: committed when the body ends, rolled back when it raises.

        Raises `UnknownCommit` when nobody can say whether the COMMIT took place.
        """
        begin = _begin(lock_timeout, statement_timeout)
        async with self._acquired() as raw:
            await raw.execute(begin)
            try:
                yield Connection(raw, self.schema)
            except BaseException:
                await _roll_back(raw)
                raise
            await _commit(raw)

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """A connection on which every statement is a transaction of its own."""
        async with self._acquired() as raw:
            yield Connection(raw, self.schema)

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[asyncpg.Connection]:
        if self._pool is None:
            raise SagaWorkerError("The database is closed: call open() first.")
        raw: Any = await self._pool.acquire(timeout=COMMAND_SECONDS)  # a proxy that behaves as the connection
        try:
            yield raw
        finally:
            await self._pool.release(raw)


@asynccontextmanager
async def single_connection(
    url: str, schema: str = DEFAULT_SCHEMA, *, application_name: str = "saga_worker", pgbouncer: bool = False
) -> AsyncIterator[Connection]:
    """A connection outside the pool, in autocommit, for a heartbeat in a thread and event loop of its own."""
    raw = await asyncpg.connect(dsn_of(url), **connect_options(application_name, pgbouncer))
    try:
        yield Connection(raw, schema)
    finally:
        try:
            await raw.close(timeout=2)
        except Exception:  # each statement has committed by itself: a farewell without answer loses nothing
            raw.terminate()


def dsn_of(url: str) -> str:
    """The URL as asyncpg reads it: any of the usual schemes, several hosts, options kept."""
    if not _SCHEME.match(url):
        raise ConfigurationError("The database URL has to begin with postgresql://: set DATABASE_URL.")
    return _SCHEME.sub("postgresql://", url)


def is_transient(error: BaseException) -> bool:
    """True when the same unit of work may succeed later: such failures never count as attempts of a message."""
    if isinstance(error, _TRANSIENT_KINDS):
        return True
    if isinstance(error, asyncpg.PostgresError):
        state = _sqlstate(error)
        return state.startswith(_TRANSIENT_CLASSES) or state in _TRANSIENT_STATES
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, asyncpg.DataError)
    if isinstance(error, asyncpg.InternalClientError):
        return str(error).startswith(_LOST_ITS_PLACE)
    return isinstance(error, UnknownCommit | OSError | TimeoutError)


def describe(error: BaseException) -> str:
    """Class, SQLSTATE and sentence of an error, without the values that PostgreSQL and its driver quote."""
    kind = type(error).__name__
    if isinstance(error, _DRIVER_ERRORS):
        state = _sqlstate(error)
        sentence = "" if _quotes_values(error) or not error.args else str(error.args[0]).partition("\n")[0]
        return f"{kind} {state}".strip() + (f": {sentence}" if sentence else "")
    if isinstance(error, OSError | SagaWorkerError) and not isinstance(error, UnicodeError):
        return f"{kind}: {error}"
    return kind


def connect_options(application_name: str, pgbouncer: bool) -> dict[str, Any]:
    # A pooler refuses start-up parameters it does not know; there SET LOCAL in each transaction has to do.
    settings = {} if pgbouncer else {**_PLANNER, **_KEEPALIVE}
    return {
        "timeout": CONNECT_SECONDS,
        "command_timeout": COMMAND_SECONDS,
        "server_settings": {"application_name": application_name, **settings},
        **({"statement_cache_size": 0} if pgbouncer else {}),
    }


def limits_of(lock_timeout: str, statement_timeout: str) -> dict[str, str]:
    """What every transaction of this package sets for itself."""
    for duration in (lock_timeout, statement_timeout):
        if not _DURATION.fullmatch(duration):
            raise ValueError("A time limit is digits and ms, s or min.")
    times = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return {**times, "idle_in_transaction_session_timeout": "10s", **_PLANNER}


def _begin(lock_timeout: str, statement_timeout: str) -> str:
    limits = limits_of(lock_timeout, statement_timeout)
    return "; ".join(["BEGIN", *(f"SET LOCAL {name}='{value}'" for name, value in limits.items())])


async def _commit(raw: asyncpg.Connection) -> None:
    try:
        status = await raw.execute("COMMIT")
    except Exception as error:
        if outcome_is_unknown(error):
            _cut(raw)
            raise UnknownCommit(f"COMMIT got no answer ({describe(error)}).") from error
        raise
    if status != "COMMIT":
        raise AbortedTransaction("PostgreSQL rolled the transaction back: an error inside it was swallowed.")


def outcome_is_unknown(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return _sqlstate(error).startswith(("08", "57"))
    return isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError)


async def _roll_back(raw: asyncpg.Connection) -> None:
    """End the transaction, or the connection if that does not work."""
    try:
        await raw.execute("ROLLBACK")
    except Exception:  # the end of the connection rolls back, too; the error that led here is on its way up
        _cut(raw)


def _cut(raw: asyncpg.Connection) -> None:
    """End the connection; the pool has taken it back already if it was lost."""
    with suppress(asyncpg.InterfaceError):
        raw.terminate()


async def _reset(raw: asyncpg.Connection) -> None:
    """Nothing to reset: settings are local to transactions. Saves a round trip per transaction."""
    if raw.is_in_transaction():
        raw.terminate()


def _withhold_values(error: Exception) -> None:
    """DETAIL quotes whole rows and data errors quote values: neither may reach a log through a traceback."""
    if getattr(error, "detail", None):
        error.detail = None  # type: ignore[attr-defined]
    if _quotes_values(error):
        argument = re.match(r"invalid input for query argument \$\d+", str(error.args[0]))
        error.args = (f"{argument[0] if argument else 'a value does not fit'} (the value is withheld)",)


def _quotes_values(error: BaseException) -> bool:
    return isinstance(error, asyncpg.DataError) or _sqlstate(error).startswith("22")


def _sqlstate(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""
