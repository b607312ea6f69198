"""A tap between the socket and the client library: the two hot paths, without its cost per message.

aio-pika keeps the connection: TLS, login, heartbeats, channels, topology, errors. It spends 30 to 80 us on each
delivery and each confirm, and gives up the connection when a sender's property is not UTF-8. So frames of
deliveries, returns and confirms on channels that have a sink are taken out of the byte stream here and handed
to the sink; every other frame goes on to the library untouched. The seam is its public `transport_factory`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from saga_worker.broker.fields import encode_short

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
CONNECTION_CLOSE: Final = 10 << 16 | 50
CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_CLOSE: Final = 20 << 16 | 40
BASIC_CANCEL: Final = 60 << 16 | 30
BASIC_PUBLISH: Final = 60 << 16 | 40
BASIC_RETURN: Final = 60 << 16 | 50
BASIC_DELIVER: Final = 60 << 16 | 60
BASIC_ACK: Final = 60 << 16 | 80
BASIC_NACK: Final = 60 << 16 | 120
_CONTENT_METHODS: Final = frozenset({BASIC_DELIVER, BASIC_RETURN})
_CONFIRM_METHODS: Final = frozenset({BASIC_ACK, BASIC_NACK})

_FRAME = struct.Struct(">BHI")
_INDEX = struct.Struct(">I")
_CONFIRM = struct.Struct(">QB")
_ACK = struct.Struct(">BHIIQBB")
_BODY_HEAD = struct.Struct(">HHQ")
_END: Final = b"\xce"
_HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_CHUNK: Final = 256 * 1024
_KEEP_ALIVE_SECONDS: Final = 2.0


class FrameSink(Protocol):
    """Takes the frames of one channel. Called from the reader: quick, and never raises."""

    def on_content(self, method: int, arguments: bytes, header: bytes, body: bytes) -> None: ...

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None: ...

    def on_channel_closed(self, code: int, text: str) -> None: ...

    def on_consumer_cancelled(self) -> None: ...


@dataclass(slots=True)
class _Content:
    """A delivery or return whose header and body are still to come."""

    method: int
    arguments: bytes
    header: bytes = b""
    missing: int = 0
    pieces: list[bytes] = field(default_factory=list)


class Tap(TransportFactory):
    """The byte stream of one connection."""

    def __init__(self) -> None:
        self.sinks: dict[int, FrameSink] = {}
        self.closed_by_broker: tuple[int, str] | None = None
        self.is_blocked = False
        self.on_unblocked: Callable[[], None] | None = None
        self._open_gate = asyncio.Event()
        self._open_gate.set()
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Called by the client library once per connection."""
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self._writer = writer
        # The library calls at_eof, readexactly and read of its reader, nothing else.
        return cast(asyncio.StreamReader, _TappedReader(reader, self)), writer

    @property
    def is_connected(self) -> bool:
        return self._writer is not None and not self._writer.is_closing()

    def write(self, frames: bytes) -> None:
        """Put whole frames on the wire; a connection that is gone swallows them."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames)

    def stop_reading(self) -> None:
        """Leave further bytes in the socket, so that the broker has to wait."""
        self._open_gate.clear()

    def go_on_reading(self) -> None:
        self._open_gate.set()

    def abort(self) -> None:
        """Drop the socket without a farewell."""
        self._open_gate.set()
        if self._writer is not None:
            self._writer.transport.abort()

    async def wait_for_gate(self, seconds: float) -> bool:
        """Whether reading may go on, after at most `seconds`."""
        if self._open_gate.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._open_gate.wait()
        except TimeoutError:
            return False
        return True

    def note_connection_frame(self, payload: bytes) -> None:
        """Remember why the broker closes, and whether it takes publishes."""
        index = _INDEX.unpack_from(payload)[0]
        if index == CONNECTION_CLOSE:
            self.closed_by_broker = _close_reason(payload)
        elif index == CONNECTION_BLOCKED:
            self.is_blocked = True
        elif index == CONNECTION_UNBLOCKED:
            self.is_blocked = False
            if self.on_unblocked is not None:
                self.on_unblocked()


class _TappedReader:
    """Hands the library one frame at a time, and to the sinks what is theirs."""

    def __init__(self, source: asyncio.StreamReader, tap: Tap) -> None:
        self._source = source
        self._tap = tap
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._at = 0
        self._frame = b""
        self._frame_at = 0
        self._contents: dict[int, _Content] = {}
        self._passed_at = self._loop.time()

    def at_eof(self) -> bool:
        return self._source.at_eof() and self._frame_at == len(self._frame) and self._at == len(self._buffer)

    async def readexactly(self, count: int) -> bytes:
        if self._frame_at == len(self._frame):
            self._frame, self._frame_at = await self._next_frame(), 0
        piece = self._frame[self._frame_at : self._frame_at + count]
        self._frame_at += count
        return piece

    async def read(self, count: int = -1) -> bytes:
        piece, self._frame = self._frame[self._frame_at :], b""
        self._frame_at = 0
        return piece

    async def _next_frame(self) -> bytes:
        while True:
            frame = self._take_frame()
            if frame is None and self._library_starves():
                # The broker sends no heartbeats while it delivers: without one the library believes it is gone.
                frame = _HEARTBEAT_FRAME
            if frame is not None:
                self._passed_at = self._loop.time()
                return frame
            if await self._tap.wait_for_gate(_KEEP_ALIVE_SECONDS):
                await self._refill()

    def _library_starves(self) -> bool:
        return bool(self._tap.sinks) and self._loop.time() - self._passed_at > _KEEP_ALIVE_SECONDS

    async def _refill(self) -> None:
        data = await self._source.read(_CHUNK)
        if not data:
            raise asyncio.IncompleteReadError(b"", 1)
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def _take_frame(self) -> bytes | None:
        """The next whole frame that is not a sink's, or None when more bytes are needed."""
        buffer, end = self._buffer, len(self._buffer)
        while end - self._at >= 8:
            if buffer[self._at] not in (METHOD, HEADER, BODY, HEARTBEAT):
                frame, self._at = buffer[self._at :], end  # no AMQP 0-9-1: let the library say so
                return frame
            kind, channel, size = _FRAME.unpack_from(buffer, self._at)
            stop = self._at + 8 + size
            if stop > end:
                return None
            start, self._at = self._at, stop
            if not self._absorb(kind, channel, buffer[start + 7 : stop - 1]):
                return buffer[start:stop]
        return None

    def _absorb(self, kind: int, channel: int, payload: bytes) -> bool:
        sink = self._tap.sinks.get(channel)
        if sink is None:
            if channel == 0 and kind == METHOD:
                self._tap.note_connection_frame(payload)
            return False
        if kind == METHOD:
            return self._absorb_method(sink, channel, payload)
        content = self._contents.get(channel)
        if content is None:
            return False
        if kind == HEADER:
            content.header = payload
            content.missing = _BODY_HEAD.unpack_from(payload)[2]
        else:
            content.pieces.append(payload)
            content.missing -= len(payload)
        if content.missing <= 0:
            del self._contents[channel]
            body = content.pieces[0] if len(content.pieces) == 1 else b"".join(content.pieces)
            sink.on_content(content.method, content.arguments, content.header, body)
        return True

    def _absorb_method(self, sink: FrameSink, channel: int, payload: bytes) -> bool:
        index = _INDEX.unpack_from(payload)[0]
        if index in _CONTENT_METHODS:
            self._contents[channel] = _Content(index, payload[4:])
            return True
        if index in _CONFIRM_METHODS:
            tag, bits = _CONFIRM.unpack_from(payload, 4)
            sink.on_confirm(tag, bool(bits & 1), index == BASIC_ACK)
            return True
        if index == CHANNEL_CLOSE:
            del self._tap.sinks[channel]  # the number may be given to another channel
            self._contents.pop(channel, None)
            sink.on_channel_closed(*_close_reason(payload))
        elif index == BASIC_CANCEL:
            sink.on_consumer_cancelled()
        return False


