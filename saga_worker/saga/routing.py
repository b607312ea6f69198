"""Which saga a message belongs to: keys, references, ids of our own.

Takes a route and a decoded document, guarantees that equal keys give equal references however they were spelled,
and that every id can be read back. Hands refs to the inbox and the locks.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.rows import Role

_URL_SAFE: Final = str.maketrans("-_", "+/")
MAX_KEY_BYTES: Final = 255
MAX_SEQ: Final = 2**31 - 1  # an integer column
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# 16 bytes are 22 characters of base64; the last one carries two bits, so only these four are canonical.
_COMMAND_ID: Final = re.compile(r"([A-Za-z0-9_-]{21}[AQgw])\.(0|[1-9][0-9]{0,9})")


class KeyKind(StrEnum):
    """How the keys of a definition are written; one per definition, or `4711` and `"4711"` would be two sagas."""

    TEXT = "text"  # 1 to 255 bytes
    INT = "int"
    UUID = "uuid"


INTERNAL: Final = Role.CHILD  # the role of a route by which nothing may come in from outside


@dataclass(frozen=True, slots=True)
class Route:
    """A type that a definition takes, and where its key stands in the document. `role`: `EVENT`, or `INTERNAL`."""

    definition: str
    version: int
    type: str
    role: Role
    key_pointer: str
    key_kind: KeyKind


def canonical_key(value: object, kind: KeyKind) -> str:
    """The one spelling of a key; raises `PoisonMessage("bad_key")` for anything that has none."""
    if kind is KeyKind.TEXT and isinstance(value, str):
        return _checked_text(str.__str__(value))
    if kind is KeyKind.INT and isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > 800:
            raise PoisonMessage("bad_key", "The key is an integer of more than 240 digits.")
        return int.__str__(value)
    if kind is KeyKind.UUID:
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str) and _UUID.fullmatch(value):
            return value.lower()
    raise PoisonMessage("bad_key", f"The key is {_kind_of(value)}; the definition's keys are {kind.value}.")


def key_in(document: object, route: Route) -> str:
    """The key in a message from outside; raises `PoisonMessage` when it has none, or may not come from there."""
    if route.role is INTERNAL:
        raise PoisonMessage(
            "internal_only",
            f"Sagas of {route.definition} are not started by events from outside; start one with saga_worker.client,"
            " with `saga-worker saga start`, or as a step of another saga.",
        )
    return canonical_key(resolve_pointer(document, route.key_pointer), route.key_kind)


def ref_of(definition: str, key: str) -> UUID:
    """The saga's reference: what is locked, and what our message ids begin with."""
    return UUID(bytes=sha256(f"{definition}\0{key}".encode()).digest()[:16])


def command_id(ref: UUID, seq: int) -> str:
    """The message id of the `seq`-th message of a saga."""
    return f"{urlsafe_b64encode(ref.bytes)[:22].decode('ascii')}.{seq}"


def child_message_id(ref: UUID, seq: int, item: int | None) -> str:
    """The id of what a saga tells a child of its step `seq`; also the key of a child that was given none."""
    return command_id(ref, seq) if item is None else f"{command_id(ref, seq)}.{item}"


def parse_child_message_id(text: str) -> tuple[UUID, int, int | None] | None:
    """What `child_message_id` was given; None for every other text."""
    if (plain := parse_command_id(text)) is not None:
        return *plain, None
    head, _, item = text.rpartition(".")
    numbered = parse_command_id(head)
    return (*numbered, int(item)) if numbered is not None and item.isdecimal() else None


def reply_queue(namespace: str, ref: UUID, partitions: int) -> str:
    """Where answers to this saga go: always to the same partition of the inbox."""
    return f"{namespace}.inbox" if partitions == 1 else f"{namespace}.inbox.{ref.int % partitions}"


def parse_command_id(text: str) -> tuple[UUID, int] | None:
    """What `command_id` was given; None for every text that it cannot have written."""
    match = _COMMAND_ID.fullmatch(text)
    if match is None or int(match[2]) > MAX_SEQ:
        return None
    return UUID(bytes=a2b_base64(match[1].translate(_URL_SAFE) + "==")), int(match[2])


def seq_of(message_id: str | None) -> int:
    """The number in one of our message ids, as an inbox row keeps it; 0 when there is none."""
    number = (message_id or "").rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def resolve_pointer(document: object, pointer: str) -> object:
    """What stands at a JSON pointer; raises `PoisonMessage("bad_key")` when nothing does."""
    value = document
    for name in _names(pointer):
        if not isinstance(value, dict) or name not in value:
            raise PoisonMessage("bad_key", f"There is nothing at {pointer}, where the key should stand.")
        value = value[name]
    return value


def put_at_pointer(document: dict[str, object], pointer: str, value: object) -> object:
    """What stands at a JSON pointer; `value` is put there if nothing does. Raises as `resolve_pointer`."""
    *way, last = _names(pointer)
    place: object = document
    for name in way:
        place = place.setdefault(name, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise PoisonMessage("bad_key", f"There is no place for the key at {pointer}.")
    return place.setdefault(last, value)


def pointer_to(names: tuple[str, ...]) -> str:
    """The JSON pointer (RFC 6901) through these members."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


@lru_cache(maxsize=4096)
def _names(pointer: str) -> tuple[str, ...]:
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:])


def _checked_text(key: str) -> str:
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        raise PoisonMessage("bad_key", "The key is not valid Unicode.") from None
    if not 0 < size <= MAX_KEY_BYTES or _CONTROL.search(key):
        raise PoisonMessage("bad_key", f"The key has to have 1 to {MAX_KEY_BYTES} bytes and no control characters.")
    return key


def _kind_of(value: object) -> str:
    names = {str: "text", bool: "a boolean", int: "an integer", float: "a number", dict: "an object", list: "an array"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
