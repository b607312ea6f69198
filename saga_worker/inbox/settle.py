"""Writing what became of rows.

Takes the outcomes that were decided under the locks of their sagas, guarantees that all are written or none.
"""

from __future__ import annotations

from collections.abc import Sequence

from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.rows import RowChange
from saga_worker.sql import storable
from saga_worker.sql.connection import Connection


async def settle(conn: Connection, changes: Sequence[RowChange]) -> None:
    """Write each change as it is. A settled row without a time gets the database's.

    Raises `LeaseLost` when a row is gone; the transaction must be rolled back.
    """
    if not changes:
        return
    rows = [
        (
            c.id, c.state, storable(c.reason), storable(c.error), c.suspect, c.attempts, c.crashes, c.next_at,
            c.expires_at, c.first_failed_at, c.last_failed_at, c.settled_at, c.sequence,
        )
        for c in sorted(changes, key=lambda change: change.id)
    ]  # fmt: skip
    written = await conn.execute("settle_rows", rows, [row[0] for row in rows])
    if written != len(changes):
        raise LeaseLost(f"{len(changes) - written} of {len(changes)} inbox rows are gone or were named twice.")
