"""What the relay tells a saga: that a message of it finds no queue, and that it has found one.

Takes (ref, destination) from the relay, stores an operator row for the saga, wakes the pool. So the attention list
is written where everything else about a saga is written: under its lock, by `decide`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from pydantic_core import to_json
from uuid_utils.compat import uuid7

from saga_worker import inbox
from saga_worker.inbox import NewRow
from saga_worker.sql.connection import Database, describe
from saga_worker.telemetry import stage_failed

log = logging.getLogger(__name__)

BATCH: Final = 200
RETRY_SECONDS: Final = 1.0


class RelayNotices:
    """A queue of notices and the one task that stores them."""

    def __init__(self, database: Database, *, on_stored: Callable[[Sequence[UUID]], None]) -> None:
        self._database = database
        self._on_stored = on_stored
        self._queue: asyncio.Queue[tuple[str, UUID, str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def undeliverable(self, ref: UUID, destination: str) -> None:
        self._queue.put_nowait(("undeliverable", ref, destination))

    def delivered(self, ref: UUID, destination: str) -> None:
        self._queue.put_nowait(("delivered", ref, destination))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="relay notices")

    async def stop(self) -> None:
        """End. A notice that is lost here is given again: the row is refused again, by whoever takes it over."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            notices = [await self._queue.get()]
            while not self._queue.empty() and len(notices) < BATCH:
                notices.append(self._queue.get_nowait())
            await self._store_until_stored(notices)

    async def _store_until_stored(self, notices: Sequence[tuple[str, UUID, str]]) -> None:
        while True:
            if await self._store(notices):
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _store(self, notices: Sequence[tuple[str, UUID, str]]) -> bool:
        refs = sorted({ref for _, ref, _ in notices})
        try:
            async with self._database.transaction() as connection:
                found = {r["ref"]: r["definition"] for r in await connection.fetch("definitions_of_refs", refs)}
                rows = [_row(found[ref], kind, ref, destination) for kind, ref, destination in notices if ref in found]
                await inbox.insert(connection, rows)
        except Exception as error:
            stage_failed(log, "relay_notices", describe(error))
            return False
        self._on_stored(refs)
        return True


def _row(definition: str, kind: str, ref: UUID, destination: str) -> NewRow:
    body = to_json({"destination": destination})
    return inbox.operator_row(definition, ref, None, kind, source="relay", message_id=str(uuid7()), body=body)
