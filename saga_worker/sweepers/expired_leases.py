"""Workers whose lease is over: what they may have died of becomes suspect, then the worker is forgotten.

A row is marked where it is; a saga is told of its timer or local step by an operator's row, and judges that itself.
"""

from __future__ import annotations

import logging

from saga_worker import inbox, workers
from saga_worker.inbox_pool import InboxPool
from saga_worker.orchestrator.deaths import report
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
            timers = await workers.timers_in_hand(connection, expired)
            await inbox.insert(connection, [report(timer) for timer in timers])
            suspects = [timer.ref for timer in timers] + await workers.mark_suspects(connection, expired)
            await workers.forget(connection, expired)
        for worker_id in expired:
            log.warning(Event.WORKER_EXPIRED, extra={Field.WORKER: worker_id})
        if suspects:
            log.warning(Event.ROW_SUSPECT, extra={Field.COUNT: len(suspects)})
        self._pool.wake(suspects)
        return False
