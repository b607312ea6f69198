"""Bytes of the five methods that carry messages; everything else is left to pamqp.

Takes decoded values, returns whole frames. These run once per message, and pamqp's field-by-field encoding costs
more than all the rest of the broker together. Used by `connection.py`, `publishing.py` and `deliveries.py`.
"""

import struct
from collections.abc import Iterator

from pamqp import base, commands, constants
from pamqp import frame as pamqp_frame

from .errors import ConnectionFault, ReplyCode
from .messages import Message, encode_shortstr

METHOD, HEADER, BODY, HEARTBEAT = (
    constants.FRAME_METHOD,
    constants.FRAME_HEADER,
    constants.FRAME_BODY,
    constants.FRAME_HEARTBEAT,
)
FRAME_OVERHEAD = constants.FRAME_HEADER_SIZE + 1
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
BASIC = 60
BASIC_PUBLISH = 0x003C0028
BASIC_ACK = 0x003C0050

_END = constants.FRAME_END_CHAR
_CHANNEL_METHODS = frozenset(struct.pack(">HH", 20, n) for n in (10, 40, 41))
_CONNECTION_CLOSE_OK = struct.pack(">HH", 10, 51)
_frame_head = struct.Struct(">BHI")
_content_head = struct.Struct(">BHIHHQ")
_tag_and_flag = struct.Struct(">QB")
_DELIVER, _GET_OK, _RETURN, _ACK, _NACK = (struct.pack(">I", 0x003C0000 + n) for n in (60, 71, 50, 80, 120))


def split_frames(data: bytes, frame_max: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Whole frames in `data` as (type, channel, payload, offset of what follows)."""
    at, size = 0, len(data)
    while at + FRAME_OVERHEAD <= size:
        kind, channel, length = _frame_head.unpack_from(data, at)
        if length > frame_max - FRAME_OVERHEAD:
            limit = frame_max - FRAME_OVERHEAD
            text = f"type {kind}, all octets = <<>>: {{frame_too_large,{length},{limit}}}"
            raise ConnectionFault(ReplyCode.FRAME_ERROR, text)
        start, end = at + 7, at + 7 + length
        if end >= size:
            return
        if data[end] != constants.FRAME_END:
            raise ConnectionFault(ReplyCode.FRAME_ERROR, f"type {kind}: the frame does not end with its end octet")
        at = end + 1
        yield kind, channel, data[start:end], at


def method(channel: int, frame: base.Frame) -> bytes:
    return pamqp_frame.marshal(frame, channel)


def read_method(payload: bytes) -> base.Frame:
    """Any other method, decoded by pamqp."""
    index = int.from_bytes(payload[:4], "big")
    if index not in commands.INDEX_MAPPING:
        raise ConnectionFault(ReplyCode.COMMAND_INVALID, f"unknown method {method_id(payload)}")
    frame: base.Frame = commands.INDEX_MAPPING[index]()
    try:
        frame.unmarshal(payload[4:])
    except Exception as error:  # pamqp's decoders raise whatever they stumble on
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, f"{frame.name} cannot be read: {error}") from error
    return frame


def method_id(payload: bytes) -> tuple[int, int]:
    """Class and method number, as close frames quote them."""
    return int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")


def is_channel_method(payload: bytes) -> bool:
    """Open, close and close-ok: the connection's business, not the channel's."""
    return payload[:4] in _CHANNEL_METHODS


def is_close_ok(payload: bytes) -> bool:
    return payload[:4] == _CONNECTION_CLOSE_OK


def read_publish(payload: bytes) -> tuple[str, str, bool, bool]:
    """Exchange, routing key, mandatory, immediate."""
    try:
        middle = 7 + payload[6]
        end = middle + 1 + payload[middle]
        bits = payload[end]
    except IndexError as error:
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "Basic.Publish is cut short") from error
    exchange = payload[7:middle].decode(errors="surrogateescape")
    routing_key = payload[middle + 1 : end].decode(errors="surrogateescape")
    return exchange, routing_key, bool(bits & 1), bool(bits & 2)


def read_ack(payload: bytes) -> tuple[int, bool]:
    if len(payload) < 4 + _tag_and_flag.size:
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "Basic.Ack is cut short")
    tag, bits = _tag_and_flag.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def deliver_prefix(consumer_tag: str) -> bytes:
    return _DELIVER + encode_shortstr(consumer_tag)


def deliver(channel: int, prefix: bytes, tag: int, redelivered: bool, address: bytes) -> bytes:
    return _method(channel, prefix + _tag_and_flag.pack(tag, redelivered) + address)


def get_ok(channel: int, tag: int, redelivered: bool, address: bytes, remaining: int) -> bytes:
    return _method(channel, _GET_OK + _tag_and_flag.pack(tag, redelivered) + address + struct.pack(">I", remaining))


def returned(channel: int, message: Message) -> bytes:
    code = struct.pack(">H", ReplyCode.NO_ROUTE)
    return _method(channel, _RETURN + code + encode_shortstr(ReplyCode.NO_ROUTE.name) + message.address)


def confirm(channel: int, tag: int, multiple: bool) -> bytes:
    return _method(channel, _ACK + _tag_and_flag.pack(tag, multiple))


def refuse(channel: int, tag: int) -> bytes:
    return _method(channel, _NACK + _tag_and_flag.pack(tag, 0))


def content(channel: int, raw_properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Header and body frames of one message."""
    size = len(body)
    head = _content_head.pack(HEADER, channel, 12 + len(raw_properties), BASIC, 0, size) + raw_properties + _END
    room = frame_max - FRAME_OVERHEAD
    if size <= room:
        return head + _frame(BODY, channel, body) if size else head
    return head + b"".join(_frame(BODY, channel, body[at : at + room]) for at in range(0, size, room))


def _method(channel: int, payload: bytes) -> bytes:
    return _frame_head.pack(METHOD, channel, len(payload)) + payload + _END


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _frame_head.pack(kind, channel, len(payload)) + payload + _END
