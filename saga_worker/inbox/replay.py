"""What an operator does with dead letters: replay or discard them.

Takes ids or a filter, guarantees compare-and-set (replaying twice applies once), that who did it stands in the audit,
and that a row whose saga was purged is refused. The pool finds replayed rows by itself; refs are given to wake it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import asyncpg
from pydantic_core import to_json

from saga_worker.inbox.insert import NewRow, dedup_of, insert, operator_row
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql import storable
from saga_worker.sql.connection import Connection

RECHECK: Final = "recheck"


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters: those that fit everything that is given. `after` and `limit` page by id."""

    ids: Sequence[int] | None = None
    reason: str | None = None
    type: str | None = None
    saga_key: str | None = None
    since: datetime | None = None
    consumer: str | None = None
    after: int = 0
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Replayed:
    """`unrouted` rows have no saga yet: route them anew and `assign` them, in this transaction.

    `last_id` is the `after` of the next page; None when there is none.
    """

    ids: list[int]
    refs: frozenset[UUID]
    expired: list[int]
    unrouted: list[int]
    last_id: int | None


@dataclass(frozen=True, slots=True)
class UnroutedRow:
    """A stored message that belongs to no saga."""

    id: int
    consumer: str
    source: str
    message_id: str
    type: str
    role: Role
    correlation_id: str | None
    received_at: datetime
    props: bytes
    body: bytes


async def replay(conn: Connection, which: DeadFilter, *, actor: str, reason: str | None = None) -> Replayed:
    """Make dead rows ready again, as if they had just come. Counters start anew, ids and bytes stay."""
    rows = await _lock_dead(conn, which)
    expired = [row["id"] for row in rows if row["is_purged"]]
    without_saga = [row["id"] for row in rows if row["ref"] is None]
    chosen = [row["id"] for row in rows if row["ref"] is not None and not row["is_purged"]]
    replayed = await conn.fetch("replay_rows", chosen) if chosen else []
    ids = {row["id"] for row in replayed}
    await _audit(conn, [row for row in rows if row["id"] in ids], "replay", actor, reason, after=RowState.READY)
    return Replayed(
        ids=sorted(ids),
        refs=frozenset(row["ref"] for row in replayed),
        expired=expired,
        unrouted=without_saga,
        last_id=rows[-1]["id"] if len(rows) == which.limit else None,
    )


async def discard(conn: Connection, which: DeadFilter, *, actor: str, reason: str | None = None) -> Replayed:
    """Ignore dead rows for good; their sagas get a `recheck`, which frees what stands behind them."""
    rows = await _lock_dead(conn, which)
    gone = await conn.fetch("discard_rows", [row["id"] for row in rows]) if rows else []
    await _audit(conn, rows, "discard", actor, reason, after=RowState.IGNORED)
    await insert(conn, [_recheck(row, actor) for row in gone if row["ref"] is not None])
    return Replayed(
        ids=sorted(row["id"] for row in gone),
        refs=frozenset(row["ref"] for row in gone if row["ref"] is not None),
        expired=[],
        unrouted=[],
        last_id=rows[-1]["id"] if len(rows) == which.limit else None,
    )


async def unrouted(conn: Connection, ids: Iterable[int]) -> list[UnroutedRow]:
    """Those of the dead rows that belong to no saga, whole."""
    return [
        UnroutedRow(**{**dict(row), "role": Role(row["role"])})
        for row in await conn.fetch("read_unrouted", sorted(set(ids)))
    ]


async def assign(
    conn: Connection,
    row: UnroutedRow,
    *,
    consumer: str,
    ref: UUID,
    key: str | None,
    role: Role,
    actor: str,
    reason: str | None = None,
) -> bool:
    """Give a dead row without saga to one, and make it ready. False: it is dead no more, or already there."""
    dedup = dedup_of(consumer, row.source, row.message_id)
    if await conn.execute("assign_row", row.id, consumer, dedup, ref, key, role) != 1:
        return False
    entry = to_json({"state": "ready", "consumer": consumer, "saga_key": key}).decode()
    before = to_json({"state": "dead", "consumer": row.consumer}).decode()
    await conn.execute("insert_audit", actor, "replay", storable(reason), [f"inbox/{row.id}"], [before], [entry])
    return True


async def _lock_dead(conn: Connection, which: DeadFilter) -> list[asyncpg.Record]:
    return await conn.fetch(
        "lock_dead", which.after, None if which.ids is None else sorted(set(which.ids)), which.reason, which.type,
        which.saga_key, which.since, which.consumer, which.limit,
    )  # fmt: skip


async def _audit(
    conn: Connection,
    rows: Sequence[asyncpg.Record],
    action: str,
    actor: str,
    reason: str | None,
    *,
    after: RowState,
) -> None:
    if not rows:
        return
    befores = [
        to_json({"state": "dead", "reason": r["reason"], "attempts": r["attempts"], "crashes": r["crashes"]}).decode()
        for r in rows
    ]
    afters = [to_json({"state": after.label}).decode()] * len(rows)
    targets = [f"inbox/{row['id']}" for row in rows]
    await conn.execute("insert_audit", actor, action, storable(reason), targets, befores, afters)


def _recheck(row: asyncpg.Record, actor: str) -> NewRow:
    message_id = f"recheck:{row['id']}:{uuid4()}"
    props = to_json({"actor": actor})
    return operator_row(row["consumer"], row["ref"], row["saga_key"], RECHECK, message_id=message_id, props=props)
