"""Attempts of activities whose worker is gone, or that hang long after their time: another attempt, or none."""

from __future__ import annotations

import logging

from saga_worker import activity_rows, inbox
from saga_worker.activities import Activities, after_loss
from saga_worker.inbox_pool import InboxPool
from saga_worker.saga.registry import Registry
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper
from saga_worker.telemetry import Event, Field

log = logging.getLogger(__name__)

BATCH = 200
HUNG_AFTER_SECONDS = 5.0  # a worker that lives ends its attempts in time


class LostActivities(Sweeper):
    """Raises the epoch, so that a worker that comes back has no say any more."""

    def __init__(
        self, database: Database, pool: InboxPool, activities: Activities, registry: Registry, *,
        interval_seconds: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._pool = pool
        self._activities = activities
        self._registry = registry
        self._versions = [f"{name}/{version}" for name, version in registry.versions()]

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            lost = await activity_rows.expired(
                connection, self._versions, hung_after=HUNG_AFTER_SECONDS, limit=BATCH
            )  # fmt: skip
            error = "its worker is gone, or it hangs"
            judged = [ended for attempt in lost if (ended := after_loss(self._registry, attempt, error)) is not None]
            rows = await activity_rows.settle(connection, judged)
            await inbox.insert(connection, rows)
        if lost:
            log.warning(Event.ACTIVITY_LOST, extra={Field.COUNT: len(lost)})
            self._activities.look()
        self._pool.wake([row.ref for row in rows if row.ref is not None])
        return len(lost) == BATCH
