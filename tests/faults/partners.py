"""Participants that a test scripts: what they answer, how often and when; and their witness of what reached them.

Takes a script (delivery in, replies out), guarantees that a delivery is in the sink ledger before it is answered and
that the script is asked once per command id: copies get the same answers again. In the test's own event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from saga_worker.testing.ledgers import Ledger
from tests.faults.campaign import Campaign

EVENTS: Final = "events"


@dataclass(frozen=True, slots=True)
class Asked:
    """A command or an undo, or an event, as a participant sees it."""

    destination: str
    type: str
    message_id: str
    data: dict[str, Any]
    undoes: str | None
    deadline: datetime | None


Condition = Callable[[Campaign, Asked], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, sent at once, at a moment, or once a condition holds. Those of one `label` have one message id."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    once: Condition | None = None
    label: str = "reply"


Script = Callable[[Asked], Sequence[Reply]]
BOOKED: Final = Reply("booked", {"booking": "b"})
DONE: Final = Reply("done")
REJECTED: Final = Reply("rejected", {"reason": "no"})


def agreeable(asked: Asked) -> Sequence[Reply]:
    """Everything works at once."""
    return [BOOKED if asked.type == "book" else DONE]


class Partners:
    """Queues of all destinations of `definitions/deal.py`, and of its events."""

    def __init__(
        self, run: Campaign, script: Script = agreeable, *, destinations: Sequence[str] = ("left", "right", EVENTS)
    ) -> None:
        self._run = run
        self._script = script
        self._destinations = destinations
        self._ledger = Ledger(run.sink)
        self._answers: dict[str, list[Reply]] = {}
        self._acted: set[str] = set()
        self._queues: dict[str, AbstractQueue] = {}
        self._replying: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._channel: AbstractChannel | None = None
        self.seen: list[Asked] = []

    async def __aenter__(self) -> Self:
        connection = await self._stack.enter_async_context(await aio_pika.connect(self._run.place.amqp_url))
        self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await self._channel.set_qos(prefetch_count=1000)
        for destination in self._destinations:
            await self._listen(destination)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._replying:
            task.cancel()
        await asyncio.gather(*self._replying, return_exceptions=True)
        await self._stack.aclose()
        self._ledger.close()

    async def unbind(self, destination: str) -> None:
        """Commands for it find no queue from now on."""
        exchange, key = await self._binding(destination)
        await self._queues[destination].unbind(exchange, key)

    async def bind(self, destination: str) -> None:
        exchange, key = await self._binding(destination)
        await self._queues[destination].bind(exchange, key)

    def asked(self, type: str, deal: str | None = None) -> list[Asked]:
        """Deliveries of this type, copies too."""
        return [each for each in self.seen if each.type == type and deal in (None, each.data.get("deal"))]

    async def _listen(self, destination: str) -> None:
        assert self._channel is not None
        name = self._run.place.namespace.queue(f"partner.{destination}")
        queue = await self._channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        self._queues[destination] = queue
        await self.bind(destination)

        async def receive(message: AbstractIncomingMessage) -> None:
            await self._receive(destination, message)

        await queue.consume(receive)

    async def _binding(self, destination: str) -> tuple[aio_pika.abc.AbstractExchange, str]:
        assert self._channel is not None
        name = "events" if destination == EVENTS else "commands"
        exchange = await self._channel.declare_exchange(
            f"{self._run.place.namespace}.{name}", aio_pika.ExchangeType.TOPIC, durable=True
        )
        return exchange, "deal_closed" if destination == EVENTS else f"{destination}.#"

    async def _receive(self, destination: str, message: AbstractIncomingMessage) -> None:
        asked = _asked(destination, message)
        is_first = asked.message_id not in self._answers
        if is_first:
            self._answers[asked.message_id] = [] if destination == EVENTS else list(self._script(asked))
        replies = self._answers[asked.message_id]
        self.seen.append(asked)
        self._ledger.append([self._line(asked, message, replies, is_effect=is_first and self._acts(asked, replies))])
        for reply in replies:
            task = asyncio.create_task(self._reply(message, asked, reply))
            self._replying.add(task)
            task.add_done_callback(self._replying.discard)
        await message.ack()

    def _acts(self, asked: Asked, replies: Sequence[Reply]) -> bool:
        """Whether this delivery changes something: an undo only takes back what stands."""
        if replies and replies[0].type == REJECTED.type:
            return False
        if asked.undoes is not None:
            stands = asked.undoes in self._acted
            self._acted.discard(asked.undoes)
            return stands
        self._acted.add(asked.message_id)
        return True

    def _line(
        self, asked: Asked, message: AbstractIncomingMessage, replies: Sequence[Reply], *, is_effect: bool
    ) -> dict[str, object]:
        return {
            "destination": asked.destination,
            "type": asked.type,
            "message_id": asked.message_id,
            "sha256": hashlib.sha256(message.body).hexdigest(),
            "saga_id": str(message.headers.get("saga-id", "")),
            "seq": int(asked.message_id.rpartition(".")[2]),
            "undoes": asked.undoes,
            "redelivered": bool(message.redelivered),
            "effect": is_effect,
            "reply_ids": [reply_id(asked, reply) for reply in replies],
        }

    async def _reply(self, message: AbstractIncomingMessage, asked: Asked, reply: Reply) -> None:
        assert self._channel is not None and message.reply_to is not None
        if reply.once is not None:
            holds = reply.once
            await self._run.until(lambda: holds(self._run, asked))
        if reply.at is not None:
            await asyncio.sleep((reply.at - datetime.now(UTC)).total_seconds())
        answer = aio_pika.Message(
            json.dumps(reply.data).encode(),
            message_id=reply_id(asked, reply), correlation_id=asked.message_id, type=reply.type,
            app_id=asked.destination, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )  # fmt: skip
        with suppress(aio_pika.exceptions.ChannelInvalidStateError):  # the run is over
            await self._channel.default_exchange.publish(answer, message.reply_to)


def reply_id(asked: Asked, reply: Reply) -> str:
    return f"{asked.message_id}:{reply.label}"


def later(moment: datetime, seconds: float) -> datetime:
    return moment + timedelta(seconds=seconds)


def _asked(destination: str, message: AbstractIncomingMessage) -> Asked:
    headers = message.headers
    return Asked(
        destination=destination,
        type=message.type or "",
        message_id=message.message_id or "",
        data=json.loads(message.body),
        undoes=str(headers["saga-undoes"]) if headers.get("saga-undoes") else None,
        deadline=_moment(headers.get("saga-deadline")),
    )


def _moment(header: object) -> datetime | None:
    if header is None:
        return None
    return header if isinstance(header, datetime) else datetime.fromisoformat(str(header))
