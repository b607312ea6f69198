"""A tap in the byte stream of one connection, between the socket and the client library.

aio-pika keeps the connection: TLS, login, heartbeats, channels, topology, errors. The tap reads ahead of it, frame by
frame: those of a channel with a filter go through that, every other frame to the library untouched, in a stream
reader of the standard library. The seam is the public `transport_factory` of aiormq. Guarantees that the library is
never starved of signs of life, and that bytes wait in the socket while somebody wants them to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from saga_worker.broker.wire import (
    BODY,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_UNBLOCKED,
    FRAME,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    INDEX,
    METHOD,
    close_reason,
)
from saga_worker.telemetry import stage_failed

log = logging.getLogger(__name__)

_CHUNK: Final = 256 * 1024
_KEEP_ALIVE_SECONDS: Final = 2.0
_KINDS: Final = frozenset({METHOD, HEADER, BODY, HEARTBEAT})


class FrameFilter(Protocol):
    """Sees the frames of one channel before the library. Called from the reader: quick, and never raises."""

    def pass_on(self, kind: int, payload: bytes) -> bytes | None:
        """Whole frames that the library is to see in place of this one, or None: the one as it is."""


class Tap(TransportFactory):
    """The byte stream of one connection."""

    def __init__(self) -> None:
        self.filters: dict[int, FrameFilter] = {}
        self.closed_by_broker: tuple[int, str] | None = None
        self.is_blocked = False
        self.on_unblocked: Callable[[], None] | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._valve = _Valve()
        self._writer: asyncio.StreamWriter | None = None
        self._pump: asyncio.Task[None] | None = None
        self._rest = b""  # of a frame that is still to come

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Called by the client library once per connection."""
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        source, self._writer = await factory.create(url, **kwargs)
        library = asyncio.StreamReader()
        library.set_transport(self._valve)
        self._pump = asyncio.create_task(self._run(source, library), name="AMQP tap")
        return library, self._writer

    @property
    def is_in_place(self) -> bool:
        """Whether the library has taken its streams from here."""
        return self._writer is not None

    @property
    def is_lost(self) -> bool:
        """Whether the socket is gone."""
        return self._writer is not None and self._writer.is_closing()

    def write(self, frames: bytes) -> None:
        """Put whole frames on the wire; a connection that is gone swallows them."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames)

    def stop_reading(self) -> None:
        """Leave further bytes in the socket, so that the broker has to wait."""
        self._wanted.clear()

    def go_on_reading(self) -> None:
        self._wanted.set()

    async def abort(self) -> None:
        """Drop the socket without a farewell, and wait for the end of the reading."""
        self._wanted.set()
        self._valve.resume_reading()
        if self._writer is not None:
            self._writer.transport.abort()
        if self._pump is not None:
            await asyncio.wait({self._pump})

    async def _run(self, source: asyncio.StreamReader, library: asyncio.StreamReader) -> None:
        """Pump until the socket ends; then the library sees the end of its stream, behind the last frame."""
        try:
            await self._feed(source, library)
        except OSError:
            pass  # the socket is gone, as the end of the stream says
        except Exception as error:  # a fault of ours: the connection ends, and the supervisor builds the next one
            stage_failed(log, "broker_tap", type(error).__name__, level=logging.ERROR, trace=True)
        finally:
            library.feed_eof()

    async def _feed(self, source: asyncio.StreamReader, library: asyncio.StreamReader) -> None:
        now = asyncio.get_running_loop().time
        fed_at = now()
        while True:
            passed = b""
            if await self._wait_until_wanted():
                data = await source.read(_CHUNK)
                if not data:
                    return
                passed = self._sift(data)
            if not passed and now() - fed_at >= _KEEP_ALIVE_SECONDS:
                # The broker sends no heartbeats while it delivers: without one the library believes it is gone.
                passed = HEARTBEAT_FRAME
            if passed:
                library.feed_data(passed)
                fed_at = now()

    async def _wait_until_wanted(self) -> bool:
        """Whether reading may go on, after at most the time for which the library can do without a frame."""
        await self._valve.opened.wait()
        if self._wanted.is_set():
            return True
        try:
            async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                await self._wanted.wait()
        except TimeoutError:
            return False
        return True

    def _sift(self, data: bytes) -> bytes:
        """What goes on to the library of the frames that are whole by now."""
        buffer = self._rest + data if self._rest else data
        at, end, filters = 0, len(buffer), self.filters
        passed: list[bytes] = []
        while end - at >= 8:
            if buffer[at] not in _KINDS:
                passed.append(buffer[at:])  # no AMQP 0-9-1: let the library say so
                at = end
                break
            kind, channel, size = FRAME.unpack_from(buffer, at)
            stop = at + 8 + size
            if stop > end:
                break
            payload = buffer[at + 7 : stop - 1]
            frame_filter = filters.get(channel)
            changed = frame_filter.pass_on(kind, payload) if frame_filter is not None else None
            if changed is None:
                passed.append(buffer[at:stop])
                if kind == METHOD:
                    self._note(channel, payload)
            elif changed:
                passed.append(changed)
            at = stop
        self._rest = buffer[at:]
        return b"".join(passed)

    def _note(self, channel: int, payload: bytes) -> None:
        """Remember why the broker closes, whether it takes publishes, and which channel number is free again."""
        index = INDEX.unpack_from(payload)[0]
        if index in (CHANNEL_CLOSE, CHANNEL_CLOSE_OK):
            self.filters.pop(channel, None)
        elif index == CONNECTION_CLOSE:
            self.closed_by_broker = close_reason(payload)
        elif index == CONNECTION_BLOCKED:
            self.is_blocked = True
        elif index == CONNECTION_UNBLOCKED:
            self.is_blocked = False
            if self.on_unblocked is not None:
                self.on_unblocked()


class _Valve(asyncio.ReadTransport):
    """How the library's stream reader says that it has enough for now."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.opened.set()

    def pause_reading(self) -> None:
        self.opened.clear()

    def resume_reading(self) -> None:
        self.opened.set()
