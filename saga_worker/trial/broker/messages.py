"""A published message, and one copy of it in one queue.

The message is never changed and shared by all queues that it was routed to; the entry carries what differs per queue.
Made in `publishing.py` and `dead_letters.py`, kept by `queues.py`.
"""

from dataclasses import dataclass

from . import properties
from .errors import precondition


@dataclass(slots=True, eq=False)
class Message:
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    address: bytes
    """Exchange and routing key as they stand in every method that carries the message to a client."""
    time_to_live: float | None
    """Seconds, from the publisher's `expiration` property."""


@dataclass(slots=True, eq=False)
class Entry:
    message: Message
    position: int
    expires_at: float | None
    redelivered: bool = False
    delivery_count: int = 0
    """Failed deliveries, as a quorum queue counts them."""


def compose(exchange: str, routing_key: str, fields: properties.Fields, raw: bytes, body: bytes) -> Message:
    """`raw` are the bytes of `fields`."""
    time_to_live: float | None = None
    if properties.EXPIRATION in fields:
        time_to_live = _seconds(properties.shortstr(fields, properties.EXPIRATION))
    address = encode_shortstr(exchange) + encode_shortstr(routing_key)
    return Message(exchange, routing_key, raw, body, address, time_to_live)


def encode_shortstr(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    return bytes([len(data)]) + data


def _seconds(expiration: str) -> float:
    if not expiration.isascii() or not expiration.isdigit():
        precondition(f"invalid expiration '{expiration}': no_integer")
    return int(expiration) / 1000
