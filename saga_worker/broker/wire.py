"""Frames of AMQP 0-9-1 as bytes: the few kinds that this package reads or writes itself.

Takes and gives plain values; does no I/O and knows no channel's state. Used by `tap` and by both hot paths.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from saga_worker.broker.fields import decode_properties, encode_short, short_text
from saga_worker.envelope.delivery import Delivery, Source

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
CONNECTION_CLOSE: Final = 10 << 16 | 50
CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_CLOSE: Final = 20 << 16 | 40
CHANNEL_CLOSE_OK: Final = 20 << 16 | 41
BASIC_CANCEL: Final = 60 << 16 | 30
BASIC_PUBLISH: Final = 60 << 16 | 40
BASIC_RETURN: Final = 60 << 16 | 50
BASIC_DELIVER: Final = 60 << 16 | 60
BASIC_ACK: Final = 60 << 16 | 80
BASIC_NACK: Final = 60 << 16 | 120
CONTENT_METHODS: Final = frozenset({BASIC_DELIVER, BASIC_RETURN})
CONFIRM_METHODS: Final = frozenset({BASIC_ACK, BASIC_NACK})

FRAME: Final = struct.Struct(">BHI")  # kind, channel, size of the payload; an end octet follows that
INDEX: Final = struct.Struct(">I")  # of a method, first in its payload
CONFIRM: Final = struct.Struct(">QB")  # tag, multiple
BODY_HEAD: Final = struct.Struct(">HHQ")  # class, weight, size of the body
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_ACK = struct.Struct(">BHIIQBB")
_END: Final = b"\xce"


def close_reason(payload: bytes) -> tuple[int, str]:
    """Code and text of connection.close or channel.close."""
    code = int.from_bytes(payload[4:6], "big")
    return code, payload[7 : 7 + payload[6]].decode("utf-8", "replace")


def decode_delivery(method: bytes, header: bytes, body: bytes, source_of: Callable[[str], Source]) -> Delivery:
    """basic.deliver and its content; `source_of` knows the queue of a consumer tag."""
    consumer_tag, at = short_text(method, 4)
    delivery_tag = int.from_bytes(method[at : at + 8], "big")
    redelivered = bool(method[at + 8] & 1)
    exchange, at = short_text(method, at + 9)
    routing_key, _ = short_text(method, at)
    properties = decode_properties(header)
    return Delivery(body, properties, exchange, routing_key, redelivered, delivery_tag, source_of(consumer_tag))


def method_frame(channel: int, payload: bytes) -> bytes:
    return FRAME.pack(METHOD, channel, len(payload)) + payload + _END


def header_frame(channel: int, payload: bytes) -> bytes:
    return FRAME.pack(HEADER, channel, len(payload)) + payload + _END


def ack_frame(channel: int, tag: int) -> bytes:
    """basic.ack of everything up to `tag`."""
    return _ACK.pack(METHOD, channel, 13, BASIC_ACK, tag, 1, 0xCE)


def publish_method(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> tuple[bytes, bytes]:
    """The frame of basic.publish in two pieces; raises `Unsendable`."""
    arguments = _publish_arguments(exchange, routing_key, mandatory)
    return FRAME.pack(METHOD, channel, len(arguments) - 1), arguments


@lru_cache(maxsize=4096)
def _publish_arguments(exchange: str, routing_key: str, mandatory: bool) -> bytes:
    names = encode_short(exchange, ("exchange",)) + encode_short(routing_key, ("routing_key",))
    return INDEX.pack(BASIC_PUBLISH) + b"\x00\x00" + names + (b"\x01" if mandatory else b"\x00") + _END


def content_frames(channel: int, properties: bytes, body: bytes, *, frame_max: int) -> list[bytes]:
    """The header frame and as many body frames as the negotiated frame size asks for."""
    size = len(body)
    frames = [FRAME.pack(HEADER, channel, 12 + len(properties)), BODY_HEAD.pack(60, 0, size), properties, _END]
    room = frame_max - 8
    for at in range(0, size, room):
        piece = body if size <= room else body[at : at + room]
        frames += (FRAME.pack(BODY, channel, len(piece)), piece, _END)
    return frames
