"""Whether queued replies are stored, so that reply time-outs may fire: a fact of all workers together."""

from __future__ import annotations

from saga_worker import workers
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper


class RepliesStored(Sweeper):
    """Keeps the answer at hand for `decide`; until the first look it is no."""

    def __init__(self, database: Database, *, grace_seconds: float, interval_seconds: float = 1.0) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._grace_seconds = grace_seconds
        self._are_stored = False
        self._is_up = False

    def is_up(self) -> bool:
        """Whether the database answered the last look; for readiness."""
        return self._is_up

    def are_stored(self) -> bool:
        return self._are_stored

    async def sweep(self) -> bool:
        try:
            async with self._database.transaction() as connection:
                self._are_stored = await workers.replies_are_stored(connection, self._grace_seconds)
            self._is_up = True
        except BaseException:
            self._are_stored = self._is_up = False  # a look that fails is no yes
            raise
        return False
