"""Sagas, journals and messages as a worker would leave them, for the tests of the operator's side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Progress, Timer
from saga_worker.saga.records import dump_progress
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import RowState
from saga_worker.saga.transitions import Status

Result = TypeVar("Result")
DEFINITION = "checkout"


def on(database_url: str, work: Callable[[asyncpg.Connection], Awaitable[Result]]) -> Result:
    """Run `work` on a connection of its own, from a test that is not async."""

    async def run() -> Result:
        connection = await asyncpg.connect(database_url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def execute(database_url: str, statement: str, *arguments: object) -> None:
    on(database_url, lambda connection: connection.execute(statement, *arguments))


def fetch(database_url: str, statement: str, *arguments: object) -> list[dict[str, Any]]:
    rows = on(database_url, lambda connection: connection.fetch(statement, *arguments))
    return [dict(row) for row in rows]


def audit(database_url: str) -> list[dict[str, Any]]:
    return fetch(database_url, "SELECT actor, action, target, reason FROM saga_worker.v_audit ORDER BY at")


def command(seq: int, step: str, fate: Fate, **changes: Any) -> CommandRecord:
    record = CommandRecord(
        seq=seq, step=step, kind=CommandKind.FORWARD, fate=fate, destination="inventory", type=f"{step}_it", body="{}"
    )
    return replace(record, **changes)


def undo(seq: int, step: str, fate: Fate, undoes: int) -> CommandRecord:
    return command(seq, step, fate, kind=CommandKind.UNDO, undoes=undoes, type=f"undo_{step}")


def progress(*commands: CommandRecord, timers: dict[str, datetime] | None = None, **fields: Any) -> Progress:
    armed = {name: Timer(due, epoch) for epoch, (name, due) in enumerate((timers or {}).items(), 1)}
    return Progress(commands={c.seq: c for c in commands}, timers=armed, epoch=len(armed), **fields)


async def add_saga(
    connection: asyncpg.Connection, key: str, progress: Progress, *, status: Status = Status.RUNNING,
    revisions: int = 1, attention: str | None = None, reason: str | None = None, unsettled: int = 0, wake: bool = True,
) -> UUID:  # fmt: skip
    """A saga with its whole journal: all its commands sent and timers armed by the first revision."""
    saga_id, ref, now = uuid7(), ref_of(DEFINITION, key), datetime.now(UTC)
    finished_at = now if status.is_final else None
    await connection.execute(
        "INSERT INTO saga_worker.saga VALUES ($1,$2,$3,1,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$13,$14)",
        saga_id, ref, DEFINITION, key, status, revisions, max(progress.commands, default=0), unsettled, attention,
        reason, b'{"order_id": "%s"}' % key.encode(), dump_progress(progress), now, finished_at,
    )  # fmt: skip
    for revision in range(1, revisions + 1):
        await _add_revision(connection, saga_id, ref, revision, progress, status=status, last=revisions)
    if progress.timers and wake:
        due = min(timer.due_at for timer in progress.timers.values())
        await connection.execute("INSERT INTO saga_worker.wake VALUES ($1, $2)", ref, due)
    return saga_id


async def _add_revision(
    connection: asyncpg.Connection,
    saga_id: UUID,
    ref: UUID,
    revision: int,
    progress: Progress,
    *,
    status: Status,
    last: int,
) -> None:
    """Forward commands belong to the first revision, undos to the last."""
    first = revision == 1
    sent = [
        c.seq for c in progress.commands.values()
        if (c.kind is CommandKind.FORWARD and first) or (c.kind is CommandKind.UNDO and revision == last)
    ]  # fmt: skip
    timers = [f"{name}:{timer.epoch}" for name, timer in progress.timers.items()] if first else []
    row = await add_row(connection, message_id=f"e{revision}-{ref}", key=None, ref=ref, state=RowState.DONE)
    await connection.execute(
        "INSERT INTO saga_worker.journal (saga_id, revision, definition_version, input_kind, consumer, source, "
        "message_id, inbox_id, decided_at, from_status, to_status, sent, timers, epoch, worker, ref) "
        "VALUES ($1,$2,1,'event',$3,'shop',$4,$5,clock_timestamp(),$6,$7,$8,$9,0,1,$10)",
        saga_id, revision, DEFINITION, f"e{revision}-{ref}", row, None if first else Status.RUNNING,
        status if revision == last else Status.RUNNING, sent, timers, ref,
    )  # fmt: skip


async def add_row(
    connection: asyncpg.Connection, *, message_id: str, key: str | None = None, ref: UUID | None = None,
    state: RowState = RowState.READY, reason: str | None = None, consumer: str = DEFINITION, type: str = "order_placed",
    body: bytes = b'{"order_id": "4711"}', error: str | None = None, props: bytes = b"{}", role: int = 0,
    attempts: int = 0, received: timedelta = timedelta(0),
) -> int:  # fmt: skip
    """One inbox row; of the saga with `key`, or with `ref`, or of none."""
    settled = state in (RowState.DONE, RowState.IGNORED)
    row_id = await connection.fetchval(
        "INSERT INTO saga_worker.inbox (dedup, body_sha, consumer, source, message_id, type, role, ref, saga_key, "
        "state, reason, error, attempts, received_at, first_failed_at, last_failed_at, settled_at, props, body) "
        "VALUES ($1, sha256($2), $3, 'shop', $4, $5, $6, $7, $8, $9, $10, $11, $12, clock_timestamp() - $13::interval, "
        "CASE WHEN $15 THEN clock_timestamp() END, CASE WHEN $15 THEN clock_timestamp() END, "
        "CASE WHEN $14 THEN clock_timestamp() END, $16, $2) RETURNING id",
        uuid7(), body, consumer, message_id, type, role, ref or (ref_of(consumer, key) if key else None), key, state,
        reason, error, attempts, received, settled, state is RowState.DEAD, props,
    )  # fmt: skip
    assert isinstance(row_id, int)
    return row_id


def soon(seconds: float = 3600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
