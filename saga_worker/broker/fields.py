"""AMQP 0-9-1 binary properties to `Properties` and back.

Takes bytes from the wire and gives them back exactly; never raises on what a sender may have put there (the
client library drops the whole connection over a property that is not UTF-8), and refuses with a sentence what
the broker would refuse by closing the connection. Used by `deliveries` and `publisher`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from saga_worker.envelope.delivery import FieldValue, Properties

MAX_HEADER_BYTES: Final = 100_000  # well under the 131,072 of a frame, which a header may not exceed
MAX_DEPTH: Final = 32
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z

Path: TypeAlias = tuple[object, ...]  # the name of a property, then keys and indexes within it

_LENGTHS: Final = tuple(bytes((length,)) for length in range(256))
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

# Bit, name, kind in the order in which the values follow the flags.
_LAYOUT: Final = (
    (0x8000, "content_type", "text"),
    (0x4000, "content_encoding", "text"),
    (0x2000, "headers", "table"),
    (0x1000, "delivery_mode", "octet"),
    (0x0800, "priority", "octet"),
    (0x0400, "correlation_id", "text"),
    (0x0200, "reply_to", "text"),
    (0x0100, "expiration", "text"),
    (0x0080, "message_id", "text"),
    (0x0040, "timestamp", "seconds"),
    (0x0020, "type", "text"),
    (0x0010, "user_id", "text"),
    (0x0008, "app_id", "text"),
    (0x0004, "", "text"),  # cluster_id: reserved, read over
)


class Unsendable(ValueError):
    """The message cannot be put on the wire; the text names the field."""


def short_text(data: bytes, at: int) -> tuple[str, int]:
    """The short string at `at` and the position behind it."""
    stop = at + 1 + data[at]
    return data[at + 1 : stop].decode("utf-8", "surrogateescape"), stop


def decode_properties(header: bytes) -> Properties:
    """Read the payload of a content header frame."""
    properties = Properties()
    flags = _U16.unpack_from(header, 12)[0]
    at = 14
    for bit, name, kind in _LAYOUT:
        if not flags & bit:
            continue
        if kind == "text":
            text, at = short_text(header, at)
            if name:
                setattr(properties, name, text)
        elif kind == "octet":
            setattr(properties, name, header[at])
            at += 1
        elif kind == "seconds":
            properties.timestamp = _U64.unpack_from(header, at)[0]
            at += 8
        else:
            stop = at + 4 + _U32.unpack_from(header, at)[0]
            _read_headers(properties, header[at:stop])
            at = stop
    return properties


def _read_headers(properties: Properties, table: bytes) -> None:
    try:
        properties.headers = _table(table, 0, 0)[0]
    except (struct.error, IndexError, KeyError, ValueError):
        properties.undecodable_headers = table


def _table(data: bytes, at: int, depth: int) -> tuple[dict[str, FieldValue], int]:
    stop = at + 4 + _U32.unpack_from(data, at)[0]
    if stop > len(data) or depth > MAX_DEPTH:
        raise ValueError("table too long or too deep")
    at += 4
    values: dict[str, FieldValue] = {}
    while at < stop:
        key, at = short_text(data, at)
        values[key], at = _value(data, at, depth + 1)
    return values, stop


def _array(data: bytes, at: int, depth: int) -> tuple[list[FieldValue], int]:
    stop = at + 4 + _U32.unpack_from(data, at)[0]
    if stop > len(data) or depth > MAX_DEPTH:
        raise ValueError("array too long or too deep")
    at += 4
    values: list[FieldValue] = []
    while at < stop:
        value, at = _value(data, at, depth + 1)
        values.append(value)
    return values, stop


def _value(data: bytes, at: int, depth: int) -> tuple[FieldValue, int]:
    kind = data[at]
    at += 1
    if kind == 0x53:  # S
        raw, at = _long_bytes(data, at)
        return raw.decode("utf-8", "surrogateescape"), at
    if kind == 0x46:  # F
        return _table(data, at, depth)
    if kind == 0x41:  # A
        return _array(data, at, depth)
    if kind == 0x78:  # x
        return _long_bytes(data, at)
    layout, convert = _FIXED[kind]
    return convert(layout.unpack_from(data, at)), at + layout.size


def _long_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    stop = at + 4 + _U32.unpack_from(data, at)[0]
    if stop > len(data):
        raise ValueError("string too long")
    return data[at + 4 : stop], stop


def _instant(parts: tuple[int, ...]) -> FieldValue:
    # A number that is no date (milliseconds, garbage) stays a number.
    return datetime.fromtimestamp(parts[0], UTC) if parts[0] <= _LAST_SECOND else parts[0]


def _first(parts: tuple[FieldValue, ...]) -> FieldValue:
    return parts[0]


_FIXED: Final[dict[int, tuple[struct.Struct, Callable[..., FieldValue]]]] = {
    ord("t"): (struct.Struct(">B"), lambda parts: bool(parts[0])),
    ord("b"): (struct.Struct(">b"), _first),
    ord("B"): (struct.Struct(">B"), _first),
    ord("s"): (struct.Struct(">h"), _first),
    ord("u"): (struct.Struct(">H"), _first),
    ord("I"): (struct.Struct(">i"), _first),
    ord("i"): (struct.Struct(">I"), _first),
    ord("l"): (struct.Struct(">q"), _first),
    ord("L"): (struct.Struct(">q"), _first),
    ord("f"): (struct.Struct(">f"), _first),
    ord("d"): (struct.Struct(">d"), _first),
    ord("D"): (struct.Struct(">Bi"), lambda parts: Decimal(parts[1]).scaleb(-parts[0])),
    ord("T"): (struct.Struct(">Q"), _instant),
    ord("V"): (struct.Struct(">"), lambda parts: None),
}


def encode_properties(properties: Properties) -> bytes:
    """Flags and values; raises `Unsendable` naming the field."""
    flags = 0
    pieces = [b""]
    for bit, name, encode in _ENCODERS:
        value = getattr(properties, name)
        if value is not None and value != {}:
            flags |= bit
            pieces.append(encode(value, (name,)))
    pieces[0] = _U16.pack(flags)
    encoded = b"".join(pieces)
    if len(encoded) > MAX_HEADER_BYTES:
        raise Unsendable(f"its properties and headers take {len(encoded)} bytes; the limit is {MAX_HEADER_BYTES}")
    return encoded


def encode_short(value: str, path: Path) -> bytes:
    """A short string; raises `Unsendable` when it is no text or over 255 bytes."""
    raw = value.encode() if type(value) is str and value.isascii() else _encode_text(value, path)
    if len(raw) > 255:
        raise Unsendable(f"{_named(path)} has {len(raw)} bytes; the limit is 255")
    return _LENGTHS[len(raw)] + raw


def _named(path: Path) -> str:
    """Where in the properties; put together only for a sentence."""
    return f"{path[0]}{''.join(f'[{key!r}]' for key in path[1:])}"


def _encode_text(value: object, path: Path) -> bytes:
    if not isinstance(value, str):
        raise Unsendable(f"{_named(path)} must be text, not {type(value).__name__}")
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Unsendable(f"{_named(path)} holds a lone surrogate, which UTF-8 cannot carry") from None


def _octet(value: object, path: Path) -> bytes:
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise Unsendable(f"{_named(path)} must be a number from 0 to 255")
    return bytes((value,))


def _seconds(value: object, path: Path) -> bytes:
    if not isinstance(value, int) or not 0 <= value <= _LAST_SECOND:
        raise Unsendable(f"{_named(path)} must be whole seconds from 1970 to the year 9999")
    return _U64.pack(value)


def _encode_table(table: object, path: Path) -> bytes:
    if not isinstance(table, dict) or len(path) > MAX_DEPTH + 1:
        raise Unsendable(f"{_named(path)} must be a table of at most {MAX_DEPTH} levels")
    pieces: list[bytes] = []
    for key, value in table.items():
        inside = (*path, key)
        pieces += (encode_short(key, inside), _encode_value(value, inside))
    encoded = b"".join(pieces)
    return _U32.pack(len(encoded)) + encoded


def _encode_value(value: object, path: Path) -> bytes:
    match value:
        case str():
            raw = value.encode() if value.isascii() else _encode_text(value, path)
            return b"S" + _U32.pack(len(raw)) + raw
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            return _encode_integer(value, path)
        case float():
            if not math.isfinite(value):
                raise Unsendable(f"{_named(path)} is not a finite number")
            return b"d" + struct.pack(">d", value)
        case bytes() | bytearray():
            return b"x" + _U32.pack(len(value)) + bytes(value)
        case datetime():
            return b"T" + _seconds(_whole_seconds(value), path)
        case Decimal():
            return _encode_decimal(value, path)
        case dict():
            return b"F" + _encode_table(value, path)
        case list():
            return _encode_array(value, path)
        case _:
            raise Unsendable(f"{_named(path)} has the type {type(value).__name__}, which AMQP cannot carry")


def _encode_integer(value: int, path: Path) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise Unsendable(f"{_named(path)} does not fit 64 bits")
    return b"l" + struct.pack(">q", value)


def _encode_array(values: list[object], path: Path) -> bytes:
    if len(path) > MAX_DEPTH + 1:
        raise Unsendable(f"{_named(path)} is nested deeper than {MAX_DEPTH} levels")
    encoded = b"".join([_encode_value(value, (*path, index)) for index, value in enumerate(values)])
    return b"A" + _U32.pack(len(encoded)) + encoded


def _encode_decimal(value: Decimal, path: Path) -> bytes:
    exponent = value.as_tuple().exponent
    scale = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    if not value.is_finite() or scale > 255 or abs(value.scaleb(scale)) >= 2**31:
        raise Unsendable(f"{_named(path)} does not fit a decimal of AMQP (31 bits, up to 255 places)")
    return b"D" + struct.pack(">Bi", scale, int(value.scaleb(scale)))


def _whole_seconds(value: datetime) -> int:
    return int((value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp())


_ENCODE: Final[dict[str, Callable[[Any, Path], bytes]]] = {
    "text": encode_short,
    "octet": _octet,
    "seconds": _seconds,
    "table": _encode_table,
}
_ENCODERS: Final = tuple((bit, name, _ENCODE[kind]) for bit, name, kind in _LAYOUT if name)
