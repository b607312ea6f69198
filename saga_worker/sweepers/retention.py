"""What has served its time leaves: settled inbox rows after the window, then sagas that are settled."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from saga_worker import inbox
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

BATCH: Final = 5000
SAGA_BATCH: Final = 500
LONGER: Final = timedelta(days=1)  # a saga outlives its inbox rows, or a repeat could start it again


class Retention(Sweeper):
    """Deletes by primary-key range with a cursor that laps; never touches dead, parked or held rows."""

    def __init__(self, database: Database, *, window: timedelta, interval_seconds: float = 60.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._window = window

    async def sweep(self) -> bool:
        seconds = self._window.total_seconds()
        async with self._database.transaction() as connection:
            rows = await inbox.retain(connection, window_seconds=seconds, limit=BATCH)
        async with self._database.transaction() as connection:
            longer = seconds + LONGER.total_seconds()
            sagas = await inbox.retain_sagas(connection, window_seconds=longer, limit=SAGA_BATCH)
        return rows == BATCH or sagas == SAGA_BATCH
