"""Workers whose lease is over: the rows they may have died of become suspects, then the worker is forgotten."""

from __future__ import annotations

import logging

from saga_worker import workers
from saga_worker.inbox_pool import InboxPool
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper
from saga_worker.telemetry import Event, Field

log = logging.getLogger(__name__)


class ExpiredLeases(Sweeper):
    """Marks suspects from the intents of dead workers; what they own in the outbox is the relay's business."""

    def __init__(self, database: Database, pool: InboxPool, *, interval_seconds: float = 1.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._pool = pool

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            expired = await workers.expire(connection)
            suspects = await workers.mark_suspects(connection, expired)
            await workers.forget(connection, expired)
        for worker_id in expired:
            log.warning(Event.WORKER_EXPIRED, extra={Field.WORKER: worker_id})
        if suspects:
            log.warning(Event.ROW_SUSPECT, extra={Field.COUNT: len(suspects)})
        self._pool.wake(suspects)
        return False
