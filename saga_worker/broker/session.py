"""One living AMQP connection: from connected to the first fault.

Takes what the client library has connected, and its tap; opens channels on it, knows why it ended, and guarantees
that closing frees the socket whatever the library is waiting for. Built by `connection`, used by everything on it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import aio_pika
from aio_pika.abc import AbstractChannel
from aiormq.channel import Channel as UnderlayChannel
from aiormq.connection import EXCEPTION_MAPPING
from aiormq.connection import Connection as UnderlayConnection
from aiormq.exceptions import AMQPError, ConnectionClosed

from saga_worker.broker.hot_path import HotPath
from saga_worker.broker.tap import Tap

STEP_TIMEOUT_SECONDS: Final = 10.0
CLOSE_TIMEOUT_SECONDS: Final = 3.0
_LIBRARY_TURNS: Final = 10
BROKER_FAULTS: Final = (AMQPError, OSError, TimeoutError, RuntimeError, asyncio.InvalidStateError)
_CODES: Final[dict[type, int]] = {kind: code for code, kind in EXCEPTION_MAPPING.items()}


@dataclass(frozen=True, slots=True)
class Closure:
    """Why a session ended. `is_accusation`: the broker closed it because of something that was sent.

    `is_unreadable`: the client library gave it up over a delivery, which will come again.
    """

    text: str
    code: int = 0
    is_unreadable: bool = False

    @property
    def is_accusation(self) -> bool:
        return self.code not in (0, 200, 320)


FAREWELL: Final = Closure("closed by us")


class Session:
    """One living connection: from connected to the first fault."""

    hot_path: HotPath  # known before the user's part begins

    def __init__(self, pika: aio_pika.Connection, tap: Tap) -> None:
        self._pika = pika
        self.tap = tap
        self.closed: asyncio.Future[Closure] = asyncio.get_running_loop().create_future()
        self._transport().closing.add_done_callback(self._connection_closed)

    def _transport(self) -> UnderlayConnection:
        assert self._pika.transport is not None
        return cast(UnderlayConnection, self._pika.transport.connection)

    @property
    def is_dismissed(self) -> bool:
        """Whether it was us who ended it."""
        return self.closed.done() and self.closed.result() is FAREWELL

    @property
    def is_alive(self) -> bool:
        return not self.closed.done() and not self.tap.is_lost

    @property
    def frame_max(self) -> int:
        return self._transport().connection_tune.frame_max

    async def channel(self) -> AbstractChannel:
        """A new channel with publisher confirms on."""
        async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
            return await self._pika.channel(publisher_confirms=True)

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Close a channel of `channel`; one that does not answer is left to the end of the session."""
        with suppress(*BROKER_FAULTS):
            async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
                await channel.close()

    async def underlay_channel(self) -> UnderlayChannel:
        """A new channel, as the ends of a hot path need it."""
        return cast(UnderlayChannel, await (await self.channel()).get_underlay_channel())

    def fail(self, closure: Closure) -> None:
        """Give this session up; the supervisor builds the next one."""
        if not self.closed.done():
            self.closed.set_result(closure)

    def _connection_closed(self, closing: asyncio.Future[Any]) -> None:
        if self.tap.closed_by_broker is not None:
            code, text = self.tap.closed_by_broker
            self.fail(Closure(text, code))
        else:
            self.fail(_closure(None if closing.cancelled() else closing.exception()))

    async def close(self) -> None:
        """Say farewell unless the other side is beyond hearing it, and free the socket in any case."""
        if self.closed.done() and not self.is_dismissed and self.tap.closed_by_broker is None:
            await self.tap.abort()
        self.fail(FAREWELL)
        transport = self._transport()
        farewell = asyncio.ensure_future(self._pika.close())
        await asyncio.wait({farewell}, timeout=CLOSE_TIMEOUT_SECONDS)
        await self.tap.abort()  # frees whatever still waits for the socket
        await asyncio.wait({farewell}, timeout=CLOSE_TIMEOUT_SECONDS)
        await asyncio.wait({transport.closing}, timeout=CLOSE_TIMEOUT_SECONDS)
        farewell.cancel()
        # The library tells channels and connection of the end in tasks of their own, which must not outlive the loop.
        for _ in range(_LIBRARY_TURNS):
            await asyncio.sleep(0)


def _closure(error: BaseException | None) -> Closure:
    """What the library says; without a tap in place nobody else does."""
    match error:
        case ConnectionClosed() if type(error) in _CODES:
            return Closure(str(error), _CODES[type(error)])
        case ConnectionClosed(args=(int(code), str(text))):
            return Closure(text, code)
        case None | OSError() | asyncio.CancelledError():
            return Closure("the connection was lost")
        case _:
            return Closure(f"the client library could not read a frame: {error}", is_unreadable=True)
