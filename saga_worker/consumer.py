"""Deliveries to stored inbox rows: batch → rows → one transaction → commit → ack.

Takes batches from `broker.Deliveries`; guarantees that nothing is acknowledged before the transaction that stores it
has committed, and that a batch is stored whatever is in it: what cannot be written is found by halving and kept as
a dead letter without the field that hurts. Hands the refs of the stored sagas to the pool.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from saga_worker import backoff, inbox, routes
from saga_worker.broker import Batch, Deliveries
from saga_worker.envelope import Delivery, EnvelopeLimits, Source, read, unstorable
from saga_worker.faults import fault_point
from saga_worker.inbox import NewRow, Verdict
from saga_worker.orchestrator import Advanced, TakenIn, name_consumers
from saga_worker.routes import RouteTable
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.rows import RowState
from saga_worker.sql.connection import Connection, Database, UnknownCommit, describe, is_transient
from saga_worker.telemetry import Event, Field, metrics, stage_failed

log = logging.getLogger(__name__)

HOLD_SECONDS: Final = 300.0  # deliveries wait in hand for the database; the broker's own limit is 30 minutes
_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 0.2


TakeIn = Callable[[Sequence[NewRow], frozenset[UUID]], Awaitable[TakenIn]]


class Consumer:
    """The stage between the queues and the inbox; one loop, one batch at a time, so that order is kept."""

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        *,
        limits: EnvelopeLimits | None = None,
        batch_size: int = 200,
        on_stored: Callable[[Sequence[UUID]], None] = lambda refs: None,
        on_caught_up: Callable[[], Awaitable[None]] | None = None,
        on_behind: Callable[[], Awaitable[None]] | None = None,
        take_in: TakeIn | None = None,
        on_taken_in: Callable[[Advanced], None] = lambda advanced: None,
        reread: Callable[[], None] = lambda: None,
        hold_seconds: float = HOLD_SECONDS,
        turns: asyncio.Semaphore | None = None,
    ) -> None:
        """`on_caught_up`: as much is stored as the queue held at the connect. `on_behind`: the connection is lost.

        With `take_in` (the fast path) a batch is stored and applied in one transaction; what that did is handed to
        `on_taken_in` after the acknowledgement. Without it every row is stored ready. Consumers that share `turns`
        take turns in the database.
        """
        self._database = database
        self._deliveries = deliveries
        self._limits = limits or EnvelopeLimits()
        self._batch_size = batch_size
        self._on_stored = on_stored
        self._take_in = take_in
        self._on_taken_in = on_taken_in
        self._reread = reread
        self._hold_seconds = hold_seconds
        self._turns = turns or asyncio.Semaphore()
        self._shown = 0  # of the gauge, which is of all consumers
        self._routes = RouteTable(-1)
        self._stopping = asyncio.Event()
        self._progress = _Progress(deliveries, on_caught_up, on_behind)

    @property
    def is_caught_up(self) -> bool:
        return self._progress.is_caught_up

    async def run(self) -> None:
        """Store until `stop`."""
        watch = asyncio.create_task(self._progress.watch(), name="consumer progress")
        try:
            while (batch := await self._deliveries.next_batch(self._batch_size)) is not None:
                await self._take(batch)
        finally:
            while not watch.done():  # once may not do: wait_for of Python 3.11 swallows what meets an answer
                watch.cancel()
                await asyncio.wait({watch}, timeout=_WATCH_SECONDS)

    async def stop(self) -> None:
        """Take nothing more; `run` ends when the batch in hand is stored. What is behind it goes back."""
        self._stopping.set()
        await self._deliveries.pause()
        self._deliveries.stop_waiting()

    async def _take(self, batch: Batch) -> None:
        """Store one batch, then acknowledge it: never the other way round."""
        try:
            fault_point("consumer.before_insert")
            stored = await self._store(batch.deliveries)
        except Exception as error:
            stage_failed(log, "consumer", describe(error), level=logging.ERROR, trace=True)
            await self._give_back()
            return
        if stored is None:
            await self._give_back()
            return
        fault_point("consumer.stored_before_ack")
        await self._deliveries.ack(batch)
        fault_point("consumer.acknowledged")
        self._progress.note(batch)
        unacknowledged = self._deliveries.unacknowledged
        metrics.unacknowledged.inc(unacknowledged - self._shown)
        self._shown = unacknowledged
        for advanced in stored.advanced:
            self._on_taken_in(advanced)
        if stored.refs:
            self._on_stored(list(stored.refs))

    async def _give_back(self) -> None:
        """The broker keeps what we cannot; slowly, so that it does not come back in a storm."""
        self._deliveries.give_back()
        await self._sleep(_LONGEST_DELAY_SECONDS)
        await self._resume()

    async def _store(self, deliveries: Sequence[Delivery]) -> _Stored | None:
        """Write the rows, however long the database is away; None: given up, after the time limit or a stop."""
        failures = 0
        is_fast = self._take_in is not None
        give_up_at = asyncio.get_running_loop().time() + self._hold_seconds
        while True:
            try:
                async with self._turns:
                    stored = await (self._take_in_once(deliveries) if is_fast else self._store_once(deliveries))
            except LeaseLost:
                is_fast = False  # somebody was quicker: the pool looks again
                continue
            except UnknownCommit:
                is_fast = False  # what was written, if anything, is known again by its keys
                self._reread()
                continue
            except Exception as error:
                if is_fast and not is_transient(error):
                    is_fast = False  # a write of some saga is refused: the pool finds out which
                    continue
                if not is_transient(error):
                    return await self._store_apart(deliveries, error)
                failures += 1
                await self._wait_for_database(error, failures)
                if self._stopping.is_set() or asyncio.get_running_loop().time() > give_up_at:
                    return None
                continue
            if failures > 1:
                log.info(Event.DATABASE_BACK, extra={Field.STAGE: "consumer"})
                await self._resume()
            return stored

    async def _wait_for_database(self, error: Exception, failures: int) -> None:
        """The first failure may be a deadlock; from the second on the queues are left alone."""
        metrics.transaction_retries.labels(type(error).__name__).inc()
        if failures == 2:
            log.warning(Event.DATABASE_LOST, extra={Field.STAGE: "consumer", Field.ERROR: describe(error)})
            await self._deliveries.pause()
        longest = backoff.delay(failures, first=_FIRST_DELAY_SECONDS, longest=_LONGEST_DELAY_SECONDS)
        await self._sleep(longest * random.uniform(0.5, 1.0))

    async def _resume(self) -> None:
        if not self._stopping.is_set():
            await self._deliveries.resume()

    async def _take_in_once(self, deliveries: Sequence[Delivery]) -> _Stored:
        """Store and apply. The routes are looked at after the batch is in hand: a route is older than its binding."""
        assert self._take_in is not None
        async with self._database.autocommit() as connection:
            rows = await self._rows(connection, deliveries)
        redelivered = [delivery for delivery in deliveries if delivery.redelivered]
        apart = frozenset(row.ref for row in self._read(redelivered) if row.ref is not None)
        taken = await self._take_in(rows, apart)
        _count(rows, taken.inserted)
        return _Stored(set(taken.later), [taken.advanced])

    async def _store_once(self, deliveries: Sequence[Delivery]) -> _Stored:
        async with self._database.transaction() as connection:
            rows = await self._rows(connection, deliveries)
            await name_consumers(connection, rows, {})
            inserted = await inbox.insert(connection, rows)
            fault_point("consumer.before_commit")
        _count(rows, inserted)
        return _Stored({ref for ref, _ in inserted.new if ref is not None})

    async def _rows(self, connection: Connection, deliveries: Sequence[Delivery]) -> list[NewRow]:
        """The rows of a batch by the routes as they are now."""
        if await routes.revision(connection) != self._routes.rev:
            self._routes = await routes.load(connection)
            log.info(Event.ROUTES_CHANGED, extra={Field.COUNT: len(self._routes.by_type)})
        return self._read(deliveries)

    def _read(self, deliveries: Sequence[Delivery]) -> list[NewRow]:
        return [row for delivery in deliveries for row in read(delivery, self._routes, self._limits)]

    async def _store_apart(self, deliveries: Sequence[Delivery], error: Exception) -> _Stored | None:
        """Halve until the one that cannot be written is alone, in the order of arrival."""
        if len(deliveries) == 1:
            return await self._store_unstorable(deliveries[0], error)
        middle = len(deliveries) // 2
        whole = _Stored(set())
        for half in (deliveries[:middle], deliveries[middle:]):
            stored = await self._store(half)
            if stored is None:
                return None
            whole.refs |= stored.refs
            whole.advanced += stored.advanced
        return whole

    async def _store_unstorable(self, delivery: Delivery, error: Exception) -> _Stored:
        row = unstorable(delivery, describe(error), self._limits)
        log.error(Event.DELIVERY_REFUSED, extra={Field.REASON: row.reason, Field.ERROR: describe(error)})
        async with self._database.transaction() as connection:
            inserted = await inbox.insert(connection, [row])
        _count([row], inserted)
        return _Stored(set())

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


@dataclass(slots=True)
class _Stored:
    """What became of a batch: the sagas whose rows wait for the pool, and what was applied at once."""

    refs: set[UUID]
    advanced: list[Advanced] = field(default_factory=list)


class _Progress:
    """Whether everything that waited in the queue when the connection was made is stored.

    Until then replies may be waiting there, and no reply time-out should fire.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        on_caught_up: Callable[[], Awaitable[None]] | None,
        on_behind: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._deliveries = deliveries
        self._on_caught_up = on_caught_up
        self._on_behind = on_behind
        self._connect = 0
        self._stored = 0
        self._empty_looks = 0
        self.is_caught_up = False

    def note(self, batch: Batch) -> None:
        if self._connect == self._deliveries.connects and self._deliveries.is_current(batch):
            self._stored += sum(delivery.queue is Source.INBOX for delivery in batch.deliveries)

    async def watch(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:
                stage_failed(log, "consumer_progress", describe(error))
            await asyncio.sleep(_WATCH_SECONDS)

    async def _look(self) -> None:
        is_new = self._deliveries.connects != self._connect
        if self.is_caught_up and (is_new or not self._deliveries.is_up):
            if self._on_behind is not None:
                await self._on_behind()
            self.is_caught_up = False
        if is_new:
            self._connect, self._stored, self._empty_looks = self._deliveries.connects, 0, 0
        if not self.is_caught_up and self._deliveries.is_up and await self._has_caught_up():
            if self._on_caught_up is not None:
                await self._on_caught_up()
            self.is_caught_up = True

    async def _has_caught_up(self) -> bool:
        at_connect = self._deliveries.backlog_at_connect
        if at_connect is not None and self._stored >= at_connect:
            return True
        # Other workers share the queue: it is empty before this one has seen as many. Twice in a row: the first
        # time what was in it may be on its way to us.
        is_empty = await self._deliveries.backlog() == 0 and self._deliveries.unacknowledged == 0
        self._empty_looks = self._empty_looks + 1 if is_empty else 0
        return self._empty_looks >= 2


def _count(rows: Sequence[NewRow], inserted: inbox.Inserted) -> None:
    metrics.duplicates.inc(inserted.duplicates)
    received: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row, outcome in zip(rows, inserted.outcomes, strict=True):
        if outcome.verdict is Verdict.DUPLICATE:
            continue
        received[row.consumer] += 1
        reason = "id_reused" if outcome.verdict is Verdict.ID_REUSED else row.reason
        if reason is not None and (row.state is RowState.DEAD or outcome.verdict is Verdict.ID_REUSED):
            metrics.dead.labels(row.consumer, reason).inc()
            refused[reason] += 1
    for consumer, count in received.items():
        metrics.received.labels(consumer).inc(count)
    for reason, count in refused.items():
        log.warning(Event.DELIVERY_REFUSED, extra={Field.REASON: reason, Field.COUNT: count})
