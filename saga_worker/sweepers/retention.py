"""What has served its time leaves: settled inbox rows after the window, then sagas that are settled."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from saga_worker import inbox, instances
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

BATCH: Final = 5000
SAGA_BATCH: Final = 500


class Retention(Sweeper):
    """Deletes by primary-key range with a cursor that laps; never touches dead, parked or held rows."""

    def __init__(self, database: Database, *, window: timedelta, interval_seconds: float = 60.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._window = window

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            lap_ended = await inbox.retain(connection, self._window, BATCH)
        async with self._database.transaction() as connection:
            sagas = await instances.retain(connection, self._window, SAGA_BATCH)
        return not lap_ended or sagas == SAGA_BATCH
