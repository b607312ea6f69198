"""Properties to JSON and back, as the tables keep them.

Every value that AMQP can carry comes back as it was: what JSON has no form for is written as an object with one
member whose name begins with `$`. `stand_in_id` is the identity of a message that came without one.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from pydantic_core import from_json, to_json

from saga_worker.envelope.delivery import Delivery, FieldValue, Properties, Source

_NAMES: Final = tuple(each.name for each in fields(Properties))
# Written by the broker, different at each delivery.
_VOLATILE: Final = frozenset({"x-delivery-count", "x-death"})


def dump_properties(properties: Properties) -> bytes:
    """JSON of the properties that are there."""
    return to_json(_present(properties))


def load_properties(raw: bytes) -> Properties:
    """The inverse of `dump_properties`; members it does not know are left out."""
    return _properties(from_json(raw))


def dump_delivery(delivery: Delivery) -> bytes:
    """JSON of everything about a delivery but its body."""
    values = _present(delivery.properties)
    values["exchange"] = _plain(delivery.exchange)
    values["routing_key"] = _plain(delivery.routing_key)
    return to_json(values)


def load_delivery(raw: bytes, body: bytes) -> Delivery:
    """A delivery as it was stored, to be read once more."""
    values = from_json(raw)
    return Delivery(
        body=body,
        properties=_properties(values),
        exchange=str(_restored(values.get("exchange", ""))),
        routing_key=str(_restored(values.get("routing_key", ""))),
        redelivered=True,
        delivery_tag=0,
        queue=Source.INBOX,
    )


def stand_in_id(delivery: Delivery) -> str:
    """An id made of body, routing key and properties; the same for every delivery of one message."""
    values = _present(delivery.properties)
    headers = values.pop("headers", {})
    values["headers"] = {name: headers[name] for name in sorted(headers) if not _is_volatile(name)}
    digest = sha256(to_json([values, _plain(delivery.routing_key)]))
    digest.update(delivery.body)
    return f"sha256:{digest.hexdigest()[:40]}"


def _is_volatile(name: str) -> bool:
    return name in _VOLATILE or (name.startswith("x-") and "-death-" in name)


def _present(properties: Properties) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _NAMES:
        value = getattr(properties, name)
        if value is None or value == {}:
            continue
        values[name] = _table(value) if name == "headers" else _plain(value)
    return values


def _properties(values: dict[str, Any]) -> Properties:
    return Properties(**{name: _restored(values[name]) for name in _NAMES if name in values})


def _table(table: dict[str, FieldValue]) -> dict[str, Any]:
    plain = {_readable(name): _plain(value) for name, value in table.items()}
    return {"$table": plain} if any(name.startswith("$") for name in plain) else plain


def _plain(value: FieldValue) -> Any:
    """`value` as JSON can say it."""
    if type(value) is str and value.isascii():  # nearly always
        return value
    match value:
        case str():
            return value if _is_clean(value) else {"$text": b64encode(_raw(value)).decode("ascii")}
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case bytes():
            return {"$bytes": b64encode(value).decode("ascii")}
        case Decimal():
            return {"$decimal": str(value)}
        case datetime():
            return {"$time": int(value.timestamp())}
        case list():
            return [_plain(item) for item in value]
        case dict():
            return _table(value)


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        match next(iter(value.items())):
            case ("$text", text):
                return b64decode(text).decode("utf-8", "surrogateescape")
            case ("$float", text):
                return float(text)
            case ("$bytes", text):
                return b64decode(text)
            case ("$decimal", text):
                return Decimal(text)
            case ("$time", seconds):
                return datetime.fromtimestamp(seconds, UTC)
            case ("$table", table):
                return {name: _restored(item) for name, item in table.items()}
            case _:
                pass
    return {name: _restored(item) for name, item in value.items()}


def _is_clean(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _readable(text: str) -> str:
    """A header's name that is not UTF-8 is kept readable; only its value comes back exactly."""
    return text if _is_clean(text) else _raw(text).decode("utf-8", "backslashreplace")
