"""What time does to the inbox: rows that expire, that find a route at last, whose definition is gone, that are old.

Takes a limit per pass, guarantees that passes of several workers do not wait for each other. Rows of a saga are
settled under its lock by the orchestrator; what is done here needs none, or takes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID, uuid4

import asyncpg
from pydantic_core import from_json

from saga_worker.inbox.insert import NewRow, insert
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.routing import Route, key_in, ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection

_INBOX_CURSOR: Final = "inbox_retention"
_UPGRADED: Final = re.compile(r">[0-9]+$")


class RoutesByType(Protocol):
    """What is read here of the table of routes."""

    @property
    def by_type(self) -> Mapping[str, Sequence[Route]]: ...


async def expired_parked(conn: Connection, limit: int) -> list[UUID]:
    """Sagas with parked rows whose time is over, for the orchestrator to lock and judge."""
    return [row["ref"] for row in await conn.fetch("expired_parked", limit)]


async def reroute_unrouted(conn: Connection, table: RoutesByType, limit: int = 200) -> list[UUID]:
    """Rows that came before their route: one row per definition in, the original out. The refs to wake."""
    by_type = table.by_type
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


async def hold_absent(conn: Connection, limit: int = 1000) -> int:
    """Hold the ready rows of sagas whose definition no live worker lists; how many sagas.

    Looks at `limit` sagas from a random place on, so that passes cover all without a cursor. Call `free_absent` at
    every pass too: a worker may be registering at this very moment.
    """
    live = await _live_definitions(conn)
    heads = [row["ref"] for row in await conn.fetch("claim_refs", uuid4(), [], limit)]
    if len(heads) < limit:
        heads += [row["ref"] for row in await conn.fetch("claim_refs", UUID(int=0), [], limit)]
    absent = [row["ref"] for row in await conn.fetch("lock_absent", heads, live)] if heads else []
    if absent:
        await conn.execute("hold_absent", absent)
    return len(absent)


async def free_absent(conn: Connection, limit: int = 1000) -> list[UUID]:
    """Free the rows held for want of a definition that a live worker lists now; the sagas to wake."""
    return sorted({row["ref"] for row in await conn.fetch("free_absent", await _live_definitions(conn), limit)})


async def retain(conn: Connection, window: timedelta, limit: int = 5000) -> bool:
    """Delete settled rows older than `window` from the next stretch of the table; True when the lap has ended.

    A stored cursor laps over the table, since a replayed row may be settled long after its neighbours.
    """
    position = await conn.fetchval("read_cursor", _INBOX_CURSOR)
    if position is None:
        return True  # another worker is at it
    stretch = await conn.fetchrow("retain_inbox", position, window.total_seconds(), limit)
    assert stretch is not None
    await conn.execute("move_cursor", _INBOX_CURSOR, 0 if stretch["lap_ended"] else stretch["last_id"])
    return bool(stretch["lap_ended"])


async def _live_definitions(conn: Connection) -> list[str]:
    """As "name/version", also those that a worker only knows how to upgrade from ("name/version>newest")."""
    listed = [row["definition"] for row in await conn.fetch("live_definitions")]
    return [_UPGRADED.sub("", each) for each in listed]


def _routed(row: asyncpg.Record, route: Route) -> NewRow:
    """The stored message as a row of one definition."""
    ref, key, error = _place(row["body"], route)
    return NewRow(
        consumer=route.definition, source=row["source"], message_id=row["message_id"], type=row["type"],
        role=Role.EVENT, ref=ref, saga_key=key, correlation_id=row["correlation_id"],
        state=RowState.READY if error is None else RowState.DEAD, reason=None if error is None else error.reason,
        error=None if error is None else error.error, suspect=False, prio=1, expires_at_seconds=None,
        props=row["props"], body=row["body"],
    )  # fmt: skip


def _place(body: bytes, route: Route) -> tuple[UUID | None, str | None, PoisonMessage | None]:
    try:
        key = key_in(from_json(body, allow_inf_nan=False), route)
    except PoisonMessage as error:
        return None, None, error
    except ValueError:
        return None, None, PoisonMessage("invalid_json", "The body is not valid JSON.")
    return ref_of(route.definition, key), key, None
