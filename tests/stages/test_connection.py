"""Transactions as the table modules get them: limits in force, rolled back, honest about a COMMIT without answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from saga_worker.saga.errors import ConfigurationError, SchemaMismatch
from saga_worker.sql import migrate, statements
from saga_worker.sql.connection import (
    AbortedTransaction,
    Database,
    UnknownCommit,
    describe,
    dsn_of,
    is_transient,
    single_connection,
)
from saga_worker.testing import Direction, FaultProxy
from saga_worker.testing.proxy import Connection as Proxied
from saga_worker.testing.proxy import Verdict
from tests.stages.stored_rows import PLAIN_ROW, dead, row, store, value

INSERT = "INSERT INTO saga_worker.wake VALUES ('00000000-0000-0000-0000-000000000001', now())"
WAKES = "SELECT count(*) FROM saga_worker.wake"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=2) as opened:
        yield opened


async def test_a_transaction_is_committed_when_its_body_ends(database: Database) -> None:
    async with database.transaction() as conn:
        await conn.raw.execute(INSERT)

    assert await value(database, WAKES) == 1


async def test_a_transaction_is_rolled_back_when_its_body_raises(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as conn:
            await conn.raw.execute(INSERT)
            raise ZeroDivisionError

    assert await value(database, WAKES) == 0
    async with database.transaction() as conn:
        assert await conn.raw.fetchval("SELECT 1") == 1


async def test_an_error_that_was_swallowed_is_not_taken_for_a_commit(database: Database) -> None:
    with pytest.raises(AbortedTransaction):
        async with database.transaction() as conn:
            await conn.raw.execute(INSERT)
            with pytest.raises(asyncpg.UniqueViolationError):
                await conn.raw.execute(INSERT)

    assert await value(database, WAKES) == 0


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_commit_without_answer_is_unknown_whether_it_took_place_or_not(
    database_url: str, direction: Direction
) -> None:
    """Cut on the way there it is not committed, cut on the way back it is: the caller cannot tell, and is told so."""
    committing: list[bool] = []

    def cut(connection: Proxied, towards: Direction, packet: bytes) -> Verdict:
        if towards is Direction.TO_SERVER and b"COMMIT\0" in packet:
            committing.append(True)
            return Verdict.CUT if direction is Direction.TO_SERVER else Verdict.PASS
        return Verdict.CUT if committing and towards is Direction.TO_CLIENT else Verdict.PASS

    proxy = FaultProxy.before(database_url, hook=cut)
    async with proxy, Database(proxy.rewrite(database_url), max_size=1) as database:
        with pytest.raises(UnknownCommit) as raised:
            async with database.transaction() as conn:
                await conn.raw.execute(INSERT)
        proxy.hook = None

        assert is_transient(raised.value)
        assert await value(database, WAKES) == (0 if direction is Direction.TO_SERVER else 1)


async def test_a_connection_lost_inside_a_transaction_is_transient_and_the_next_one_works(database: Database) -> None:
    with pytest.raises(Exception) as raised:  # whichever way the loss shows
        async with database.transaction() as conn:
            await conn.raw.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    async with database.transaction() as conn:
        assert await conn.raw.fetchval("SELECT 1") == 1

    assert is_transient(raised.value)


async def test_a_server_that_says_farewell_to_an_idle_connection_is_only_away(database_url: str) -> None:
    """The driver refuses the next call when it has read the farewell and not yet the end of the connection."""

    def hold_the_end(connection: Proxied, towards: Direction, packet: bytes) -> Verdict:
        if b"57P01" in packet and towards is Direction.TO_CLIENT:
            proxy.stall(Direction.TO_CLIENT)  # from the next packet on
            farewell.set()
        return Verdict.PASS

    farewell = asyncio.Event()
    proxy = FaultProxy.before(database_url, hook=hold_the_end)
    async with proxy, Database(proxy.rewrite(database_url), max_size=1) as database:
        idle = await value(database, "SELECT pg_backend_pid()")
        await end_session(database_url, idle)
        await farewell.wait()
        for _ in range(5):
            await asyncio.sleep(0)  # one turn of the loop sends it, another one reads it
        with pytest.raises(asyncpg.InternalClientError) as raised:
            await value(database, "SELECT 1")
        await proxy.heal()

        assert is_transient(raised.value)
        assert await value(database, "SELECT pg_backend_pid()") != idle


async def end_session(database_url: str, pid: int) -> None:
    async with single_connection(database_url) as operator:
        assert await operator.raw.fetchval("SELECT pg_terminate_backend($1)", pid)


async def test_limits_hold_inside_the_transaction_and_leave_nothing_behind(database: Database) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "enable_seqscan")
    async with database.transaction(lock_timeout="300ms") as conn:
        inside = [await conn.raw.fetchval(f"SHOW {name}") for name in names]
    async with database.autocommit() as conn:
        after = [await conn.raw.fetchval(f"SHOW {name}") for name in names[:3]]

    assert inside == ["300ms", "15s", "10s", "off"]
    assert after == ["0", "0", "0"]


async def test_a_lock_that_is_not_given_in_time_is_transient(database: Database) -> None:
    await store(database, row())
    async with database.transaction() as holder:
        await holder.raw.execute("UPDATE saga_worker.inbox SET attempts = 1")
        with pytest.raises(asyncpg.LockNotAvailableError) as raised:
            async with database.transaction(lock_timeout="50ms") as conn:
                await conn.raw.execute("UPDATE saga_worker.inbox SET attempts = 2")

    assert is_transient(raised.value)


async def test_a_time_limit_is_not_a_place_for_sql(database: Database) -> None:
    with pytest.raises(ValueError, match="time limit"):
        async with database.transaction(lock_timeout="1s'; DROP TABLE saga_worker.wake; --"):
            pass


async def test_a_refused_row_does_not_put_its_payload_into_the_error(database: Database) -> None:
    secret = "4000-1234-5678-9010"
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await store(database, dead(reason=None, body=secret.encode(), saga_key=secret))
    with pytest.raises(asyncpg.DataError) as unfit:
        await store(database, row(saga_key=secret.encode()))

    for error in (refused.value, unfit.value):
        assert secret not in f"{error!s} {error!r} {describe(error)}"
        assert not is_transient(error)
    assert describe(refused.value).startswith("CheckViolationError 23514: new row for relation")
    assert str(unfit.value) == "invalid input for query argument $1 (the value is withheld)"


async def test_a_nul_character_in_an_identifier_is_refused_without_being_quoted(database: Database) -> None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await store(database, row("secret\0id"))

    assert "secret" not in f"{refused.value!s} {describe(refused.value)}"


def test_unknown_errors_are_described_by_their_class_only() -> None:
    assert describe(ValueError("the card 4000-1234")) == "ValueError"
    assert describe(ConnectionResetError(104, "Connection reset by peer")).startswith("ConnectionResetError: ")


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DeadlockDetectedError("x"), asyncpg.SerializationError("x"), asyncpg.TooManyConnectionsError("x"),
        asyncpg.AdminShutdownError("x"), asyncpg.CannotConnectNowError("x"), asyncpg.ReadOnlySQLTransactionError("x"),
        asyncpg.QueryCanceledError("x"), asyncpg.ConnectionDoesNotExistError("x"), asyncpg.InterfaceError("x"),
        asyncpg.InvalidCachedStatementError("x"), asyncpg.DiskFullError("x"), TimeoutError(), ConnectionResetError(),
        asyncpg.TargetServerAttributeNotMatched("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_failures_of_the_infrastructure_never_count_as_attempts(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("x"), asyncpg.UndefinedTableError("x"), asyncpg.ProtocolError("x"),
        asyncpg.InternalClientError("no decoder"), ValueError(), KeyError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_failures_of_the_work_itself_are_not_transient(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_usual_scheme_is_understood_and_several_hosts_pass(scheme: str) -> None:
    rest = "u:p@one:5432,two:5433/db?target_session_attrs=read-write"

    assert dsn_of(f"{scheme}://{rest}") == f"postgresql://{rest}"


def test_another_scheme_is_refused_without_showing_the_password() -> None:
    with pytest.raises(ConfigurationError) as raised:
        dsn_of("mysql://root:hunter2@host/db")

    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("schema", ["", "Saga", 'a"b', "a.b", "1a", "a" * 42, "saga;drop"])
def test_a_schema_that_is_not_a_plain_name_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError):
        statements(schema)


async def test_a_pooler_gets_no_startup_parameter_it_does_not_know(database_url: str) -> None:
    async with Database(database_url, max_size=1, pgbouncer=True) as pooled, pooled.autocommit() as conn:
        assert await conn.raw.fetchval("SHOW enable_seqscan") == "on"
        assert await conn.raw.fetchval("SHOW application_name") == "saga_worker"
        assert await conn.fetchval("routes_revision") == 0
        assert await conn.raw.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_a_single_connection_runs_statements_outside_the_pool(database_url: str) -> None:
    async with single_connection(database_url, application_name="heartbeat") as conn:
        assert await conn.fetchval("routes_revision") == 0
        assert await conn.raw.fetchval("SHOW application_name") == "heartbeat"


async def test_migrating_twice_and_in_two_schemas_works_and_a_missing_schema_is_named(empty_database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="saga-worker db upgrade"):
        await migrate.check(empty_database_url)
    await migrate.upgrade(empty_database_url)
    await migrate.upgrade(empty_database_url)
    await migrate.check(empty_database_url)
    with pytest.raises(SchemaMismatch, match="Schema other is at revision none"):
        await migrate.check(empty_database_url, schema="other")
    await migrate.upgrade(empty_database_url, schema="other")
    await migrate.check(empty_database_url, schema="other")
    async with Database(empty_database_url, "other", max_size=1) as database:
        await store(database, PLAIN_ROW)
        assert await value(database, "SELECT count(*) FROM other.inbox") == 1
