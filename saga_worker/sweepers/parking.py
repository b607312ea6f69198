"""Parked rows whose period is over, and rows of types that no route knew when they came."""

from __future__ import annotations

from saga_worker import inbox, routes
from saga_worker.inbox_pool import InboxPool
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

BATCH = 200


class Parking(Sweeper):
    """Expired rows are judged by `fold` under their saga's lock; unrouted ones are routed again or buried here."""

    def __init__(self, database: Database, pool: InboxPool, *, interval_seconds: float = 2.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._pool = pool

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            expired = await inbox.expired_parked(connection, BATCH)
        async with self._database.transaction() as connection:
            table = await routes.load(connection)
            rerouted = await inbox.reroute_unrouted(connection, table, BATCH)
        async with self._database.transaction() as connection:
            buried = await inbox.expire_unrouted(connection, BATCH)
        self._pool.wake([*expired, *rerouted])
        return BATCH in (len(expired), len(rerouted), buried)
