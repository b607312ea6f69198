"""Workers whose lease is over: the rows they may have died of become suspects, then the worker is forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable

from saga_worker import workers
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

log = logging.getLogger(__name__)


class ExpiredLeases(Sweeper):
    """Marks suspects from the intents of dead workers; their outbox rows are the relay's business."""

    def __init__(self, database: Database, *, on_expired: Callable[[], None], interval_seconds: float = 1.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._on_expired = on_expired

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            expired = await workers.expire(connection)
            suspects = await workers.mark_suspects(connection, expired) if expired else 0
        if expired:
            log.warning("worker.expired", extra={"workers": expired, "suspects": suspects})
            self._on_expired()
        return False
