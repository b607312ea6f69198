"""A small AMQP client that costs a few microseconds per message: load generator and participant must not be the limit.

Takes an `amqp://` URL; one connection, one channel, confirms on, no heartbeats, no TLS. Frames are packed with struct
and leave in one write per batch; deliveries are handed over per read from the socket; confirms are counted by tag.
Whatever goes wrong ends the client: every waiting call raises `AmqpFailure`. A benchmark has no use for reconnecting.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

METHOD, HEADER, BODY, FRAME_END = 1, 2, 3, b"\xce"
BASIC = 60
WRITTEN_TOGETHER = 500  # messages in one write
IN_FLIGHT = 5000  # unconfirmed messages at most

_FRAME = struct.Struct(">BHI")
_METHOD = struct.Struct(">HH")
_CONTENT = struct.Struct(">HHQ")
_TAG = struct.Struct(">Q?")


class AmqpFailure(Exception):
    """The connection is of no use any more; the text says what the broker said."""


class Message(NamedTuple):
    """What is published: `properties` as `pack_properties` makes them."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


class Delivery(NamedTuple):
    tag: int
    properties: bytes
    body: bytes


def short(text: str) -> bytes:
    raw = text.encode()
    return bytes((len(raw),)) + raw


def _long(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _table(arguments: dict[str, str | int | bool]) -> bytes:
    packed = b""
    for name, value in arguments.items():
        match value:
            case bool():
                packed += short(name) + b"t" + bytes((value,))
            case int():
                packed += short(name) + b"l" + struct.pack(">q", value)
            case str():
                packed += short(name) + b"S" + _long(value.encode())
    return _long(packed)


def pack_properties(
    *, message_id: str, type: str, correlation_id: str = "", reply_to: str = "", app_id: str = "bench"
) -> bytes:
    """Properties of a persistent JSON message, in the order of the protocol: flags first, then what is there."""
    flags, packed = 0x8000 | 0x1000, [short("application/json"), b"\x02"]
    for bit, value in ((10, correlation_id), (9, reply_to), (7, message_id), (5, type), (3, app_id)):
        if value:
            flags |= 1 << bit
            packed.append(short(value))
    return struct.pack(">H", flags) + b"".join(packed)


_NAMES = (
    (15, "content_type"), (14, "content_encoding"), (13, "headers"), (12, "delivery_mode"), (11, "priority"),
    (10, "correlation_id"), (9, "reply_to"), (8, "expiration"), (7, "message_id"), (6, "timestamp"), (5, "type"),
)  # fmt: skip


def read_properties(raw: bytes) -> dict[str, str]:
    """The texts among the properties up to `type`."""
    (flags,) = struct.unpack_from(">H", raw)
    found, position = {}, 2
    for bit, name in _NAMES:
        if not flags & (1 << bit):
            continue
        if name == "headers":
            position += 4 + struct.unpack_from(">I", raw, position)[0]
        elif name in ("delivery_mode", "priority"):
            position += 1
        elif name == "timestamp":
            position += 8
        else:
            end = position + 1 + raw[position]
            found[name] = raw[position + 1 : end].decode()
            position = end
    return found


class Amqp(asyncio.Protocol):
    """One channel. `on_deliveries` gets what one read brought; `on_confirmed` the tag up to which all are confirmed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._user, self._password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        self._vhost = unquote(parts.path[1:]) or "/"
        self.on_deliveries: Callable[[list[Delivery]], None] = lambda _: None
        self.on_confirmed: Callable[[int], None] = lambda _: None
        self.confirmed = 0  # every tag up to this one is confirmed
        self.published = 0
        self.server_version = ""
        self.failure: AmqpFailure | None = None
        self.closed = asyncio.Event()
        self._early: set[int] = set()  # confirmed before an older one
        self._methods: dict[tuple[str, str], bytes] = {}
        self._rest = b""
        self._arriving: tuple[int, int, bytes, list[bytes]] | None = None
        self._tag = 0
        self._deliveries: list[Delivery] = []
        self._answer: asyncio.Future[bytes] | None = None
        self._progress: asyncio.Future[None] | None = None
        self._wanted = 0
        self._max_frame = 131_072

    @classmethod
    async def connect(cls, url: str) -> Amqp:
        """A client whose channel is open and confirms."""
        parts = urlsplit(url)
        if parts.scheme != "amqp":
            raise AmqpFailure("The benchmarks' client has no TLS; give an amqp:// URL.")
        loop = asyncio.get_running_loop()
        _, self = await loop.create_connection(lambda: cls(url), parts.hostname or "localhost", parts.port or 5672)
        await self._wait_for_answer()  # to the handshake, which `_on_method` goes through
        await self._call(20, 10, short(""))
        await self._call(85, 10, b"\0")
        return self

    async def close(self) -> None:
        """Close the connection; what was not acknowledged goes back to its queue."""
        if self.failure is None:
            await self._call(10, 50, struct.pack(">H", 200) + short("bye") + _METHOD.pack(0, 0), channel=0)
            self._transport.close()
        await self.closed.wait()

    # -- calls: one at a time ---------------------------------------------------------------------------------------

    async def declare_exchange(self, name: str, kind: str = "topic") -> None:
        await self._call(40, 10, b"\0\0" + short(name) + short(kind) + b"\x02" + _table({}))

    async def declare_queue(
        self,
        name: str,
        arguments: dict[str, str | int | bool] | None = None,
        *,
        exclusive: bool = False,
    ) -> None:
        """Durable; an exclusive one is transient and goes with the connection."""
        bits = (not exclusive) << 1 | exclusive << 2 | exclusive << 3
        await self._call(50, 10, b"\0\0" + short(name) + bytes((bits,)) + _table(arguments or {}))

    async def depth(self, queue: str) -> tuple[int, int]:
        """Messages that are ready in it, and its consumers."""
        answer = await self._call(50, 10, b"\0\0" + short(queue) + b"\x01" + _table({}))
        ready, consumers = struct.unpack_from(">II", answer, 1 + answer[0])
        return ready, consumers

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        await self._call(50, 20, b"\0\0" + short(queue) + short(exchange) + short(routing_key) + b"\0" + _table({}))

    async def delete_queue(self, name: str) -> None:
        """Also when there is none."""
        await self._call(50, 40, b"\0\0" + short(name) + b"\0")

    async def delete_exchange(self, name: str) -> None:
        """Also when there is none."""
        await self._call(40, 20, b"\0\0" + short(name) + b"\0")

    async def consume(self, queue: str, *, prefetch: int = 1000, no_ack: bool = False) -> None:
        await self._call(60, 10, struct.pack(">IH?", 0, prefetch, False))
        await self._call(60, 20, b"\0\0" + short(queue) + short("") + bytes((no_ack << 1,)) + _table({}))

    # -- the hot path -----------------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> int:
        """Write all in one go; returns the tag of the last. All are mandatory: one that finds no queue is a failure."""
        if self.failure is not None:
            raise self.failure
        parts = []
        for exchange, routing_key, properties, body in messages:
            method = self._methods.get((exchange, routing_key))
            if method is None:
                arguments = b"\0\0" + short(exchange) + short(routing_key) + b"\x01"
                method = self._methods[exchange, routing_key] = _method_frame(BASIC, 40, arguments)
            parts += [
                method, _FRAME.pack(HEADER, 1, 12 + len(properties)), _CONTENT.pack(BASIC, 0, len(body)), properties,
                FRAME_END, _FRAME.pack(BODY, 1, len(body)), body, FRAME_END,
            ]  # fmt: skip
        self._transport.write(b"".join(parts))
        self.published += len(messages)
        return self.published

    async def publish_all(self, messages: Sequence[Message]) -> None:
        """Publish in batches, a bounded number in flight; returns when all are confirmed."""
        for first in range(0, len(messages), WRITTEN_TOGETHER):
            tag = self.publish(messages[first : first + WRITTEN_TOGETHER])
            await self.until_confirmed(tag - IN_FLIGHT)
        await self.until_confirmed(self.published)

    async def until_confirmed(self, tag: int) -> None:
        while self.confirmed < tag:
            if self.failure is not None:
                raise self.failure
            self._wanted = tag
            self._progress = asyncio.get_running_loop().create_future()
            await self._progress

    def ack(self, tag: int) -> None:
        """Acknowledge every delivery up to `tag`."""
        self._transport.write(_method_frame(BASIC, 80, _TAG.pack(tag, True)))

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._answer = asyncio.get_running_loop().create_future()
        transport.write(b"AMQP\x00\x00\x09\x01")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost ({exc or 'closed'})")
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        position, length = 0, len(buffer)
        while length - position >= 8:
            kind, _, size = _FRAME.unpack_from(buffer, position)
            start = position + 7
            end = start + size
            if end >= length:
                break
            if kind == METHOD:
                self._on_method(_METHOD.unpack_from(buffer, start), buffer[start + 4 : end])
            elif kind == HEADER:
                size_of_body = _CONTENT.unpack_from(buffer, start)[2]
                self._arriving = (self._tag, size_of_body, buffer[start + 12 : end], [])
                self._complete()
            elif kind == BODY and self._arriving is not None:
                self._arriving[3].append(buffer[start:end])
                self._complete()
            position = end + 1
        self._rest = buffer[position:]
        if self._deliveries:
            arrived, self._deliveries = self._deliveries, []
            self.on_deliveries(arrived)

    def _complete(self) -> None:
        assert self._arriving is not None
        tag, size, properties, parts = self._arriving
        if sum(map(len, parts)) == size:
            self._arriving = None
            self._deliveries.append(Delivery(tag, properties, b"".join(parts)))

    def _on_method(self, method: tuple[Any, ...], arguments: bytes) -> None:
        match method:
            case (60, 60):
                self._tag = struct.unpack_from(">Q", arguments, 1 + arguments[0])[0]
            case (60, 80):
                self._confirm(*_TAG.unpack_from(arguments))
            case (10, 10):
                self._start(arguments)
            case (10, 30):
                channels, self._max_frame, _ = struct.unpack(">HIH", arguments)
                self._send(10, 31, struct.pack(">HIH", channels, self._max_frame, 0), channel=0)
                self._send(10, 40, short(self._vhost) + short("") + b"\0", channel=0)
            case (60, 120):
                self._fail("the broker refused a message (nack)")
            case (60, 30):
                self._fail("the broker cancelled the consumer")
            case (60, 50):
                self._fail("a message found no queue and came back")
            case (10, 50) | (20, 40):
                code, size = struct.unpack_from(">HB", arguments)
                self._fail(f"closed by the broker: {code} {arguments[3 : 3 + size].decode()}")
            case _ if self._answer is not None and not self._answer.done():
                self._answer.set_result(arguments)
            case _:
                pass

    def _start(self, arguments: bytes) -> None:
        at = arguments.find(b"\x07versionS")
        if at >= 0:
            (size,) = struct.unpack_from(">I", arguments, at + 9)
            self.server_version = arguments[at + 13 : at + 13 + size].decode()
        secret = b"\0" + self._user.encode() + b"\0" + self._password.encode()
        self._send(10, 11, _table({}) + short("PLAIN") + _long(secret) + short("en_US"), channel=0)

    def _confirm(self, tag: int, multiple: bool) -> None:
        before = self.confirmed
        if multiple:
            self._early.difference_update(range(self.confirmed + 1, tag + 1))
            self.confirmed = max(self.confirmed, tag)
        else:
            self._early.add(tag)
        while self.confirmed + 1 in self._early:
            self.confirmed += 1
            self._early.discard(self.confirmed)
        if self.confirmed == before:
            return
        self.on_confirmed(self.confirmed)
        if self._progress is not None and not self._progress.done() and self.confirmed >= self._wanted:
            self._progress.set_result(None)

    # -- plumbing ---------------------------------------------------------------------------------------------------

    async def _call(self, class_: int, method: int, arguments: bytes, *, channel: int = 1) -> bytes:
        if self.failure is not None:
            raise self.failure
        self._answer = asyncio.get_running_loop().create_future()
        self._send(class_, method, arguments, channel=channel)
        return await self._wait_for_answer()

    async def _wait_for_answer(self) -> bytes:
        assert self._answer is not None
        async with asyncio.timeout(30):
            return await self._answer

    def _send(self, class_: int, method: int, arguments: bytes, *, channel: int = 1) -> None:
        self._transport.write(_method_frame(class_, method, arguments, channel=channel))

    def _fail(self, why: str) -> None:
        if self.failure is None:
            self.failure = AmqpFailure(f"The benchmark's connection to the broker has ended: {why}.")
        for waiting in (self._answer, self._progress):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self.failure)
        self._transport.close()


def _method_frame(class_: int, method: int, arguments: bytes, *, channel: int = 1) -> bytes:
    return _FRAME.pack(METHOD, channel, 4 + len(arguments)) + _METHOD.pack(class_, method) + arguments + FRAME_END
