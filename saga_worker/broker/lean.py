"""The lean end of a channel: frames of our own, in and out through the tap.

Takes deliveries, returns and confirms before the client library sees them, and writes a batch of publishes as one
buffer: no task, future or object of the library per message. Hands up to `deliveries` and `confirms`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    decode_delivery,
    publish_method,
)

if TYPE_CHECKING:
    from saga_worker.broker.confirms import Entry
    from saga_worker.broker.session import Session


class FrameSink(Protocol):
    """Takes the hot frames of one channel."""

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None: ...

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None: ...

    def on_channel_closed(self, code: int, text: str) -> None: ...

    def on_consumer_cancelled(self) -> None: ...


class HotFrames:
    """The filter that keeps deliveries, returns and confirms from the library, and hands them to a sink."""

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        # A delivery or return whose header and body are still to come; no method: none is.
        self._method = b""
        self._header = b""
        self._missing = 0
        self._pieces: list[bytes] = []

    def pass_on(self, kind: int, payload: bytes) -> bytes | None:
        if kind == METHOD:
            return self._pass_method_on(payload)
        if not self._method:
            return None
        if kind == HEADER:
            self._header = payload
            self._missing = BODY_HEAD.unpack_from(payload)[2]
            if not self._missing:
                self._complete(b"")
        elif len(payload) >= self._missing and not self._pieces:
            self._complete(payload)
        else:
            self._pieces.append(payload)
            self._missing -= len(payload)
            if self._missing <= 0:
                self._complete(b"".join(self._pieces))
                self._pieces = []
        return b""

    def _complete(self, body: bytes) -> None:
        method, self._method = self._method, b""
        self._sink.on_content(method, self._header, body)

    def _pass_method_on(self, payload: bytes) -> bytes | None:
        index = INDEX.unpack_from(payload)[0]
        if index in CONTENT_METHODS:
            self._method = payload
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

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        self._user.delivered(decode_delivery(method, header, body, self._user.source_of))

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        """Nothing is published on this channel."""

    def on_channel_closed(self, code: int, text: str) -> None:
        self._user.channel_closed(code, text)

    def on_consumer_cancelled(self) -> None:
        self._user.consumer_cancelled()


class LeanOutbound:
    """The sink of a publishing channel."""

    def __init__(self, session: Session, channel: Channel, user: OutboundUser) -> None:
        self.channel = channel
        self._session = session
        self._frame_max = session.frame_max
        self._user = user

    def publish(self, batch: Sequence[Entry]) -> None:
        number = self.channel.number
        frames: list[bytes] = []
        for entry in batch:
            message = entry.message
            frames += publish_method(number, message.exchange, message.routing_key, mandatory=message.mandatory)
            frames += content_frames(number, entry.properties, message.body, frame_max=self._frame_max)
        self._session.tap.write(b"".join(frames))

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        if INDEX.unpack_from(method)[0] == BASIC_RETURN:
            text, _ = short_text(method, 6)
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
