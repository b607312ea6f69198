"""The other end of the wire in tests of a whole worker: a producer, and the services that obey its commands.

Takes a broker and a namespace; speaks AMQP by aio-pika alone. A test tells each answer (`command`, `answer`), or has
a table of answers given by itself (`serve`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from saga_worker.testing.namespaces import Namespace

DESTINATIONS: Final = (
    "fraud", "inventory", "payment", "shipping", "credit", "serving", "health", "payroll", "accounts", "packers",
    "seats", "hotel", "coaches", "bank",
)  # fmt: skip
PUBLISHED: Final = (  # by sagas
    "order_shipped", "review_overdue", "model_deployed", "decision_wanted", "claim_paid", "payment_overdue",
    "rental_settled", "subscription_ended", "trip_confirmed",
)  # fmt: skip
PATIENCE: Final = 30.0
Answers = Mapping[str, tuple[str, dict[str, Any]] | None]  # command type → reply type and data; None: silence

GENEROUS: Final[Answers] = {
    "score_order": ("cleared", {}),
    "reserve_stock": ("stock_reserved", {"reservation": "shelf 7"}),
    "charge_card": ("charged", {"payment": "p-1"}),
    "ship_order": ("shipped", {"parcels": ["box 1"]}),
    "check_credit": ("credit_checked", {"hold": "h-1"}),
}


@dataclass(frozen=True, slots=True)
class Heard:
    """A command, or an event of a saga, as it came."""

    message: AbstractIncomingMessage

    @property
    def type(self) -> str:
        return self.message.type or ""

    @property
    def id(self) -> str:
        return self.message.message_id or ""

    @property
    def data(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.message.body)
        return document

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.message.headers)


@dataclass(slots=True)
class Wire:
    """One channel; every command and event that came is in `heard`, in order."""

    channel: AbstractChannel
    namespace: Namespace
    heard: list[Heard] = field(default_factory=list)
    _taken: int = 0
    _answers: Answers = field(default_factory=dict)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    # -- as a producer ----------------------------------------------------------------------------------------------

    async def publish(self, type_: str, data: Mapping[str, Any] | bytes, *, id: str, **properties: Any) -> None:
        """One event, confirmed and routed."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        message = aio_pika.Message(body, message_id=id, type=type_, app_id="shop", delivery_mode=2, **properties)
        exchange = await self.channel.get_exchange(f"{self.namespace}.events", ensure=False)
        await exchange.publish(message, type_, mandatory=True, timeout=PATIENCE)

    # -- as the services --------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Bind a queue for the commands of all destinations and one for the events that sagas publish."""
        for name, keys in (("commands", [f"{name}.#" for name in DESTINATIONS]), ("events", PUBLISHED)):
            exchange = await self.channel.declare_exchange(f"{self.namespace}.{name}", "topic", durable=True)
            queue = await self.channel.declare_queue(self.namespace.queue(f"test.{name}"), durable=True)
            for key in keys:
                await queue.bind(exchange, key)
            await queue.consume(self._hear)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        heard = Heard(message)
        self.heard.append(heard)
        self._came.set()
        if message.reply_to and (answer := self._answers.get(heard.type, ("done", {}) if self._answers else None)):
            await self.answer(heard, answer[0], answer[1])
        await message.ack()

    def serve(self, answers: Answers = GENEROUS) -> None:
        """From now on answer every command by this table; what is not in it with `done`."""
        self._answers = answers

    async def next(self, type_: str) -> Heard:
        """The next message of this type; those before it are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                while self._taken < len(self.heard):
                    self._taken += 1
                    if self.heard[self._taken - 1].type == type_:
                        return self.heard[self._taken - 1]
                self._came.clear()
                await self._came.wait()

    async def answer(
        self, command: Heard, type_: str, data: Mapping[str, Any] | None = None, *, id: str = "", **properties: Any
    ) -> None:
        """Reply to a command, or reject it."""
        reply = aio_pika.Message(
            json.dumps(data or {}).encode(), message_id=id or f"{command.id}.{type_}", type=type_,
            correlation_id=command.id, app_id="services", content_type="application/json", delivery_mode=2,
            **properties,
        )  # fmt: skip
        await self.channel.default_exchange.publish(reply, command.message.reply_to or "", timeout=PATIENCE)

    async def obey(self, type_: str, answer: str, **data: Any) -> Heard:
        """Wait for the next command of this type and answer it."""
        command = await self.next(type_)
        await self.answer(command, answer, data)
        return command

    def count(self, type_: str, where: Callable[[Heard], bool] = lambda heard: True) -> int:
        """How many different messages of this type came (a copy has the same id)."""
        return len({heard.id for heard in self.heard if heard.type == type_ and where(heard)})

    async def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue of the worker."""
        declared = await self.channel.declare_queue(f"{self.namespace}.{queue}", passive=True)
        return declared.declaration_result.message_count or 0


@asynccontextmanager
async def wire_to(amqp_url: str, namespace: Namespace) -> AsyncIterator[Wire]:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(on_return_raises=True)
        await channel.set_qos(prefetch_count=500)
        wire = Wire(channel, namespace)
        await wire.listen()
        yield wire