def _close_reason(payload: bytes) -> tuple[int, str]:
    code = int.from_bytes(payload[4:6], "big")
    return code, payload[7 : 7 + payload[6]].decode("utf-8", "replace")


def ack_frame(channel: int, tag: int) -> bytes:
    """basic.ack of everything up to `tag`."""
    return _ACK.pack(METHOD, channel, 13, BASIC_ACK, tag, 1, 0xCE)


def publish_method(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> tuple[bytes, bytes]:
    """The frame of basic.publish in two pieces; raises `Unsendable`."""
    arguments = _publish_arguments(exchange, routing_key, mandatory)
    return _FRAME.pack(METHOD, channel, len(arguments) - 1), arguments


@lru_cache(maxsize=4096)
def _publish_arguments(exchange: str, routing_key: str, mandatory: bool) -> bytes:
    names = encode_short(exchange, "exchange") + encode_short(routing_key, "routing_key")
    return _INDEX.pack(BASIC_PUBLISH) + b"\x00\x00" + names + (b"\x01" if mandatory else b"\x00") + _END


def content_frames(channel: int, properties: bytes, body: bytes, *, frame_max: int) -> list[bytes]:
    """The header frame and as many body frames as the negotiated frame size asks for."""
    size = len(body)
    frames = [_FRAME.pack(HEADER, channel, 12 + len(properties)), _BODY_HEAD.pack(60, 0, size), properties, _END]
    room = frame_max - 8
    for at in range(0, size, room):
        piece = body if size <= room else body[at : at + room]
        frames += (_FRAME.pack(BODY, channel, len(piece)), piece, _END)
    return frames
