"""Rows of sagas whose definition no live worker has loaded are held with that reason, and freed when one has.

And sagas of a version that is only upgraded now, which wait for an activity of that version, are asked to look again:
nobody else would come to them, and their activity goes on under the newer one.
"""

from __future__ import annotations

from saga_worker import activity_rows, inbox, workers
from saga_worker.inbox_pool import InboxPool
from saga_worker.saga.registry import Registry
from saga_worker.sql.connection import Database
from saga_worker.sweepers.sweeper import Sweeper

BATCH = 1000


class AbsentDefinitions(Sweeper):
    """Keeps rows that nobody can run out of the claim's way."""

    def __init__(
        self, database: Database, pool: InboxPool, registry: Registry, *, interval_seconds: float = 5.0
    ) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._database = database
        self._pool = pool
        self._upgraded = {f"{name}/{version}": hops[-1].saga.version for (name, version), hops in registry.ways.items()}

    async def sweep(self) -> bool:
        async with self._database.transaction() as connection:
            held = await inbox.hold_absent(connection, BATCH)
        async with self._database.transaction() as connection:
            freed = await inbox.free_absent(connection, BATCH)
        self._pool.wake(freed)
        if self._upgraded:
            await self._take_up_activities()
        return BATCH in (held, len(freed))

    async def _take_up_activities(self) -> None:
        async with self._database.transaction() as connection:
            gone = sorted(self._upgraded.keys() - await workers.live_definitions(connection))
            orphans = await activity_rows.orphans(connection, gone, limit=BATCH) if gone else []
            rows = [
                inbox.operator_row(
                    orphan.definition,
                    orphan.ref,
                    None,
                    "recheck",
                    source="upgrade",
                    message_id=f"{orphan.ref}:{orphan.seq}:{self._upgraded[orphan.version]}",
                )
                for orphan in orphans
            ]
            await inbox.insert(connection, rows)
        self._pool.wake([orphan.ref for orphan in orphans])
