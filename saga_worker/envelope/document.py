"""Strict JSON: a body is one object of RFC 8259 that PostgreSQL could hold too, or it is refused with the place.

Takes bytes, gives the document or raises `PoisonMessage` with one of the codes invalid_json, invalid_encoding,
number_out_of_range, nul_character, duplicate_key, too_deep, not_an_object. The fast parser lets four things pass
(numbers beyond the range of a double, `\\u0000`, repeated members, and it calls a bad encoding bad JSON); each is
looked for only when a cheap scan of the bytes says that it may be there. A byte order mark is refused, as RFC 8259
asks of senders: stripping it would mean that the stored bytes are not the document.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import from_json

from saga_worker.saga.errors import PoisonMessage

_PLACE: Final = re.compile(r" at line (\d+) column (\d+)$")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_SPACED_COLON: Final = re.compile(rb'"[ \t\r\n]+:')
# Digits become 0 and plus signs go, so that one search finds an exponent of three digits or 200 digits in a row.
# Anything below 200 digits and e99 is within the range of a double.
_DIGITS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_EXPONENT: Final = b"e000"
_LONG_NUMBER: Final = b"0" * 200


def read_object(body: bytes) -> dict[str, Any]:
    """The document in `body`; raises `PoisonMessage`."""
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _refusal(body, str(error)) from None
    if not isinstance(document, dict):
        raise PoisonMessage("not_an_object", f"The body is {_kind_of(document)}; it has to be a JSON object.")
    if b"\\u0000" in body and _holds_nul(document):
        raise PoisonMessage("nul_character", "The body holds the character U+0000, which PostgreSQL cannot store.")
    digits = body.translate(_DIGITS, b"+")
    if (_LONG_EXPONENT in digits or _LONG_NUMBER in digits) and _holds_infinity(document):
        raise PoisonMessage("number_out_of_range", "The body holds a number beyond the range of a double.")
    if _may_repeat_members(body, document):
        _refuse_repeated_members(body)
    return document


def _refusal(body: bytes, said: str) -> PoisonMessage:
    """Which of the codes the parser's words mean."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return PoisonMessage("invalid_encoding", f"The body is not UTF-8: byte {error.start} ({error.reason}).")
    if body.startswith(b"\xef\xbb\xbf"):
        return PoisonMessage("invalid_encoding", "The body begins with a byte order mark (offset 0); leave it out.")
    if body[:4].count(0) >= 2:
        return PoisonMessage("invalid_encoding", "The body is UTF-16 or UTF-32 (offset 0); it has to be UTF-8.")
    place = _PLACE.search(said)
    where = f" (line {place[1]}, column {place[2]})" if place is not None else ""
    what = said[: place.start()] if place is not None else said
    if "hex escape" in what and (escape := _SURROGATE.search(body)) is not None:
        return PoisonMessage(
            "invalid_encoding", f"The body holds half of a surrogate pair near offset {escape.start()}."
        )
    if "number out of range" in what:
        return PoisonMessage("number_out_of_range", f"The body holds a number of more than 4,300 digits{where}.")
    if "recursion" in what:
        return PoisonMessage("too_deep", f"The body is nested deeper than 200 levels{where}.")
    return PoisonMessage("invalid_json", f"The body is not JSON: {what}{where}.")


def _values(document: Any) -> Iterator[Any]:
    """Every key and value, without recursion."""
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        else:
            yield value


def _holds_nul(document: Any) -> bool:
    return any(isinstance(value, str) and "\0" in value for value in _values(document))


def _holds_infinity(document: Any) -> bool:
    return any(isinstance(value, float) and math.isinf(value) for value in _values(document))


def _may_repeat_members(body: bytes, document: dict[str, Any]) -> bool:
    """Whether the bytes show another number of members than the parsed document has."""
    shown = body.count(b'":')
    if shown != len(document) and shown != _count_members(document):
        return True
    return _SPACED_COLON.search(body) is not None


def _count_members(document: Any) -> int:
    count = 0
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            count += len(value)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return count


def _refuse_repeated_members(body: bytes) -> None:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) != len({name for name, _ in pairs}):
            raise PoisonMessage("duplicate_key", "The body names a member of one object twice.")
        return dict(pairs)

    # Numbers stay text: the standard library refuses long integers, which are not the question here.
    json.loads(body, object_pairs_hook=members, parse_int=str, parse_float=str)


def _kind_of(value: object) -> str:
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "an array"}
    return "null" if value is None else names.get(type(value), "no object")
