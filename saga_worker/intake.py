"""The consuming side of one worker: a lane for the queues that all workers share, and one for each partition.

Takes the topology and how a consumer is made; a lane is a connection, a queue and a loop of its own, so that the
deliveries of a partition are stored one batch after the other. Guarantees that queues of a former layout are drained
before those of the present one are begun. Hands what it stores to whom `Consumer` hands it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from saga_worker.broker import BrokerConnection, Deliveries, Topology
from saga_worker.broker.deliveries import BYTE_BUDGET
from saga_worker.consumer import Consumer

BALANCE_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.1

Callback = Callable[[], Awaitable[None]]


class MakeConsumer(Protocol):
    def __call__(self, deliveries: Deliveries, *, on_caught_up: Callback, on_behind: Callback) -> Consumer: ...


class Intake:
    """All lanes of a worker. With one partition there is one lane, and nothing of the rest happens."""

    def __init__(
        self, connect: Callable[[str], BrokerConnection], topology: Topology, make_consumer: MakeConsumer, *,
        prefetch: int, on_caught_up: Callback, on_behind: Callback,
    ) -> None:  # fmt: skip
        """`connect`: makes the connection of a lane, by its name."""
        self._on_caught_up = on_caught_up
        self._on_behind = on_behind
        self._caught_up: set[Deliveries] = set()
        names: list[str | None] = [None, *topology.partition_queues]
        self._lanes: list[tuple[Deliveries, Consumer]] = []
        for number, partition in enumerate(names):
            deliveries = Deliveries(
                connect(f"consumer {number - 1}" if partition else "consumer"), topology,
                prefetch=max(1, prefetch // topology.partitions), byte_budget=BYTE_BUDGET // len(names),
                partition=partition,
            )  # fmt: skip
            self._lanes.append((deliveries, self._consumer(deliveries, make_consumer)))
        self._consuming: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._is_stopping = False

    @property
    def deliveries(self) -> Deliveries:
        """Of the queues that all workers share."""
        return self._lanes[0][0]

    @property
    def partitions(self) -> list[Deliveries]:
        return [deliveries for deliveries, _ in self._lanes[1:]]

    @property
    def consumer(self) -> Consumer:
        return self._lanes[0][1]

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that never end by themselves."""
        return [*self._consuming, *([self._opening] if self._opening is not None else [])]

    @property
    def is_up(self) -> bool:
        return all(deliveries.is_up for deliveries, _ in self._lanes)

    @property
    def is_caught_up(self) -> bool:
        """As much is stored as all queues held when they were connected to."""
        return len(self._caught_up) == len(self._lanes)

    async def start(self, types: Iterable[str]) -> None:
        """Connect and consume; partitions follow in the background. Raises `ConfigurationError`."""
        await self.deliveries.bind_types(types)
        await self.deliveries.start()
        self._run(self.consumer)
        if len(self._lanes) > 1:
            self._opening = asyncio.create_task(self._open_partitions(), name="partitions")

    async def stop(self) -> None:
        """Take nothing more; the batches in hand are stored and acknowledged, the rest goes back."""
        self._is_stopping = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        await asyncio.gather(*(consumer.stop() for _, consumer in self._lanes))
        if self._consuming:
            await asyncio.wait(self._consuming)
        await asyncio.gather(*(deliveries.close() for deliveries, _ in self._lanes))

    def _run(self, consumer: Consumer) -> None:
        self._consuming.append(asyncio.create_task(consumer.run(), name="consumer"))

    async def _open_partitions(self) -> None:
        await self._until_drained()
        for deliveries, consumer in self._lanes[1:]:
            await deliveries.start()
            self._run(consumer)
        while not self._is_stopping:
            await asyncio.sleep(BALANCE_SECONDS * random.uniform(0.7, 1.3))
            await self._balance()

    async def _until_drained(self) -> None:
        """What stands in the queues of a former layout is older. Twice empty: the first time it may be on its way."""
        empty_looks = 0
        while empty_looks < 2:
            is_empty = await self.deliveries.backlog() == 0 and self.deliveries.unacknowledged == 0
            empty_looks = empty_looks + 1 if is_empty else 0
            await asyncio.sleep(LOOK_SECONDS)

    async def _balance(self) -> None:
        """Step back from a partition when this worker is given more than its share of them.

        The first worker to come is given all. Who gives up a connection goes to the end of the line, and what was in
        its hands is delivered first to the next: as after a crash, so order holds. The batch that is being stored is
        finished first, so that nobody else stores the same rows beside it.
        """
        served = [deliveries for deliveries in self.partitions if deliveries.is_served]
        if len(served) < 2:
            return
        workers = await self.deliveries.consumer_count()  # of a queue with one active consumer only that one counts
        if workers and len(served) > math.ceil((len(self._lanes) - 1) / workers):
            random.choice(served).step_back()

    # -- what has been stored ---------------------------------------------------------------------------------------

    def _consumer(self, deliveries: Deliveries, make: MakeConsumer) -> Consumer:
        async def caught_up() -> None:
            self._caught_up.add(deliveries)
            if self.is_caught_up:
                await self._on_caught_up()

        async def behind() -> None:
            was_caught_up = self.is_caught_up
            self._caught_up.discard(deliveries)
            if was_caught_up:
                await self._on_behind()

        return make(deliveries, on_caught_up=caught_up, on_behind=behind)
