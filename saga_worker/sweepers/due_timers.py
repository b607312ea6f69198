"""Sagas with a due timer are handed to the pool, which applies their rows first and then the timers."""

from __future__ import annotations

from saga_worker import timers
from saga_worker.inbox_pool import InboxPool
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

BATCH = 200
SLOT = 1000  # the intent slot of this sweeper; the pool's loops count from 0


class DueTimers(Sweeper):
    """Fires timers at most about `interval_seconds` after they are due, in database time."""

    def __init__(self, database: Database, pool: InboxPool, *, interval_seconds: float = 0.5) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._pool = pool

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            refs = await timers.due(connection, BATCH)
        if refs:
            await self._pool.advance(refs, slot=SLOT, from_timers=True)
        return len(refs) == BATCH
