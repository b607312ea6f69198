"""Waiting for what workers do: one look at the database for everything that this client waits for.

Takes keys of inbox rows and ids of sagas; guarantees that a change is seen, late at most by the longest pause between
two looks, and that a thousand waiters cost one statement per look. Workers tell when sagas have ended, so that the
pauses between looks for an end can be long.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Final, Generic, TypeVar
from uuid import UUID

import asyncpg
from msgspec import Struct

from saga_worker.sql.connection import Connection, Database, is_transient
from saga_worker.wake_up import EndListener

FIRST_PAUSE_SECONDS: Final = 0.01  # doubled with each look; back to this when somebody new waits
LONGEST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_WITH_HINTS_SECONDS: Final = 2.0  # while only ends are waited for, and workers can tell of them
Found = TypeVar("Found")
Key = TypeVar("Key", bound=Hashable)


class StartRow(Struct, frozen=True):
    """The inbox row of a start as a look finds it; `saga_id`: where it led to, once it is applied."""

    state: str
    reason: str | None
    error: str | None
    saga_id: UUID | None

    @property
    def is_decided(self) -> bool:
        """Whether it is known what the start does, perhaps later."""
        return self.state not in ("ready", "held")

    @property
    def is_settled(self) -> bool:
        """Whether it has had its effect, or will have none."""
        return self.is_decided and self.state != "parked"


class Watch:
    """Looks as long as anybody waits."""

    def __init__(self, database: Database, *, hints_from: str | None) -> None:
        """`hints_from`: the URL for a connection of its own that listens; None behind a pooler, which cannot."""
        self._database = database
        self._hints_from = hints_from
        self._hints: EndListener | None = None
        self._rows: _Waiters[UUID, StartRow] = _Waiters()
        self._ends: _Waiters[UUID, None] = _Waiters()
        self._is_new = False  # somebody waits since the last look
        self._has_news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def row(self, dedup: UUID, is_enough: Callable[[StartRow], bool]) -> StartRow:
        """The row with this key, as soon as it is as wanted."""
        return await self._wait(self._rows, dedup, is_enough)

    async def end(self, saga_id: UUID) -> None:
        """Until this saga has ended, or is gone."""
        if self._hints is None and self._hints_from is not None:
            self._hints = EndListener(self._hints_from, self._database.schema, on_news=self._has_news.set)
            self._hints.start()
        await self._wait(self._ends, saga_id, lambda _: True)

    async def close(self) -> None:
        """End; whoever still waits is cancelled."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        if self._hints is not None:
            await self._hints.stop()
        self._rows.cancel()
        self._ends.cancel()

    async def _wait(self, waiters: _Waiters[Key, Found], key: Key, is_enough: Callable[[Found], bool]) -> Found:
        self._is_new = True
        self._has_news.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="client watch")
        return await waiters.wait(key, is_enough)

    async def _look_on(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while self._has_news.is_set() or self._rows.keys or self._ends.keys:
            self._has_news.clear()
            if self._is_new:
                self._is_new, pause = False, FIRST_PAUSE_SECONDS
            try:
                await self._look()
            except Exception as error:
                if not is_transient(error):
                    self._rows.fail(error)
                    self._ends.fail(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._has_news.wait()
            only_ends = self._hints is not None and not self._rows.keys
            pause = min(2 * pause, LONGEST_PAUSE_WITH_HINTS_SECONDS if only_ends else LONGEST_PAUSE_SECONDS)

    async def _look(self) -> None:
        async with self._database.autocommit() as connection:
            await self._look_at_rows(connection)
            await self._look_at_ends(connection)

    async def _look_at_rows(self, connection: Connection) -> None:
        if keys := self._rows.keys:
            for record in await connection.fetch("client_rows", keys):
                self._rows.found(record["dedup"], _row(record))

    async def _look_at_ends(self, connection: Connection) -> None:
        if keys := self._ends.keys:
            for record in await connection.fetch("client_ended", keys):
                self._ends.found(record["saga_id"], None)


class _Waiters(Generic[Key, Found]):
    """Who waits for news of a key, and for which."""

    def __init__(self) -> None:
        self._waiting: dict[Key, list[tuple[Callable[[Found], bool], asyncio.Future[Found]]]] = defaultdict(list)

    @property
    def keys(self) -> list[Key]:
        return list(self._waiting)

    async def wait(self, key: Key, is_enough: Callable[[Found], bool]) -> Found:
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        entry = (is_enough, future)
        self._waiting[key].append(entry)
        try:
            return await future
        finally:
            self._waiting[key].remove(entry)
            if not self._waiting[key]:
                del self._waiting[key]

    def found(self, key: Key, what: Found) -> None:
        for is_enough, future in self._waiting.get(key, ()):
            if not future.done() and is_enough(what):
                future.set_result(what)

    def fail(self, error: Exception) -> None:
        for future in self._futures():
            future.set_exception(error)

    def cancel(self) -> None:
        for future in self._futures():
            future.cancel()

    def _futures(self) -> list[asyncio.Future[Found]]:
        return [future for entries in self._waiting.values() for _, future in entries if not future.done()]


def _row(record: asyncpg.Record) -> StartRow:
    return StartRow(record["state"], record["reason"], record["error"], record["saga_id"])
