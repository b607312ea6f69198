"""Deliveries of the inbox and the dead queue, in batches, and their acknowledgement.

Takes what a channel brings (`hot_path`), keeps at most a byte budget in hand (beyond it the socket is left unread),
gives out what is there without waiting for more, and acknowledges only the contiguous prefix of what its user has
stored. Hands batches to `consumer`. What was in hand when a connection ends is forgotten: the broker delivers it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiormq import spec
from aiormq.channel import Channel

from saga_worker.broker.connection import BrokerConnection
from saga_worker.broker.hot_path import Inbound
from saga_worker.broker.session import BROKER_FAULTS, STEP_TIMEOUT_SECONDS, Closure, Session
from saga_worker.broker.topology import Topology
from saga_worker.envelope.delivery import Delivery, Source
from saga_worker.telemetry import Event, Field, metrics

log = logging.getLogger(__name__)

BYTE_BUDGET: Final = 64 * 1024 * 1024
BATCH_BYTES: Final = 8 * 1024 * 1024
WATCHDOG_SECONDS: Final = 15.0
CAREFUL_SECONDS: Final = 300.0
_DELIVERY_OVERHEAD: Final = 1024  # what a small message costs in memory beside its body


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive deliveries of one channel, oldest first."""

    deliveries: Sequence[Delivery]
    session: object

    @property
    def last_tag(self) -> int:
        return self.deliveries[-1].delivery_tag


