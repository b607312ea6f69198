"""Rows of sagas whose definition no live worker has loaded are held with that reason, and freed when one has."""

from __future__ import annotations

from saga_worker import inbox, workers
from saga_worker.inbox.claim import LAP_START
from saga_worker.inbox_pool import InboxPool
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

BATCH = 1000


class AbsentDefinitions(Sweeper):
    """Keeps rows that nobody can run out of the claim's way."""

    def __init__(self, database: Database, pool: InboxPool, *, interval_seconds: float = 5.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._pool = pool
        self._cursor = LAP_START

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            live = await workers.live_definitions(connection)
            held = await inbox.hold_absent(connection, self._cursor, live, BATCH)
        self._cursor = held.cursor
        async with self._database.transaction() as connection:
            live = await workers.live_definitions(connection)
            freed = await inbox.free_absent(connection, live, BATCH)
        self._pool.wake(freed)
        return not held.lap_ended
