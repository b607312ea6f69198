"""What other workers died of, found in their last word by whoever holds the lock of the saga.

A worker that had a row or a timer in hand and still lived would hold that lock, or would have taken its word back. So
nobody waits until its lease is over: workers that are restarted at once must not die of the same thing again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import replace
from pydantic_core import to_json

from saga_worker import inbox, workers
from saga_worker.inbox import NewRow
from saga_worker.saga.rows import RowState
from saga_worker.sql.connection import Connection
from saga_worker.workers import TimerInHand


async def accuse_rows(connection: Connection, worker_id: int, backlog: inbox.Backlog) -> None:
    """Ready rows of the locked sagas that others died of are suspects from now on, in the table and in `backlog`."""
    ready = [row.id for rows in backlog.rows.values() for row in rows if row.state is RowState.READY]
    crashes = await workers.accuse(connection, worker_id, ready)
    for rows in backlog.rows.values() if crashes else ():
        rows[:] = [replace(row, suspect=True, crashes=crashes[row.id]) if row.id in crashes else row for row in rows]


async def report_timers(connection: Connection, worker_id: int, timers: Sequence[tuple[UUID, str]]) -> set[UUID]:
    """Tell the locked sagas of these timers ("name:epoch") that others died of, once each; the sagas that were told.

    They have to judge that before the timer fires again.
    """
    if not timers:
        return set()
    found = await workers.timers_of_others(connection, worker_id, [ref for ref, _ in timers])
    known = set(timers)
    inserted = await inbox.insert(connection, [report(each) for each in found if (each.ref, each.timer) in known])
    return {ref for ref, _ in inserted.new if ref is not None}


def report(found: TimerInHand) -> NewRow:
    """The row that tells a saga of a death; the same for the same death, whoever finds it."""
    return inbox.operator_row(
        found.definition, found.ref, None, "worker_killed", source="worker",
        message_id=f"{found.worker_id}:{found.ref}:{found.timer}",
        body=to_json({"timer": found.timer, "alone": found.alone}),
    )  # fmt: skip
