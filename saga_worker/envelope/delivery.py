"""What arrives: one delivery of the broker, as the rest of the package sees it.

Text that was not UTF-8 on the wire is kept with surrogate escapes, so that nothing received is lost and
nothing refused by the type of a field can hurt the connection. Handed to `envelope.read`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

FieldValue: TypeAlias = (
    "bool | int | float | str | bytes | Decimal | datetime | list[FieldValue] | dict[str, FieldValue] | None"
)


class Source(StrEnum):
    """Which of our queues a delivery came from."""

    INBOX = "inbox"
    DEAD = "dead"


@dataclass(slots=True)
class Properties:
    """The basic properties of AMQP 0-9-1; None: absent. `timestamp` is in whole seconds since 1970."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, FieldValue] = field(default_factory=dict)
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    undecodable_headers: bytes | None = None  # the table as received, when it cannot be read


@dataclass(slots=True)
class Delivery:
    """One message as delivered. `delivery_tag` counts on the channel of its session. Not frozen: hot path."""

    body: bytes
    properties: Properties
    exchange: str
    routing_key: str
    redelivered: bool
    delivery_tag: int
    queue: Source
