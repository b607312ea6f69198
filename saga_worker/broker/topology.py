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

from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from saga_worker.broker.connection import STEP_TIMEOUT_SECONDS, Session
from saga_worker.saga.errors import ConfigurationError

DELIVERY_LIMIT: Final = 20  # of the inbox; what the broker gives up then, goes to the dead queue
# The dead queue must keep what it has: RabbitMQ 4 drops after 20 deliveries unless told otherwise.
_DEAD_DELIVERY_LIMIT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Topology:
    """All broker names of one namespace."""

    namespace: str

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
        inbox = {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self.dead_exchange,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": DELIVERY_LIMIT,
        }
        dead = {"x-queue-type": "quorum", "x-delivery-limit": _DEAD_DELIVERY_LIMIT}
        return {self.inbox_queue: inbox, self.dead_queue: dead}

    async def declare_exchanges(self, session: Session) -> None:
        for name, kind in self.exchanges.items():
            await _Declaration(session).exchange(name, kind)

    async def declare(self, session: Session) -> None:
        """Exchanges, queues and the binding of the dead queue; raises `ConfigurationError` on a mismatch."""
        await self.declare_exchanges(session)
        for name, arguments in self.queues.items():
            await _Declaration(session).queue(name, arguments)
        channel = await session.channel()
        async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
            dead = await channel.get_queue(self.dead_queue, ensure=False)
            await dead.bind(self.dead_exchange)
        await session.close_channel(channel)

    async def bind(self, session: Session, types: Iterable[str]) -> None:
        """Bind the inbox to the events exchange for each type; bindings are never taken away."""
        channel = await session.channel()
        inbox = await channel.get_queue(self.inbox_queue, ensure=False)
        for event_type in sorted(types):
            await inbox.bind(self.events, event_type, timeout=STEP_TIMEOUT_SECONDS)
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