class Deliveries:
    """The consuming side of one worker. Not for several loops at once: one batch is taken after the other."""

    def __init__(
        self,
        connection: BrokerConnection,
        topology: Topology,
        *,
        prefetch: int = 1000,
        byte_budget: int = BYTE_BUDGET,
        watchdog_seconds: float = WATCHDOG_SECONDS,
        partition: str | None = None,
    ) -> None:
        """`partition`: take from this queue only, which one worker at a time is given deliveries of.

        Otherwise: from the inbox queue, the dead queue and the queues of former partitions.
        """
        self._partition = partition
        self._inbox_queue = partition or topology.inbox_queue
        self._connection = connection
        self._topology = topology
        self._prefetch = prefetch
        self._byte_budget = byte_budget
        self._watchdog_seconds = watchdog_seconds
        self._types: set[str] = set()
        self._is_paused = False
        self._is_stepping_back = False
        self._is_stopping = False
        # After a delivery that cost the connection: one at a time, so that the broker counts the deliveries of no
        # other, until it gives that one up; and none of the dead queue, which keeps what it has for ever.
        self._is_careful = False
        self._careful_until = 0.0
        self._channel: _ConsumingChannel | None = None
        self._arrived = asyncio.Event()
        self._watchdog: asyncio.Task[None] | None = None
        self.backlog_at_connect: int | None = None
        self.connects = 0

    @property
    def is_up(self) -> bool:
        return self._connection.is_up

    @property
    def is_paused(self) -> bool:
        """Paused, and the broker has said that it sends nothing more."""
        return self._is_paused and (self._channel is None or self._channel.is_quiet)

    @property
    def unacknowledged(self) -> int:
        """Deliveries that the broker counts as ours right now."""
        return self._channel.unacknowledged if self._channel is not None else 0

    async def start(self) -> None:
        """Connect and consume; returns after the first attempt. Raises `ConfigurationError`."""
        await self._connection.start(self._open, self._lost)
        self._watchdog = asyncio.create_task(self._watch(), name="delivery watchdog")

    async def close(self) -> None:
        """Stop. What is in hand and not acknowledged goes back to the queue."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._connection.close()
        self._channel = None

    async def bind_types(self, types: Iterable[str]) -> None:
        """Let events of these types into the inbox, now and after every reconnect.

        Register their routes first: a delivery that no route knows is parked.
        """
        new = set(types) - self._types
        self._types |= new
        session = self._connection.session
        if session is not None and new and not self._partition:
            await self._topology.bind(session, new)

    async def next_batch(self, limit: int) -> Batch | None:
        """The oldest deliveries in hand, at most `limit` and some megabytes; waits while there are none.

        None after `stop_waiting`.
        """
        while not self._is_stopping:
            self._arrived.clear()
            if self._is_stepping_back:
                self._is_stepping_back = False
                self.give_back()
            if self._channel is not None and self._channel.in_hand:
                return self._channel.take(limit)
            await self._arrived.wait()
        return None

    def stop_waiting(self) -> None:
        """Give out no further batch."""
        self._is_stopping = True
        self._arrived.set()

    def is_current(self, batch: Batch) -> bool:
        """Whether the connection that brought `batch` still stands."""
        return self._channel is not None and batch.session is self._channel.session

    async def ack(self, batch: Batch) -> None:
        """Everything in `batch` is stored. Nothing happens when its connection is gone: it will come again."""
        if self._channel is not None and self.is_current(batch):
            self._channel.ack(batch)
        else:
            log.debug("a batch is acknowledged after its connection was lost")

    async def pause(self) -> None:
        """Take no more from the queues; what is in hand stays ours. For the time the database is away.

        A partition stays ours as well, and its prefetch may still come in: who stops consuming it hands it to the next
        worker at once, so that younger events overtake those in hand.
        """
        if self._is_paused:
            return
        self._is_paused = True
        if self._channel is not None and self._partition is None:
            await self._channel.cancel()

    async def resume(self) -> None:
        if not self._is_paused:
            return
        self._is_paused = False
        channel = self._channel
        if channel is not None:
            try:
                await channel.consume(self._queues)
            except BROKER_FAULTS as error:
                channel.session.fail(Closure(f"consuming could not begin again: {type(error).__name__}"))

    def give_back(self) -> None:
        """Return everything that is not acknowledged to the queues, by giving up the connection."""
        self._channel = None
        self._connection.reconnect("what is in hand goes back to the queue")

    def step_back(self) -> None:
        """As `give_back`, once the batch that was given out is acknowledged and the next one is asked for."""
        self._is_stepping_back = True
        self._arrived.set()

    async def backlog(self) -> int | None:
        """Messages waiting in the inbox queue (or partition), or None when the broker cannot be asked."""
        channel = self._channel
        return await self._waiting(channel) if channel is not None else None

    @property
    def _queues(self) -> dict[str, Source]:
        if self._partition:
            return {self._partition: Source.INBOX}
        former = dict.fromkeys(self._topology.former_queues, Source.INBOX)
        dead = {} if self._is_careful else {self._topology.dead_queue: Source.DEAD}
        return {**dead, **former, self._inbox_queue: Source.INBOX}

    async def _waiting(self, channel: _ConsumingChannel) -> int | None:
        counts = [await channel.backlog(name) for name, source in self._queues.items() if source is Source.INBOX]
        return None if None in counts else sum(count or 0 for count in counts)

    async def consumer_count(self) -> int:
        """How many take from the inbox queue, this one counted; 0 when the broker cannot be asked."""
        channel = self._channel
        return await channel.consumer_count(self._inbox_queue) if channel is not None else 0

    @property
    def is_served(self) -> bool:
        """Whether something was delivered since the connect: of a partition, that its active consumer is here."""
        return self._channel is not None and self._channel.is_served

    async def _declare(self, session: Session) -> None:
        if self._partition:
            await self._topology.declare_partition(session, self._partition)
        else:
            await self._topology.declare(session)
            await self._topology.bind(session, self._types)

    async def _open(self, session: Session) -> None:
        await self._declare(session)
        prefetch = 1 if self._is_careful else self._prefetch
        channel = await _ConsumingChannel.open(session, prefetch, self._byte_budget, self._arrived)
        self.backlog_at_connect = await self._waiting(channel)
        self.connects += 1
        self._channel = channel
        if not self._is_paused:
            await channel.consume(self._queues)

    def _lost(self, closure: Closure) -> None:
        self._channel = None
        if closure.is_unreadable:
            self._careful_until = asyncio.get_running_loop().time() + CAREFUL_SECONDS
            metrics.unreadable.inc()
            queues = ", ".join(self._queues)
            log.warning(Event.DELIVERY_UNREADABLE, extra={Field.SOURCE: queues, Field.ERROR: closure.text})
            self._is_careful = True

    async def _watch(self) -> None:
        """A consumer can die without a word on a living connection: ask now and then."""
        while True:
            await asyncio.sleep(self._watchdog_seconds)
            channel = self._channel
            if channel is not None and not self._is_paused and not await channel.is_consuming(self._inbox_queue):
                self._connection.reconnect("the consumer is gone")
            if self._is_careful and asyncio.get_running_loop().time() >= self._careful_until:
                self._is_careful = False
                self._connection.reconnect("what could not be read may be gone: all queues again")


class _ConsumingChannel:
    """One channel with its consumers and what they brought; the user of its inbound end."""

    def __init__(self, session: Session, byte_budget: int, arrived: asyncio.Event) -> None:
        self.session = session
        self.in_hand: deque[Delivery] = deque()
        self._byte_budget = byte_budget
        self._arrived = arrived
        self._end: Inbound | None = None
        self._sources: dict[str, Source] = {}  # by consumer tag, former ones too
        self._tags: list[str] = []  # of the living consumers
        self.is_quiet = True  # no consumer, and no delivery on its way
        self._bytes = 0
        self._last_delivered = 0
        self._last_acked = 0
        self._taken: deque[Batch] = deque()  # given out, oldest first
        self._stored: set[int] = set()  # last tags of batches that may be acknowledged

    @classmethod
    async def open(cls, session: Session, prefetch: int, byte_budget: int, arrived: asyncio.Event) -> _ConsumingChannel:
        self = cls(session, byte_budget, arrived)
        self._end = await session.hot_path.inbound(session, self)
        await self._channel.basic_qos(prefetch_count=prefetch, timeout=STEP_TIMEOUT_SECONDS)
        return self

    @property
    def unacknowledged(self) -> int:
        return self._last_delivered - self._last_acked

    @property
    def is_served(self) -> bool:
        return self._last_delivered > 0

    async def consume(self, queues: Mapping[str, Source]) -> None:
        """Start the consumers. Always under new tags: RabbitMQ 3.10 crashes the channel when a quorum queue's tag is
        used again while deliveries to its former consumer are not acknowledged."""
        if self._tags:
            return
        self.is_quiet = False
        for queue, source in queues.items():
            tag = f"{queue}.{len(self._sources)}"
            self._sources[tag] = source
            self._tags.append(tag)
            await self._channel.basic_consume(
                queue, self._inbound.callback, consumer_tag=tag, timeout=STEP_TIMEOUT_SECONDS
            )

    async def cancel(self) -> None:
        """Stop the consumers; a broker that does not answer in time costs the connection."""
        if self._bytes >= self._byte_budget:
            self.session.fail(Closure("there is more in hand than the byte budget, and nowhere to put it"))
            return
        tags, self._tags = self._tags, []
        try:
            for tag in tags:
                await self._channel.basic_cancel(tag, timeout=STEP_TIMEOUT_SECONDS)
            self.is_quiet = not self._tags
        except BROKER_FAULTS:
            self.session.fail(Closure("the consumer could not be cancelled"))

    async def backlog(self, queue: str) -> int | None:
        declared = await self._look_at(queue)
        return declared.message_count if declared is not None else None

    async def consumer_count(self, queue: str) -> int:
        declared = await self._look_at(queue)
        return (declared.consumer_count or 0) if declared is not None else 0

    async def _look_at(self, queue: str) -> spec.Queue.DeclareOk | None:
        try:
            return await self._channel.queue_declare(queue, passive=True, timeout=STEP_TIMEOUT_SECONDS)
        except BROKER_FAULTS:
            return None

    async def is_consuming(self, inbox_queue: str) -> bool:
        if self._bytes >= self._byte_budget:
            return True  # the socket is left unread on purpose: no answer would come
        consumers = self._channel.consumers
        alive = not self._channel.is_closed and bool(self._tags) and all(tag in consumers for tag in self._tags)
        return alive and await self.backlog(inbox_queue) is not None

    def take(self, limit: int) -> Batch:
        deliveries: list[Delivery] = []
        size = 0
        while self.in_hand and len(deliveries) < limit and size < BATCH_BYTES:
            deliveries.append(self.in_hand.popleft())
            size += len(deliveries[-1].body)
        batch = Batch(deliveries, self.session)
        self._taken.append(batch)
        return batch

    def ack(self, batch: Batch) -> None:
        """Acknowledge up to the last batch before which everything is stored (multiple=True covers all below)."""
        self._stored.add(batch.last_tag)
        tag = 0
        while self._taken and self._taken[0].last_tag in self._stored:
            done = self._taken.popleft()
            tag = done.last_tag
            self._stored.discard(tag)
            self._bytes -= sum(_cost(delivery) for delivery in done.deliveries)
        if tag:
            self._inbound.ack_up_to(tag)
            self._last_acked = tag
        if self._bytes < self._byte_budget:
            self.session.tap.go_on_reading()

    def source_of(self, consumer_tag: str) -> Source:
        return self._sources[consumer_tag]

    def delivered(self, delivery: Delivery) -> None:
        if delivery.delivery_tag != self._last_delivered + 1:  # a later ack would cover what is missing
            self.session.fail(Closure(f"a delivery is missing before the one with tag {delivery.delivery_tag}"))
            return
        self._last_delivered = delivery.delivery_tag
        self._bytes += _cost(delivery)
        if self._bytes >= self._byte_budget:
            self.session.tap.stop_reading()
        self.in_hand.append(delivery)
        self._arrived.set()

    def channel_closed(self, code: int, text: str) -> None:
        self.session.fail(Closure(text, code))

    def consumer_cancelled(self) -> None:
        self.session.fail(Closure("the broker cancelled the consumer: a queue was deleted or has moved"))

    @property
    def _inbound(self) -> Inbound:
        assert self._end is not None
        return self._end

    @property
    def _channel(self) -> Channel:
        return self._inbound.channel


def _cost(delivery: Delivery) -> int:
    return len(delivery.body) + _DELIVERY_OVERHEAD
