"""The lean end of a channel: frames of our own, in and out through the tap.

Takes deliveries, returns and confirms before the client library sees them, and writes a batch of publishes as one
buffer: no task, future or object of the library per message. Hands up to `deliveries` and `confirms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from saga_worker.broker.fields import decode_properties, short_text
from saga_worker.broker.hot_path import HotPath, Inbound, InboundUser, Outbound, OutboundUser
from saga_worker.broker.wire import (
    BASIC_ACK,
    BASIC_CANCEL,
    BASIC_RETURN,
    BODY_HEAD,
    CHANNEL_CLOSE,
    CONFIRM,
    CONFIRM_METHODS,
    CONTENT_METHODS,
    HEADER,
    INDEX,
    METHOD,
    ack_frame,
    close_reason,
    content_frames,
    publish_method,
)
from saga_worker.envelope.delivery import Delivery

if TYPE_CHECKING:
    from saga_worker.broker.confirms import Entry
    from saga_worker.broker.connection import Session


class FrameSink(Protocol):
    """Takes the hot frames of one channel."""

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


class HotFrames:
    """The filter that keeps deliveries, returns and confirms from the library, and hands them to a sink."""

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        self._content: _Content | None = None

    def pass_on(self, kind: int, payload: bytes) -> bytes | None:
        if kind == METHOD:
            return self._method(payload)
        content = self._content
        if content is None:
            return None
        if kind == HEADER:
            content.header = payload
            content.missing = BODY_HEAD.unpack_from(payload)[2]
        else:
            content.pieces.append(payload)
            content.missing -= len(payload)
        if content.missing <= 0:
            self._content = None
            body = content.pieces[0] if len(content.pieces) == 1 else b"".join(content.pieces)
            self._sink.on_content(content.method, content.arguments, content.header, body)
        return b""

    def _method(self, payload: bytes) -> bytes | None:
        index = INDEX.unpack_from(payload)[0]
        if index in CONTENT_METHODS:
            self._content = _Content(index, payload[4:])
            return b""
        if index in CONFIRM_METHODS:
            tag, bits = CONFIRM.unpack_from(payload, 4)
            self._sink.on_confirm(tag, bool(bits & 1), index == BASIC_ACK)
            return b""
        if index == CHANNEL_CLOSE:
            self._sink.on_channel_closed(*close_reason(payload))
        elif index == BASIC_CANCEL:
            self._sink.on_consumer_cancelled()
        return None


class LeanInbound:
    """The sink of a consuming channel."""

    def __init__(self, session: Session, channel: Channel, user: InboundUser) -> None:
        self.channel = channel
        self._session = session
        self._user = user

    def ack_up_to(self, tag: int) -> None:
        self._session.tap.write(ack_frame(self.channel.number, tag))

    async def callback(self, message: DeliveredMessage) -> None:
        """The library's own; the tap takes every delivery before it."""
        self._user.channel_closed(0, "a delivery went past the tap; this release of the client library does not fit")

    def on_content(self, method: int, arguments: bytes, header: bytes, body: bytes) -> None:
        consumer_tag, at = short_text(arguments, 0)
        delivery_tag = int.from_bytes(arguments[at : at + 8], "big")
        redelivered = bool(arguments[at + 8] & 1)
        exchange, at = short_text(arguments, at + 9)
        routing_key, _ = short_text(arguments, at)
        properties = decode_properties(header)
        source = self._user.source_of(consumer_tag)
        self._user.delivered(Delivery(body, properties, exchange, routing_key, redelivered, delivery_tag, source))

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        """Nothing is published on this channel."""

    def on_channel_closed(self, code: int, text: str) -> None:
        self._user.channel_closed(code, text)

    def on_consumer_cancelled(self) -> None:
        self._user.consumer_cancelled()


class LeanOutbound:
    """The sink of a publishing channel."""

    def __init__(self, session: Session, channel: Channel, user: OutboundUser) -> None:
        self._session = session
        self._number = channel.number
        self._frame_max = session.frame_max
        self._user = user

    def publish(self, batch: Sequence[Entry]) -> None:
        frames: list[bytes] = []
        for entry in batch:
            message = entry.message
            frames += publish_method(self._number, message.exchange, message.routing_key, mandatory=message.mandatory)
            frames += content_frames(self._number, entry.properties, message.body, frame_max=self._frame_max)
        self._session.tap.write(b"".join(frames))

    def on_content(self, method: int, arguments: bytes, header: bytes, body: bytes) -> None:
        if method == BASIC_RETURN:
            text, _ = short_text(arguments, 2)
            self._user.returned(decode_properties(header).message_id or "", text)

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        self._user.confirmed(tag, multiple, is_ack)

    def on_channel_closed(self, code: int, text: str) -> None:
        self._user.channel_closed(code, text)

    def on_consumer_cancelled(self) -> None:
        """Nothing is consumed on this channel."""


async def _inbound(session: Session, user: InboundUser) -> Inbound:
    channel = await session.underlay_channel()
    inbound = LeanInbound(session, channel, user)
    session.tap.filters[channel.number] = HotFrames(inbound)
    return inbound


async def _outbound(session: Session, user: OutboundUser) -> Outbound:
    channel = await session.underlay_channel()
    outbound = LeanOutbound(session, channel, user)
    session.tap.filters[channel.number] = HotFrames(outbound)
    return outbound


LEAN: Final = HotPath("lean", _inbound, _outbound)
