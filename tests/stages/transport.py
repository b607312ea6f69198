"""What the tests of the transport stages share: both sides of the broker, and a bare client beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractChannel
from yarl import URL

from saga_worker.broker import (
    AmqpPath,
    BrokerConnection,
    Confirmed,
    Deliveries,
    Delivery,
    Outgoing,
    Properties,
    Publisher,
    Topology,
)
from saga_worker.broker.amqp_path import Setting

PATH: Setting = "lean"  # of the AMQP frames; the fixture `hot_path` of a test module tries the other one, too


def _amqp_path(path: AmqpPath | Setting | None) -> AmqpPath:
    return path if isinstance(path, AmqpPath) else AmqpPath(path or PATH)


@asynccontextmanager
async def publishing(
    url: str,
    namespace: str,
    *,
    path: AmqpPath | Setting | None = None,
    window: int = 1000,
    confirm_seconds: float = 10.0,
    heartbeat_seconds: int = 10,
) -> AsyncIterator[Publisher]:
    connection = BrokerConnection(url, "publish", _amqp_path(path), heartbeat_seconds=heartbeat_seconds)
    publisher = Publisher(connection, Topology(str(namespace)), window=window, confirm_seconds=confirm_seconds)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.close()


@asynccontextmanager
async def consuming(
    url: str, namespace: str, *, path: AmqpPath | Setting | None = None, types: Sequence[str] = ("order_placed",),
    prefetch: int = 1000, byte_budget: int = 64 * 1024 * 1024, watchdog_seconds: float = 15.0,
    heartbeat_seconds: int = 10, longest_delay_seconds: float = 5.0,
) -> AsyncIterator[Deliveries]:  # fmt: skip
    connection = BrokerConnection(
        url, "consume", _amqp_path(path), heartbeat_seconds=heartbeat_seconds,
        longest_delay_seconds=longest_delay_seconds,
    )  # fmt: skip
    deliveries = Deliveries(
        connection, Topology(str(namespace)), prefetch=prefetch, byte_budget=byte_budget,
        watchdog_seconds=watchdog_seconds,
    )  # fmt: skip
    await deliveries.bind_types(types)
    await deliveries.start()
    try:
        yield deliveries
    finally:
        await deliveries.close()


@asynccontextmanager
async def bare_channel(url: str) -> AsyncIterator[AbstractChannel]:
    """A client that is not ours."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel(on_return_raises=True)


def take_no_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a release of the client library would be that opens its sockets itself."""
    construct = aiormq.connection.Connection.__init__

    def constructed(
        self: aiormq.Connection, url: URL | str, *, transport_factory: object = None, **others: Any
    ) -> None:
        construct(self, url, **others)

    monkeypatch.setattr(aiormq.connection.Connection, "__init__", constructed)


def event(
    namespace: str, message_id: str, *, body: bytes = b'{"order_id":"o-1"}', type_: str = "order_placed",
    mandatory: bool = True, **properties: object,
) -> Outgoing:  # fmt: skip
    given = Properties(message_id=message_id, type=type_, app_id="shop", delivery_mode=2)
    for name, value in properties.items():
        setattr(given, name, value)
    return Outgoing(f"{namespace}.events", type_, body, given, mandatory)


async def publish_all(publisher: Publisher, messages: Sequence[Outgoing]) -> None:
    """Publish, and what is not confirmed again, as a careful producer does."""
    left = list(messages)
    while left:
        await publisher.ready(10)
        outcomes = await publisher.publish(left)
        left = [m for m, outcome in zip(left, outcomes, strict=True) if not isinstance(outcome, Confirmed)]


async def take(deliveries: Deliveries, count: int, *, limit: int = 200) -> list[Delivery]:
    """At least `count` deliveries, acknowledged."""
    taken: list[Delivery] = []
    while len(taken) < count:
        batch = await deliveries.next_batch(limit)
        assert batch is not None
        taken += batch.deliveries
        await deliveries.ack(batch)
    return taken
