"""The exchanges and queues of one namespace, and how they are declared.

Takes a session; guarantees that after `declare` everything published to our names has a durable place to go and
that nothing the broker gives up leaves our sight (dead-letter exchange with at-least-once transfer). Handed to
`deliveries` and `publisher`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from saga_worker.broker.session import BROKER_FAULTS, STEP_TIMEOUT_SECONDS, Session
from saga_worker.saga.errors import ConfigurationError

KEY_HEADER: Final = "saga-key"  # what a producer says an event is about; those with one value stay in order
_WEIGHT: Final = "1"  # of a binding to the hash exchange: all partitions alike
_COMMAND_INVALID: Final = 503
DELIVERY_LIMIT: Final = 20  # of the inbox; what the broker gives up then, goes to the dead queue
# The dead queue must keep what it has: RabbitMQ 4 drops after 20 deliveries unless told otherwise.
_DEAD_DELIVERY_LIMIT: Final = 1_000_000


@dataclass(slots=True)
class Topology:
    """All broker names of one namespace."""

    namespace: str
    partitions: int = 1  # of the inbox; 1: one queue, shared by all workers
    former_partitions: int = 1  # the most there have ever been, known when the database is

    @property
    def partition_queues(self) -> list[str]:
        """A queue for each partition; none when the inbox is one queue."""
        return self._partition_names(0, self.partitions) if self.partitions > 1 else []

    @property
    def former_queues(self) -> list[str]:
        """Partitions of an earlier layout."""
        return self._partition_names(self.partitions if self.partitions > 1 else 0, self.former_partitions)

    def _partition_names(self, first: int, end: int) -> list[str]:
        return [f"{self.inbox_queue}.{number}" for number in range(first, end)] if end > 1 else []

    @property
    def hash_exchange(self) -> str:
        """Spreads events over the partitions by their key; named as the queue that it stands for."""
        return self.inbox_queue

    @property
    def events(self) -> str:
        return f"{self.namespace}.events"

    @property
    def commands(self) -> str:
        return f"{self.namespace}.commands"

    @property
    def dead_exchange(self) -> str:
        return f"{self.namespace}.dead"

    @property
    def inbox_queue(self) -> str:
        return f"{self.namespace}.inbox"

    @property
    def dead_queue(self) -> str:
        return f"{self.namespace}.dead"

    @property
    def exchanges(self) -> dict[str, str]:
        """Exchange name -> kind."""
        return {self.events: "topic", self.commands: "topic", self.dead_exchange: "fanout"}

    @property
    def queues(self) -> dict[str, dict[str, Any]]:
        """Queue name -> arguments."""
        inbox: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self.dead_exchange,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": DELIVERY_LIMIT,
        }
        dead = {"x-queue-type": "quorum", "x-delivery-limit": _DEAD_DELIVERY_LIMIT}
        partition = inbox | {"x-single-active-consumer": True}
        partitions = dict.fromkeys([*self.partition_queues, *self.former_queues], partition)
        return {self.inbox_queue: inbox, self.dead_queue: dead, **partitions}

    async def declare_exchanges(self, session: Session) -> None:
        for name, kind in self.exchanges.items():
            await _Declaration(session).exchange(name, kind)

    async def declare(self, session: Session) -> None:
        """Exchanges, queues and the binding of the dead queue; raises `ConfigurationError` on a mismatch."""
        await self.declare_exchanges(session)
        for name, arguments in self.queues.items():
            await _Declaration(session).queue(name, arguments)
        await self._spread(session)
        channel = await session.channel()
        async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
            dead = await channel.get_queue(self.dead_queue, ensure=False)
            await dead.bind(self.dead_exchange)
        await session.close_channel(channel)

    async def declare_partition(self, session: Session, queue: str) -> None:
        await _Declaration(session).queue(queue, self.queues[queue])

    async def _spread(self, session: Session) -> None:
        """Let the hash exchange spread over the partitions of this layout, and over no former ones."""
        if max(self.partitions, self.former_partitions) == 1:
            return
        await _Declaration(session).hash_exchange(self.hash_exchange)
        channel = await session.channel()
        for name in self.partition_queues:  # in order: the exchange numbers its buckets by it
            queue = await channel.get_queue(name, ensure=False)
            await queue.bind(self.hash_exchange, _WEIGHT, timeout=STEP_TIMEOUT_SECONDS)
        for name in self.former_queues:
            queue = await channel.get_queue(name, ensure=False)
            await queue.unbind(self.hash_exchange, _WEIGHT, timeout=STEP_TIMEOUT_SECONDS)
        await session.close_channel(channel)

    async def bind(self, session: Session, types: Iterable[str]) -> None:
        """Bind the inbox to the events exchange for each type; the bindings of a former layout go after that.

        In between a message is in the queues of both, and known again by its id.
        """
        channel = await session.channel()
        inbox = await channel.get_queue(self.inbox_queue, ensure=False)
        was_partitioned = self.former_partitions > 1
        spread = await channel.get_exchange(self.hash_exchange, ensure=False) if was_partitioned else None
        for event_type in sorted(types):
            if self.partitions > 1:
                assert spread is not None
                await spread.bind(self.events, event_type, timeout=STEP_TIMEOUT_SECONDS)
                await inbox.unbind(self.events, event_type, timeout=STEP_TIMEOUT_SECONDS)
                continue
            await inbox.bind(self.events, event_type, timeout=STEP_TIMEOUT_SECONDS)
            if spread is not None:
                await spread.unbind(self.events, event_type, timeout=STEP_TIMEOUT_SECONDS)
        await session.close_channel(channel)


class _Declaration:
    """One declare: actively; without the right to configure, that the thing exists is enough."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def exchange(self, name: str, kind: str) -> None:
        async def declare(channel: AbstractChannel, passive: bool) -> AbstractExchange:
            return await channel.declare_exchange(
                name, kind, durable=True, passive=passive, timeout=STEP_TIMEOUT_SECONDS
            )

        await self._declare(declare, f"exchange {name}")

    async def hash_exchange(self, name: str) -> None:
        """The exchange type is that of a plugin: a broker without it closes the connection."""

        async def declare(channel: AbstractChannel, passive: bool) -> AbstractExchange:
            return await channel.declare_exchange(
                name, aio_pika.ExchangeType.X_CONSISTENT_HASH, durable=True, passive=passive,
                arguments={"hash-header": KEY_HEADER}, timeout=STEP_TIMEOUT_SECONDS,
            )  # fmt: skip

        try:
            await self._declare(declare, f"exchange {name}")
        except BROKER_FAULTS:
            code, text = self._session.tap.closed_by_broker or (0, "")
            if code != _COMMAND_INVALID:
                raise
            raise ConfigurationError(
                f"RabbitMQ cannot spread over partitions ({text}); run `rabbitmq-plugins enable"
                " rabbitmq_consistent_hash_exchange` on its nodes, or set SAGA_WORKER_PARTITIONS to 1."
            ) from None

    async def queue(self, name: str, arguments: dict[str, Any]) -> None:
        async def declare(channel: AbstractChannel, passive: bool) -> AbstractQueue:
            return await channel.declare_queue(
                name, durable=True, passive=passive, arguments=arguments, timeout=STEP_TIMEOUT_SECONDS
            )

        await self._declare(declare, f"queue {name}")

    async def _declare(self, declare: Any, what: str) -> None:
        channel = await self._session.channel()
        try:
            await declare(channel, False)
        except ChannelPreconditionFailed as error:
            raise ConfigurationError(
                f"The {what} exists with other properties ({error}); delete it once it is empty, or choose another"
                " SAGA_WORKER_NAMESPACE."
            ) from None
        except ChannelAccessRefused:
            await self._look_up(declare, what)
        else:
            await self._session.close_channel(channel)

    async def _look_up(self, declare: Any, what: str) -> None:
        channel = await self._session.channel()
        try:
            await declare(channel, True)
        except (ChannelAccessRefused, ChannelNotFoundEntity) as error:
            raise ConfigurationError(
                f"The {what} is missing and this user may not create it ({error}); create it or grant configure."
            ) from None
        await self._session.close_channel(channel)
