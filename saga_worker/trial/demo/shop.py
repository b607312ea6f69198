"""The demo's producer: events out to the exchange, and a ledger of what the broker said to each.

Guarantees that an intent is on disk before its publish and the broker's word after it, and that an event whose fate is
unknown, or that found no queue, is published again under the same id. It speaks AMQP by aio-pika alone: it stands for
somebody else's service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractRobustConnection

from saga_worker.testing.ledgers import Ledger
from saga_worker.trial.demo.crew import Place
from saga_worker.trial.demo.orders import SOURCE, ShopEvent

GROUP: Final = 50
RETRY_SECONDS: Final = 0.2


class Shop:
    """One connection with confirms; `publish` returns when every event is confirmed and routed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._ledger = Ledger(place.producer_ledger)
        self._connection: AbstractRobustConnection | None = None
        self._channel: AbstractChannel | None = None

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect_robust(self._place.amqp_url, timeout=10)
        self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None
        await self._connection.close()
        self._ledger.close()

    async def publish(self, events: Sequence[ShopEvent]) -> None:
        for group in _groups(events):
            left = group
            while left:
                left = await self._publish(left)
                if left:
                    await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self, group: Sequence[ShopEvent]) -> list[ShopEvent]:
        """One attempt at all of them; returns those that have to be published again."""
        self._write(group, ["intent"] * len(group))
        outcomes = await asyncio.gather(*(self._send(event) for event in group))
        self._write(group, outcomes)
        return [event for event, outcome in zip(group, outcomes, strict=True) if outcome != "ok"]

    async def _send(self, event: ShopEvent) -> str:
        assert self._channel is not None
        message = aio_pika.Message(
            event.body,
            message_id=event.id,
            type=event.type,
            app_id=SOURCE,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        try:
            exchange = await self._channel.get_exchange(f"{self._place.namespace}.events", ensure=False)
            await exchange.publish(message, routing_key=event.type, mandatory=True, timeout=10)
        except aio_pika.exceptions.PublishError:
            return "returned"
        except (aio_pika.exceptions.AMQPError, ConnectionError, TimeoutError, RuntimeError):
            return "unknown"
        return "ok"

    def _write(self, events: Sequence[ShopEvent], outcomes: Sequence[str]) -> None:
        self._ledger.append(
            {"id": event.id, "source": SOURCE, "type": event.type, "sha256": event.sha256, "outcome": outcome}
            for event, outcome in zip(events, outcomes, strict=True)
        )


def _groups(events: Sequence[ShopEvent]) -> Iterator[list[ShopEvent]]:
    """Groups without two copies of one id: a return names the id only, and must not be taken for the other copy's."""
    group: dict[str, ShopEvent] = {}
    for event in events:
        if event.id in group or len(group) == GROUP:
            yield list(group.values())
            group = {}
        group[event.id] = event
    if group:
        yield list(group.values())
