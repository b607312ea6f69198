"""Inbox rows and sagas as the table tests store them; every value that a test does not name is a plain one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from msgspec.structs import replace

from saga_worker import inbox, instances
from saga_worker.inbox import NewRow
from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.inputs import Effect
from saga_worker.saga.instance import Instance, Progress
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.saga.transitions import Status
from saga_worker.sql.connection import Connection, Database

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORDER = ref_of("checkout", "4711")
WORKER = 7

PLAIN_ROW = NewRow(
    consumer="checkout",
    source="shop",
    message_id="m-1",
    type="order_placed",
    role=Role.EVENT,
    ref=ORDER,
    saga_key="4711",
    correlation_id=None,
    state=RowState.READY,
    reason=None,
    error=None,
    suspect=False,
    prio=1,
    expires_at_seconds=None,
    props=b"{}",
    body=b'{"order_id":"4711"}',
)


def row(message_id: str | None = None, **values: Any) -> NewRow:
    """A ready event of order 4711, under an id of its own unless one is given."""
    return replace(PLAIN_ROW, message_id=message_id or str(uuid4()), **values)


def parked(message_id: str | None = None, **values: Any) -> NewRow:
    early = {"state": RowState.PARKED, "reason": "unknown_saga", "expires_at_seconds": 3600.0}
    return row(message_id, **(early | values))


def dead(message_id: str | None = None, **values: Any) -> NewRow:
    return row(message_id, **{"state": RowState.DEAD, "reason": "handler_error", "error": "It raised."} | values)


def refs_of(count: int) -> list[UUID]:
    return sorted(ref_of("checkout", str(number)) for number in range(count))


def saga(ref: UUID = ORDER, **values: Any) -> Instance:
    """A running saga after its first input."""
    plain = Instance(
        saga_id=uuid4(),
        ref=ref,
        definition="checkout",
        definition_version=1,
        key="4711",
        status=Status.RUNNING,
        revision=1,
        seq=1,
        unsettled=0,
        attention=None,
        reason=None,
        state=b"{}",
        progress=Progress(),
        started_at=NOW,
        updated_at=NOW,
    )
    return replace(plain, **values)


def applied(revision: int, **values: Any) -> JournalRow:
    plain = JournalRow(
        revision=revision,
        definition_version=1,
        input_kind="event",
        consumer="checkout",
        source="shop",
        message_id=f"m-{revision}",
        inbox_id=revision,
        decided_at=NOW,
        from_status=None if revision == 1 else Status.RUNNING,
        to_status=Status.RUNNING,
        sent=(),
        timers=(),
    )
    return replace(plain, **values)


def created(instance: Instance, *effects: Effect) -> SagaChange:
    journal = [applied(number) for number in range(1, instance.revision + 1)]
    return SagaChange(ref=instance.ref, before=None, after=instance, journal=journal, effects=list(effects))


def advanced(before: Instance, **values: Any) -> SagaChange:
    """`before` after one more input."""
    after = replace(before, **{"revision": before.revision + 1} | values)
    return SagaChange(ref=before.ref, before=before, after=after, journal=[applied(after.revision)])


async def store(database: Database, *rows: NewRow) -> list[int]:
    """Insert in a transaction of its own; the ids of what was new."""
    async with database.transaction() as conn:
        inserted = await inbox.insert(conn, rows)
    return [id_ for _, id_ in inserted.new]


async def keep(database: Database, *sagas: Instance) -> None:
    async with database.transaction() as conn:
        await instances.save(conn, [created(instance) for instance in sagas], worker_id=WORKER)


async def query(database: Database, sql: str, *args: object) -> list[tuple[Any, ...]]:
    async with database.autocommit() as conn:
        return [tuple(record) for record in await conn.raw.fetch(sql, *args)]


async def value(database: Database, sql: str, *args: object) -> Any:
    async with database.autocommit() as conn:
        return await conn.raw.fetchval(sql, *args)


class Session:
    """One of two transactions that a test interleaves; ends by `commit`, or is rolled back with the test."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = AsyncExitStack()
        self.conn: Connection

    async def begin(self) -> Connection:
        self.conn = await self._stack.enter_async_context(self._database.transaction())
        return self.conn

    async def commit(self) -> None:
        await self._stack.aclose()

    async def roll_back(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        error = _RolledBack()
        with suppress(_RolledBack):
            await stack.__aexit__(_RolledBack, error, None)


class _RolledBack(Exception):
    pass


@asynccontextmanager
async def two_sessions(database: Database) -> AsyncIterator[tuple[Session, Session]]:
    """Two transactions on two connections, begun in this order."""
    one, two = Session(database), Session(database)
    await one.begin()
    await two.begin()
    try:
        yield one, two
    finally:
        await one.roll_back()
        await two.roll_back()


class PausingConnection(Connection):
    """Runs `between` once, just before the statement `pause_before`: what another session does in that gap."""

    __slots__ = ("_between", "_pause_before")

    def __init__(self, conn: Connection, pause_before: str, between: Any) -> None:
        super().__init__(conn.raw, conn.schema)
        self._pause_before = pause_before
        self._between = between

    async def fetch(self, name: str, *args: object) -> list[Any]:
        if name == self._pause_before and self._between is not None:
            between, self._between = self._between, None
            await between()
        return await super().fetch(name, *args)
