"""Rows of sagas whose definition no live worker has loaded are held with that reason, and freed when one has."""

from __future__ import annotations

from saga_worker import inbox
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

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            held = await inbox.hold_absent(connection, BATCH)
        async with self._database.transaction() as connection:
            freed = await inbox.free_absent(connection, BATCH)
        self._pool.wake(freed)
        return BATCH in (held, len(freed))
