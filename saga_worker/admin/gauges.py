"""The gauges of `/metrics` that only the database knows, read every half minute beside a worker.

Takes a worker's database; guarantees that a failed reading costs nothing but freshness. Never read per scrape.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from saga_worker.sql.connection import Database, describe
from saga_worker.telemetry import Event, Field, Metrics, metrics

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 30.0
STAGE: Final = "gauges"


class Gauges:
    """A background loop; `read` is one pass."""

    def __init__(self, database: Database, *, into: Metrics = metrics, period_seconds: float = PERIOD_SECONDS) -> None:
        self._database = database
        self._metrics = into
        self._period_seconds = period_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=STAGE)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def read(self) -> None:
        """Read once; raises what the database raises."""
        async with self._database.autocommit() as connection:
            row = await connection.fetchrow("admin_gauges")
        assert row is not None
        for state in ("ready", "parked", "held", "dead"):
            self._metrics.inbox_rows.labels(state).set(row[state])
        self._metrics.inbox_oldest_seconds.set(row["oldest_ready_seconds"])
        self._metrics.outbox_rows.set(row["outbox"])
        self._metrics.outbox_failing.set(row["outbox_failing"])
        self._metrics.attention.set(row["attention"])
        self._metrics.unsettled.set(row["unsettled"])
        self._metrics.stuck.set(row["stuck"])

    async def _run(self) -> None:
        while True:
            try:
                await self.read()
            except Exception as error:  # the database may be away, or not open yet: the stages report that
                logger.debug(Event.STAGE_FAILED, extra={Field.STAGE: STAGE, Field.ERROR: describe(error)})
            await asyncio.sleep(self._period_seconds)
