"""What time does to the inbox: rows that expire, that find a route at last, whose definition is gone, that are old.

Takes a limit per pass, guarantees that passes of several workers do not wait for each other. Rows of a saga are
settled under its lock by the orchestrator; what is done here needs none, or takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg
from pydantic_core import from_json

from saga_worker.inbox.claim import Claimed, claim
from saga_worker.inbox.insert import NewRow, insert
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.routing import Route, canonical_key, ref_of, resolve_pointer
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection

_INBOX_CURSOR: Final = "inbox_retention"


async def expired_parked(conn: Connection, limit: int) -> list[UUID]:
    """Sagas with parked rows whose time is over, for the orchestrator to lock and judge."""
    return [row["ref"] for row in await conn.fetch("expired_parked", limit)]


async def reroute_unrouted(conn: Connection, by_type: Mapping[str, Sequence[Route]], limit: int = 200) -> list[UUID]:
    """Rows that came before their route: one row per definition in, the original out. The refs to wake."""
    if not by_type:
        return []
    originals = await conn.fetch("lock_unrouted", sorted(by_type), limit)
    if not originals:
        return []
    routed = [_routed(row, route) for row in originals for route in by_type[row["type"]]]
    await insert(conn, routed)
    await conn.execute("delete_unrouted", [row["id"] for row in originals])
    return sorted({row.ref for row in routed if row.ref is not None})


async def expire_unrouted(conn: Connection, limit: int = 1000) -> int:
    """Rows that no route came for in the parking period die as `unknown_type`; how many."""
    return await conn.execute("expire_unrouted", limit)


async def hold_absent(conn: Connection, cursor: UUID, live: frozenset[str], limit: int = 1000) -> Claimed:
    """Hold the ready rows of sagas whose definition ("name/version") is not `live`; the sagas, and where to go on.

    Call with the live definitions as they are now, and `free_absent` at every pass: a worker may just be registering.
    """
    lap = await claim(conn, cursor, [], limit)
    heads = [row["ref"] for row in await conn.fetch("claim_refs", cursor, [], limit)]
    held = [row["ref"] for row in await conn.fetch("lock_absent", heads, sorted(live))] if heads else []
    if held:
        await conn.execute("hold_absent", held)
    return Claimed(held, lap.cursor, lap.lap_ended)


async def free_absent(conn: Connection, live: frozenset[str], limit: int = 1000) -> list[UUID]:
    """Free the rows held for want of a definition that is live now; the sagas to wake."""
    return sorted({row["ref"] for row in await conn.fetch("free_absent", sorted(live), limit)})


async def retain(conn: Connection, *, window_seconds: float, limit: int = 5000) -> int:
    """Delete settled rows older than the window in the next stretch of the table; how many.

    A stored cursor laps over the table, since a replayed row may be settled long after its neighbours.
    """
    await conn.execute("create_cursor", _INBOX_CURSOR)
    position = await conn.fetchval("read_cursor", _INBOX_CURSOR)
    if position is None:
        return 0  # another worker is at it
    stretch = await conn.fetchrow("retain_inbox", position, float(window_seconds), limit)
    assert stretch is not None
    following = 0 if stretch["lap_ended"] or stretch["last_id"] is None else stretch["last_id"]
    await conn.execute("move_cursor", _INBOX_CURSOR, following)
    return int(stretch["deleted"])


async def retain_sagas(conn: Connection, *, window_seconds: float, limit: int = 500) -> int:
    """Delete final, settled sagas older than the window with their history, unless a message of theirs is open.

    `window_seconds` has to be longer than that of the inbox, or a repeat could start a purged saga again.
    """
    old = await conn.fetch("lock_old_sagas", float(window_seconds), limit)
    if not old:
        return 0
    return await conn.execute("purge_sagas", [row["saga_id"] for row in old])


def _routed(row: asyncpg.Record, route: Route) -> NewRow:
    """The stored message as a row of one definition."""
    ref, key, error = _place(row["body"], route)
    return NewRow(
        consumer=route.definition, source=row["source"], message_id=row["message_id"], type=row["type"],
        role=Role(route.role), ref=ref, saga_key=key, correlation_id=row["correlation_id"],
        state=RowState.READY if error is None else RowState.DEAD, reason=None if error is None else error.reason,
        error=None if error is None else error.error, suspect=False, prio=1, expires_at_seconds=None,
        props=row["props"], body=row["body"],
    )  # fmt: skip


def _place(body: bytes, route: Route) -> tuple[UUID | None, str | None, PoisonMessage | None]:
    try:
        key = canonical_key(resolve_pointer(from_json(body, allow_inf_nan=False), route.key_pointer), route.key_kind)
    except PoisonMessage as error:
        return None, None, error
    except ValueError:
        return None, None, PoisonMessage("invalid_json", "The body is not valid JSON.")
    return ref_of(route.definition, key), key, None
