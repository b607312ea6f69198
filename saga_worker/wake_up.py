"""Hints across processes, that rows became ready or that sagas have ended: NOTIFY, coalesced, never in a step.

Takes `tell` from a process that stores and does not advance; guarantees at most one NOTIFY per interval and process,
and a listener that notices a dead connection. That sagas have ended is told only while a client says that it waits.
Only hints: whoever hears one looks, and the polls of pool and client are the truth. Not for a pooler in transaction
mode, which cannot LISTEN: there the polls have to do.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from saga_worker import backoff
from saga_worker.sql.connection import Connection, Database, describe, single_connection
from saga_worker.telemetry import stage_failed

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 0.02  # NOTIFY takes a lock that serialises commits: 17.2k/s fell to 4.1k/s with one each
HEALTH_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0  # doubled with each failure
LONGEST_RETRY_SECONDS: Final = 5.0
WAITING_SECONDS: Final = 20.0  # a client that waits for ends says so as often; it is believed for three times that long
_SOMEBODY_WAITS: Final = "waits"  # the payload that says so


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


async def tell(connection: Connection, payload: str = "") -> None:
    """Say once that there are rows; on a connection that is in no transaction."""
    await connection.raw.execute("SELECT pg_notify($1, $2)", _channel(connection.schema), payload)


def _channel(schema: str) -> str:
    return f"{schema}_ready"


def _channel_of_ends(schema: str) -> str:
    return f"{schema}_ended"


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
    """Calls `on_news` whenever some process has told, and after every reconnect; `on_waiting` when a client waits."""

    def __init__(
        self, url: str, schema: str, *, on_news: Callable[[], None], on_waiting: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(url, schema)
        self._on_news = on_news
        self._on_waiting = on_waiting

    def _hear(self, _connection: object, _pid: int, _channel_name: str, payload: object) -> None:
        (self._on_waiting if payload == _SOMEBODY_WAITS else self._on_news)()

    async def serve(self, connection: Connection) -> None:
        ended = asyncio.Event()
        connection.raw.add_termination_listener(lambda _: ended.set())
        await connection.raw.add_listener(_channel(connection.schema), self._hear)
        self._on_news()
        while not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_SECONDS):
                    await ended.wait()
            async with asyncio.timeout(5):
                await connection.raw.execute("SELECT 1")  # a half-open connection says nothing by itself


class EndTeller:
    """Tells waiting clients that sagas have ended. While none waits it does nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted_until = 0.0
        self._has_news = False
        self._telling: asyncio.Task[None] | None = None

    def somebody_waits(self) -> None:
        self._wanted_until = asyncio.get_running_loop().time() + 3 * WAITING_SECONDS

    @property
    def is_wanted(self) -> bool:
        return self._wanted_until > 0 and asyncio.get_running_loop().time() < self._wanted_until

    def tell(self) -> None:
        """Some saga has ended, and that is committed."""
        self._has_news = True
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(), name="end teller")

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            with suppress(asyncio.CancelledError):
                await self._telling

    async def _tell(self) -> None:
        while self._has_news:
            self._has_news = False
            try:
                async with self._database.autocommit() as connection:
                    await connection.raw.execute("SELECT pg_notify($1, '')", _channel_of_ends(connection.schema))
            except Exception as error:  # a hint that is lost costs a client the rest of its pause
                stage_failed(log, "wake_up", describe(error))
            await asyncio.sleep(INTERVAL_SECONDS)


class EndListener(_Loop):
    """For a client: says that it waits, and calls `on_news` when sagas have ended somewhere."""

    def __init__(self, url: str, schema: str, *, on_news: Callable[[], None]) -> None:
        super().__init__(url, schema)
        self._on_news = on_news

    async def serve(self, connection: Connection) -> None:
        ended = asyncio.Event()
        connection.raw.add_termination_listener(lambda _: ended.set())
        await connection.raw.add_listener(_channel_of_ends(connection.schema), lambda *_: self._on_news())
        while not ended.is_set():
            async with asyncio.timeout(5):
                await tell(connection, _SOMEBODY_WAITS)
            self._on_news()
            with suppress(TimeoutError):
                async with asyncio.timeout(WAITING_SECONDS):
                    await ended.wait()
