"""Message properties as the bytes that the publisher sent.

Takes the property list of a content header, splits it into encoded fields and header entries, and joins them again:
what is not changed leaves the broker byte for byte as it came, whatever its type. Hands to `dead_letters.py` and
`wire.py`.
"""

import struct

from .errors import ConnectionFault, ReplyCode

CONTENT_TYPE = 1 << 15
CONTENT_ENCODING = 1 << 14
HEADERS = 1 << 13
EXPIRATION = 1 << 8
USER_ID = 1 << 4

_SHORTSTR, _TABLE = -1, -2
# flag bit → width; the order is that of the bytes
_FIELDS: tuple[tuple[int, int], ...] = (
    (CONTENT_TYPE, _SHORTSTR),
    (CONTENT_ENCODING, _SHORTSTR),
    (HEADERS, _TABLE),
    (1 << 12, 1),  # delivery mode
    (1 << 11, 1),  # priority
    (1 << 10, _SHORTSTR),  # correlation id
    (1 << 9, _SHORTSTR),  # reply to
    (EXPIRATION, _SHORTSTR),
    (1 << 7, _SHORTSTR),  # message id
    (1 << 6, 8),  # timestamp
    (1 << 5, _SHORTSTR),  # type
    (USER_ID, _SHORTSTR),
    (1 << 3, _SHORTSTR),  # app id
    (1 << 2, _SHORTSTR),  # cluster id
)
_VALUE_WIDTH = dict(zip(b"tbBsuIilLfdDTV\x00", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0, 0), strict=True))
_LONG_VALUES = frozenset(b"SxAF")
_DELIVERY_COUNT = b"x-delivery-count"
_DELIVERY_COUNT_ENTRY = bytes([len(_DELIVERY_COUNT)]) + _DELIVERY_COUNT + b"l"

Fields = dict[int, bytes]
Entries = dict[bytes, bytes]


def flags_of(raw: bytes) -> int:
    return raw[0] << 8 | raw[1]


def split(raw: bytes) -> Fields:
    """The fields that are set, each with its length prefix."""
    flags, at = flags_of(raw), 2
    fields: Fields = {}
    for flag, width in _FIELDS:
        if flags & flag:
            end = _end_of_field(raw, at, width)
            fields[flag] = raw[at:end]
            at = end
    if at != len(raw):
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "the property list does not fit its flags")
    return fields


def join(fields: Fields) -> bytes:
    flags = sum(fields)
    return struct.pack(">H", flags) + b"".join(fields[flag] for flag, _ in _FIELDS if flag in fields)


def shortstr(fields: Fields, flag: int) -> str:
    return fields[flag][1:].decode(errors="replace")


def header_entries(fields: Fields) -> Entries:
    """Header name → encoded value with its type octet."""
    return _entries(fields[HEADERS][4:]) if HEADERS in fields else {}


def with_headers(fields: Fields, entries: Entries) -> Fields:
    body = b"".join(bytes([len(name)]) + name + value for name, value in entries.items())
    return {**fields, HEADERS: struct.pack(">I", len(body)) + body}


def with_delivery_count(raw: bytes, count: int) -> bytes:
    """The properties with RabbitMQ's count of failed deliveries; spliced, not decoded, as it is done per delivery."""
    flags, at = flags_of(raw), 2
    for flag in (CONTENT_TYPE, CONTENT_ENCODING):
        if flags & flag:
            at += 1 + raw[at]
    entry = _DELIVERY_COUNT_ENTRY + struct.pack(">q", count)
    if not flags & HEADERS:
        return struct.pack(">H", flags | HEADERS) + raw[2:at] + struct.pack(">I", len(entry)) + entry + raw[at:]
    end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
    table = raw[at + 4 : end]
    if _DELIVERY_COUNT in table:
        fields = split(raw)
        entries = header_entries(fields) | {_DELIVERY_COUNT: b"l" + struct.pack(">q", count)}
        return join(with_headers(fields, entries))
    return raw[:at] + struct.pack(">I", len(table) + len(entry)) + table + entry + raw[end:]


def refuse_unrepresentable(fields: Fields) -> None:
    """RabbitMQ cannot hold NaN or infinity and ends the connection; so do we, lest a client learns it in production."""
    if _not_finite(header_entries(fields)):  # also refuses a table that cannot be walked
        raise ConnectionFault(ReplyCode.INTERNAL_ERROR, "a header holds a number that is not finite")


def _end_of_field(raw: bytes, at: int, width: int) -> int:
    if width == _SHORTSTR:
        width = 1 + _octet(raw, at)
    elif width == _TABLE:
        width = 4 + int.from_bytes(raw[at : at + 4], "big")
    if at + width > len(raw):
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "the property list ends inside a field")
    return at + width


def _entries(table: bytes) -> Entries:
    entries: Entries = {}
    at = 0
    while at < len(table):
        start = at + 1 + table[at]
        end = _end_of_value(table, start)
        entries[table[at + 1 : start]] = table[start:end]
        at = end
    return entries


def _end_of_value(data: bytes, at: int) -> int:
    kind = _octet(data, at)
    if kind in _LONG_VALUES:
        end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
    elif kind in _VALUE_WIDTH:
        end = at + 1 + _VALUE_WIDTH[kind]
    else:
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, f"a header has the unknown type {bytes([kind])!r}")
    if end > len(data):
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "a header ends outside its table")
    return end


def _octet(data: bytes, at: int) -> int:
    if at >= len(data):
        raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "the property list is cut short")
    return data[at]


def _not_finite(entries: Entries) -> bool:
    return any(_value_is_not_finite(value) for value in entries.values())


def _value_is_not_finite(value: bytes) -> bool:
    match value[:1]:
        case b"d":
            return value[1] & 0x7F == 0x7F and value[2] & 0xF0 == 0xF0
        case b"f":
            return value[1] & 0x7F == 0x7F and value[2] & 0x80 == 0x80
        case b"F":
            return _not_finite(_entries(value[5:]))
        case b"A":
            return any(map(_value_is_not_finite, _array(value[5:])))
        case _:
            return False


def _array(data: bytes) -> list[bytes]:
    values: list[bytes] = []
    at = 0
    while at < len(data):
        end = _end_of_value(data, at)
        values.append(data[at:end])
        at = end
    return values
