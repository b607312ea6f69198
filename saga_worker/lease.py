"""This process's row among the workers: its number, and the heartbeat that keeps its lease.

Takes the database URL; guarantees that a busy or stuck event loop does not cost the lease (the heartbeat has a
thread, a loop and a connection of its own), and that a lease that was lost is noticed and replaced by a new number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

from saga_worker import workers
from saga_worker.sql.connection import Connection, Database, describe, single_connection
from saga_worker.telemetry import Event, Field, stage_failed

log = logging.getLogger(__name__)

BEATS_PER_LEASE: Final = 4
FAREWELL_SECONDS: Final = 3.0


class Lease:
    """`worker_id` is the number to write with; it changes when a lease is lost, and `on_lost` is called then."""

    def __init__(
        self, database: Database, url: str, *, definitions: Sequence[str], seconds: float,
        on_lost: Callable[[], None], pgbouncer: bool = False,
    ) -> None:  # fmt: skip
        self._database = database
        self._url = url
        self._definitions = list(definitions)
        self._seconds = seconds
        self._on_lost = on_lost
        self._pgbouncer = pgbouncer
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker_id = 0

    def worker_id(self) -> int:
        return self._worker_id

    async def start(self) -> None:
        """Register, then keep the lease from a thread."""
        self._loop = asyncio.get_running_loop()
        async with self._database.transaction() as connection:
            self._worker_id = await self._register(connection)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Give the lease back, so that nobody waits for it to expire. Without a database it expires by itself."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if not self._worker_id:
            return
        try:
            async with asyncio.timeout(FAREWELL_SECONDS), self._database.transaction() as connection:
                await workers.leave(connection, self._worker_id)
        except Exception as error:  # whatever it is, the process ends now, and in order
            stage_failed(log, "lease", describe(error))

    async def _register(self, connection: Connection) -> int:
        return await workers.register(
            connection, self._definitions, socket.gethostname(), os.getpid(), lease_seconds=self._seconds
        )

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        is_failing = False
        while not self._stopping.is_set():
            try:
                async with single_connection(self._url, self._database.schema, pgbouncer=self._pgbouncer) as connection:
                    is_failing = False
                    while not await asyncio.to_thread(self._stopping.wait, self._seconds / BEATS_PER_LEASE):
                        await self._renew(connection)
            except Exception as error:
                if not is_failing:  # one line for the whole time: it is tried every second
                    stage_failed(log, "heartbeat", describe(error))
                is_failing = True
                await asyncio.to_thread(self._stopping.wait, 1.0)

    async def _renew(self, connection: Connection) -> None:
        if await workers.heartbeat(connection, self._worker_id, self._seconds):
            return
        log.warning(Event.WORKER_LEASE_LOST, extra={Field.WORKER: self._worker_id})
        new_id = await self._register(connection)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._replace, new_id)

    def _replace(self, new_id: int) -> None:
        self._worker_id = new_id
        self._on_lost()
