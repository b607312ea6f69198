"""Sagas that this worker has no version for and no place in a newer one: left to others, or held where nobody is.

In a rolling deployment workers of the old release run them on. Only when none is left that lists their version, they
are held with a reason that an operator sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from saga_worker import inbox, workers
from saga_worker.orchestrator.contract import Advanced
from saga_worker.saga.fold.stranded import strand
from saga_worker.saga.instance import Instance
from saga_worker.sql.connection import Connection


async def hold(
    connection: Connection, advanced: Advanced, found: Mapping[UUID, Instance], backlog: inbox.Backlog
) -> None:
    """Judge those of `advanced` that are stranded here."""
    live = await workers.live_definitions(connection)
    for ref, why in advanced.stranded.items():
        instance = found[ref]
        if f"{instance.definition}/{instance.definition_version}" not in live:
            advanced.unknown.discard(ref)
            advanced.add(strand(instance, backlog.rows.get(ref, []), why, backlog.now))
