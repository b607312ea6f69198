"""The history that a message carries when a queue gives it up.

Takes a message and the reason, returns the message to publish to the dead-letter exchange: `x-death` and `x-first-
death-*` as RabbitMQ writes them, everything else byte for byte as it was. Pure; `vhost.py` routes the result.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from pamqp import decode

from . import properties
from .messages import Message, compose
from .queues import Death, Queue


@dataclass(frozen=True, slots=True)
class DeathRecord:
    queue: str
    reason: str
    count: int
    time: int
    exchange: str
    routing_keys: tuple[str, ...]
    original_expiration: str | None


def deaths_of(message: Message) -> list[DeathRecord]:
    return _read(properties.header_entries(properties.split(message.properties)).get(b"x-death"))


def dead_letter(queue: Queue, message: Message, reason: Death, *, now: float) -> Message:
    """The message as the queue's dead-letter exchange gets it; its expiration is gone, lest it dies again at once."""
    fields = properties.split(message.properties)
    entries = properties.header_entries(fields)
    expiration = properties.shortstr(fields, properties.EXPIRATION) if properties.EXPIRATION in fields else None
    death = DeathRecord(queue.name, reason, 1, int(now), message.exchange, (message.routing_key,), expiration)
    deaths = _with(death, _read(entries.get(b"x-death")))
    entries[b"x-death"] = _array([_table(each) for each in deaths])
    if b"x-first-death-reason" not in entries:
        entries[b"x-first-death-exchange"] = _text(death.exchange)
        entries[b"x-first-death-queue"] = _text(death.queue)
        entries[b"x-first-death-reason"] = _text(death.reason)
    fields.pop(properties.EXPIRATION, None)
    fields = properties.with_headers(fields, entries)
    exchange, key = queue.options.dead_letter_exchange, queue.options.dead_letter_routing_key
    return compose(
        exchange or "", message.routing_key if key is None else key, fields, properties.join(fields), message.body
    )


def is_cycle(queue: Queue, deaths: Iterable[DeathRecord]) -> bool:
    """The message would come back to a queue that nobody rejected it from on the way: it would circle for ever."""
    for death in deaths:
        if death.reason == "rejected":
            return False
        if death.queue == queue.name:
            return True
    return False


def _with(death: DeathRecord, earlier: list[DeathRecord]) -> list[DeathRecord]:
    """Newest first; the same queue and reason again is counted, not repeated."""
    for known in earlier:
        if (known.queue, known.reason) == (death.queue, death.reason):
            rest = [each for each in earlier if each is not known]
            return [replace(known, count=known.count + 1), *rest]
    return [death, *earlier]


def _read(value: bytes | None) -> list[DeathRecord]:
    if value is None or value[:1] != b"A":
        return []
    try:
        _, rows = decode.field_array(value[1:])
    except (ValueError, OverflowError, OSError):  # a client may write anything under this name
        return []
    return [_record(row) for row in rows if isinstance(row, dict) and "queue" in row and "reason" in row]


def _record(row: Mapping[str, object]) -> DeathRecord:
    count, time, keys = row.get("count"), row.get("time"), row.get("routing-keys")
    expiration = row.get("original-expiration")
    return DeathRecord(
        queue=str(row["queue"]),
        reason=str(row["reason"]),
        count=count if isinstance(count, int) else 1,
        time=int(time.timestamp()) if isinstance(time, datetime) else 0,
        exchange=str(row.get("exchange", "")),
        routing_keys=tuple(map(str, keys)) if isinstance(keys, list) else (),
        original_expiration=None if expiration is None else str(expiration),
    )


def _table(death: DeathRecord) -> bytes:
    entries = {
        b"count": b"l" + struct.pack(">q", death.count),
        b"reason": _text(death.reason),
        b"queue": _text(death.queue),
        b"time": b"T" + struct.pack(">Q", death.time),
        b"exchange": _text(death.exchange),
        b"routing-keys": _array([_text(key) for key in death.routing_keys]),
    }
    if death.original_expiration is not None:
        entries[b"original-expiration"] = _text(death.original_expiration)
    body = b"".join(bytes([len(name)]) + name + value for name, value in entries.items())
    return b"F" + struct.pack(">I", len(body)) + body


def _text(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    return b"S" + struct.pack(">I", len(data)) + data


def _array(values: list[bytes]) -> bytes:
    body = b"".join(values)
    return b"A" + struct.pack(">I", len(body)) + body
