"""The wake table: one row per saga, a lower bound of its armed timers, in database time.

Takes refs and due times, guarantees that a saga with an armed timer that may fire is found in time. The timers
themselves stand in the saga's row; a sweeper hands due refs to the orchestrator, which locks before it believes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from saga_worker.sql.connection import Connection


async def due(conn: Connection, limit: int, *, versions: Sequence[str] | None = None) -> list[UUID]:
    """Sagas whose bound has passed, the longest overdue first.

    With `versions` ("name/version") sagas of other definitions are left out, so that they cannot head the list.
    """
    if versions is None:
        rows = await conn.fetch("wake_due", limit)
    else:
        rows = await conn.fetch("wake_due_of", limit, list(versions))
    return [row["ref"] for row in rows]


async def lower(conn: Connection, bounds: Iterable[tuple[UUID, datetime]]) -> None:
    """Wake each saga at its time or sooner; a bound that is lower already stays."""
    await _write(conn, "wake_lower", bounds)


async def correct(conn: Connection, bounds: Iterable[tuple[UUID, datetime]]) -> None:
    """Wake each saga at its time, also when that is later than before: for a transaction that has fired a timer."""
    await _write(conn, "wake_correct", bounds)


async def clear(conn: Connection, refs: Iterable[UUID]) -> None:
    """These sagas have no timer that may fire."""
    ordered = sorted(set(refs))
    if ordered:
        await conn.execute("wake_clear", ordered)


async def wake_stranded(conn: Connection, definitions: Sequence[str]) -> None:
    """Sagas that were held since no worker had their version may have their turn: these definitions are loaded now."""
    await conn.execute("wake_stranded", list(definitions))


async def push_back(conn: Connection, refs: Iterable[UUID], seconds: float) -> None:
    """Look at these again in `seconds`: they are due, but may not fire yet."""
    ordered = sorted(set(refs))
    if ordered:
        await conn.execute("wake_push_back", ordered, float(seconds))


async def _write(conn: Connection, statement: str, bounds: Iterable[tuple[UUID, datetime]]) -> None:
    earliest: dict[UUID, datetime] = {}
    for ref, due_at in bounds:
        earliest[ref] = min(due_at, earliest.get(ref, due_at))
    if earliest:
        refs = sorted(earliest, key=lambda ref: ref.int)  # comparing UUIDs takes eight times as long
        await conn.execute(statement, refs, [earliest[ref] for ref in refs])
