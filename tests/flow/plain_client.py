"""A producer that is not ours: pika, with whatever bytes a test puts on the wire. Blocking; call it in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pika


@dataclass(frozen=True, slots=True)
class Plain:
    """One message. `id` None: without message_id; `to` None: the events exchange, with the type as routing key."""

    id: str | bytes | None
    body: bytes
    type: str | None = "order_placed"
    to: tuple[str, str] | None = None
    properties: dict[str, Any] = field(default_factory=dict)


def publish(amqp_url: str, namespace: str, messages: Sequence[Plain]) -> None:
    """Publish in order, each confirmed and routed to a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        for message in messages:
            exchange, key = message.to or (f"{namespace}.events", message.type or "order_placed")
            given = {"app_id": "shop", "delivery_mode": 2, "type": message.type, "message_id": message.id}
            properties = pika.BasicProperties(**(given | message.properties))
            channel.basic_publish(exchange, key, message.body, properties, mandatory=True)
    finally:
        connection.close()


def bind(amqp_url: str, namespace: str, *types: str) -> None:
    """Let events of these types into the inbox, as a newer release of the worker would have."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        for type_ in types:
            connection.channel().queue_bind(f"{namespace}.inbox", f"{namespace}.events", type_)
    finally:
        connection.close()
