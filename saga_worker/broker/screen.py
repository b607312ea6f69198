"""What stands between a sender's properties and a client library that cannot read them all.

pamqp gives up the connection over a property that is not UTF-8, a header of unknown type or a time out of range, and
reads a few others as something else. So the screen reads each delivery first; one that the library would not read
alike goes to it without those properties, and `public` takes them from here. A filter of the tap: where the library
uses no tap, the screen sees nothing, and such a message costs the connection.
"""

from __future__ import annotations

from typing import Any, Final

import pamqp.frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from saga_worker.broker.fields import decode_properties, encode_properties, short_text
from saga_worker.broker.wire import BASIC_DELIVER, CONTENT_METHODS, HEADER, INDEX, METHOD, header_frame, method_frame
from saga_worker.envelope.delivery import FieldValue, Properties

_FLAGS_AT: Final = 12  # in the payload of a content header, behind class, weight and size
_NO_NAMES: Final = b"\x00\x00"  # exchange and routing key, both empty


class Screen:
    """The filter of one channel. `aside`: by delivery tag, method and header that the library has not seen."""

    def __init__(self, channel: int) -> None:
        self.aside: dict[int, tuple[bytes, bytes]] = {}
        self._channel = channel
        self._method = b""  # of the content whose header comes next

    def pass_on(self, kind: int, payload: bytes) -> bytes | None:
        if kind == METHOD and INDEX.unpack_from(payload)[0] in CONTENT_METHODS:
            self._method = payload
            return b""
        if kind != HEADER or not self._method:
            return None
        method, self._method = self._method, b""
        if not _is_read_alike(method_frame(self._channel, method), header_frame(self._channel, payload)):
            method, payload = self._without_properties(method, payload)
        return method_frame(self._channel, method) + header_frame(self._channel, payload)

    def _without_properties(self, method: bytes, header: bytes) -> tuple[bytes, bytes]:
        size = header[:_FLAGS_AT]
        if INDEX.unpack_from(method)[0] != BASIC_DELIVER:  # a return: the library finds its message by the id
            return method, size + _id_alone(header)
        _, at = short_text(method, 4)
        tag = int.from_bytes(method[at : at + 8], "big")
        self.aside[tag] = method, header
        return method[: at + 9] + _NO_NAMES, size + b"\x00\x00"


def _id_alone(header: bytes) -> bytes:
    return encode_properties(Properties(message_id=decode_properties(header).message_id))


def _is_read_alike(method: bytes, header: bytes) -> bool:
    try:
        pamqp.frame.unmarshal(method)
        content = pamqp.frame.unmarshal(header)[2]
        assert isinstance(content, ContentHeader)
        return from_library(content.properties) == decode_properties(header[7:-1])
    except Exception:  # whatever it raises, some of it no error of its own, would end the library's reader
        return False


def from_library(properties: Basic.Properties) -> Properties:
    """Our properties from those of the library."""
    timestamp = properties.timestamp
    return Properties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers={name: _value(value) for name, value in (properties.headers or {}).items()},
        delivery_mode=properties.delivery_mode,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=properties.expiration,
        message_id=properties.message_id,
        timestamp=None if timestamp is None else int(timestamp.timestamp()),
        type=properties.message_type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


def _value(value: Any) -> FieldValue:
    match value:
        case bytearray():
            return bytes(value)
        case bytes():  # text that is not UTF-8
            return value.decode("utf-8", "surrogateescape")
        case list():
            return [_value(item) for item in value]
        case dict():
            return {name: _value(item) for name, item in value.items()}
        case _:
            return value  # type: ignore[no-any-return]  # what else AMQP has, both spell alike
