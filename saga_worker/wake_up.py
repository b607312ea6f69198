"""A hint across processes that rows became ready: NOTIFY, coalesced, from a connection of its own, never in a step.

Takes `tell` from a process that stores and does not advance; guarantees at most one NOTIFY per interval and process,
and a listener that notices a dead connection. Only a hint: whoever hears it looks, and the poll of the pool is the
truth. Not for a pooler in transaction mode, which cannot LISTEN: there the poll has to do.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from saga_worker import backoff
from saga_worker.sql.connection import Connection, describe, single_connection
from saga_worker.telemetry import stage_failed

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 0.02  # NOTIFY takes a lock that serialises commits: 17.2k/s fell to 4.1k/s with one each
HEALTH_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0  # doubled with each failure
LONGEST_RETRY_SECONDS: Final = 5.0


class _Loop(ABC):
    """One task with one connection that is made again whenever it breaks."""

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self._schema = schema
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=type(self).__name__)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with single_connection(self._url, self._schema) as connection:
                    failures = 0
                    await self.serve(connection)
            except Exception as error:
                failures += 1
                stage_failed(log, "wake_up", describe(error))
            await asyncio.sleep(backoff.delay(failures, first=RETRY_SECONDS, longest=LONGEST_RETRY_SECONDS))

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Work with this connection until it breaks."""


async def tell(connection: Connection) -> None:
    """Say once that there are rows; on a connection that is in no transaction."""
    await connection.raw.execute("SELECT pg_notify($1, '')", _channel(connection.schema))


def _channel(schema: str) -> str:
    return f"{schema}_ready"


class Teller(_Loop):
    """Says that there are rows."""

    def __init__(self, url: str, schema: str) -> None:
        super().__init__(url, schema)
        self._has_news = asyncio.Event()

    def tell(self) -> None:
        self._has_news.set()

    async def serve(self, connection: Connection) -> None:
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await tell(connection)
            await asyncio.sleep(INTERVAL_SECONDS)


class Listener(_Loop):
    """Calls `on_news` whenever some process has told, and after every reconnect."""

    def __init__(self, url: str, schema: str, *, on_news: Callable[[], None]) -> None:
        super().__init__(url, schema)
        self._on_news = on_news

    async def serve(self, connection: Connection) -> None:
        ended = asyncio.Event()
        connection.raw.add_termination_listener(lambda _: ended.set())
        await connection.raw.add_listener(_channel(connection.schema), lambda *_: self._on_news())
        self._on_news()
        while not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_SECONDS):
                    await ended.wait()
            async with asyncio.timeout(5):
                await connection.raw.execute("SELECT 1")  # a half-open connection says nothing by itself
