"""Committed messages to the broker: publish from memory, delete what is confirmed, take over what is left behind.

Takes rows right after their commit; guarantees that a row is deleted only after the broker has confirmed it, that
first copies of one saga reach one destination in order, and that a resend has the same id and bytes. Rows leave
the memory in three ways: confirmed and deleted, released at the end, or dropped because the lease was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, assert_never
from uuid import UUID

from saga_worker import backoff, outbox
from saga_worker.broker import Confirmed, Invalid, Outcome, Outgoing, Publisher, Unknown, Unroutable
from saga_worker.envelope import Properties, load_properties
from saga_worker.faults import fault_point
from saga_worker.outbox import Key, OutboxRow
from saga_worker.outbox_relay.lanes import LaneKey, Lanes, Message
from saga_worker.saga.trace import stored_trace
from saga_worker.sql.connection import Database, describe
from saga_worker.telemetry import Event, Field, metrics, stage_failed

log = logging.getLogger(__name__)

INVALID: Final = "invalid:"  # how `last_error` of a message begins that can never be sent
_PUBLISHED: Final = {
    kind: metrics.published.labels(kind.__name__.lower()) for kind in (Confirmed, Unroutable, Unknown, Invalid)
}
_TEN_YEARS: Final = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class RelayTimes:
    """All in seconds. Refused messages are tried again after `first_delay`, doubled each time up to `last_delay`."""

    settle: float = 0.02  # confirmed rows are deleted, and waiting lanes looked at, this often
    idle: float = 0.2  # the same when nothing but refused messages is left
    take_over: float = 1.0
    reread: float = 5.0
    first_delay: float = 1.0
    last_delay: float = 30.0
    failed_pass: float = 0.5


MOST_IN_MEMORY: Final = 20_000  # beyond it rows stay in the table until there is room
MOST_SENDING: Final = 2000
MOST_DELETED: Final = 2000
TAKE_OVER_ROWS: Final = 500


class OutboxRelay:
    """The stage behind the outbox table."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        worker_id: Callable[[], int],
        on_undeliverable: Callable[[UUID, str], None] = lambda ref, destination: None,
        on_delivered: Callable[[UUID, str], None] = lambda ref, destination: None,
        times: RelayTimes | None = None,
        most_in_memory: int = MOST_IN_MEMORY,
    ) -> None:
        """`on_undeliverable` is called once per message in this process, when it is first refused or is invalid;
        `on_delivered` when a message is out that was refused before."""
        self._database = database
        self._publisher = publisher
        self._worker_id = worker_id
        self._on_undeliverable = on_undeliverable
        self._on_delivered = on_delivered
        self._times = times or RelayTimes()
        self._most_in_memory = most_in_memory
        self._loop = asyncio.get_running_loop()
        self._lanes = Lanes()
        self._overflow = 0  # rows that were handed over and left in the table, since memory last held all
        self._handed_over: set[Key] | None = None  # while the table is read: what came meanwhile
        self._confirmed: set[Key] = set()  # to be deleted
        self._postponed: list[tuple[Key, str, float]] = []  # to be noted in the table
        self._work = asyncio.Event()
        self._reread_now = asyncio.Event()
        self._is_hurried = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def in_memory(self) -> int:
        """Messages that are committed and not confirmed, as far as this process knows."""
        return len(self._lanes)

    async def start(self) -> None:
        """Begin with what this worker and dead ones have left."""
        for work in (self._settle_repeatedly, self._take_over_repeatedly, self._reread_repeatedly):
            self._tasks.append(asyncio.create_task(work(), name=f"relay {work.__name__}"))

    def hand_over(self, rows: Sequence[OutboxRow], held: AbstractSet[LaneKey] = frozenset()) -> None:
        """Publish rows that this worker has just committed; `held`: where other workers had older ones."""
        if self._overflow or len(self._lanes) + len(rows) > self._most_in_memory:
            self._overflow += len(rows)  # the order of a lane is kept: nothing passes what stayed in the table
            return
        # A resend whose first copy is confirmed but not yet deleted: its row must outlive that deletion.
        self._confirmed.difference_update(row.key for row in rows)
        if self._handed_over is not None:
            self._handed_over.update(row.key for row in rows)
        self._lanes.add(rows, held, self._loop.time())
        self._work.set()
        self._pump()

    def reread(self) -> None:
        """Look for rows of this worker that are not in memory: after a COMMIT whose outcome is unknown."""
        self._reread_now.set()

    def drop_memory(self) -> None:
        """The lease was lost: others take the rows over. What is on the wire can only become a second copy."""
        self._lanes.clear()
        self._confirmed.clear()
        self._postponed.clear()
        self._overflow = 0
        self._reread_now.set()

    async def stop(self, grace_seconds: float) -> None:
        """Send what can be sent in the time given, delete what is confirmed, and give up the rest to the others."""
        if not self._tasks:
            return
        settling, *others = self._tasks
        for task in others:
            await _cancelled(task)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                # Broker and database both have a say: no one event to wait for.
                while self._can_still_send():  # noqa: ASYNC110
                    await asyncio.sleep(self._times.settle)
        await _cancelled(settling)
        self._tasks.clear()
        await self._survive(self._release)
        self._lanes.clear()

    def hurry(self) -> None:
        """`stop` gives up what is not sent at once, now or when it comes."""
        self._is_hurried = True

    def _can_still_send(self) -> bool:
        if self._is_hurried:
            return False
        return bool(self._confirmed) or (self._publisher.is_up and self._lanes.can_move(self._loop.time()))

    async def _release(self) -> None:
        async with self._database.autocommit() as connection:
            await outbox.delete(connection, self._confirmed, owner=self._worker_id())
            await outbox.release(connection, self._worker_id())

    def _pump(self) -> None:
        """Put on the wire whatever may go now; while the broker is away, rows wait in their lanes."""
        if not self._publisher.is_up or not self._lanes.has_ready:
            return
        fault_point("relay.before_publish")
        rows = self._lanes.take_ready(self._loop.time(), MOST_SENDING - self._lanes.sending)
        messages: list[Outgoing] = []
        for row in rows:
            try:
                messages.append(_outgoing(row))
            except (ValueError, TypeError) as error:
                self._loop.call_soon(self._note_unreadable, row, type(error).__name__)
        self._publisher.submit(messages, self._on_outcome)
        metrics.outbox_in_memory.set(len(self._lanes))
        fault_point("relay.published")

    def _note_unreadable(self, row: OutboxRow, error: str) -> None:
        message = self._lanes.refused(row.message_id)
        if message is not None:
            self._note_refused(message, Invalid(f"its properties cannot be read ({error})"))

    def _on_outcome(self, sent: Outgoing, outcome: Outcome) -> None:
        message_id = sent.properties.message_id or ""
        _PUBLISHED[type(outcome)].inc()
        if isinstance(outcome, Confirmed):
            self._note_confirmed(message_id)
        else:
            message = self._lanes.refused(message_id)
            if message is not None:
                self._note_refused(message, outcome)
        self._work.set()

    def _note_confirmed(self, message_id: str) -> None:
        message = self._lanes.confirmed(message_id)
        if message is None:
            return
        self._confirmed.add(message.row.key)
        if message.attempts or message.is_reported:
            self._on_delivered(message.row.ref, message.row.destination)
        if self._lanes.has_ready:
            self._pump()

    def _note_refused(self, message: Message, outcome: Unroutable | Unknown | Invalid) -> None:
        match outcome:
            case Unknown():
                message.unknowns += 1
                message.not_before = self._loop.time() + backoff.delay(message.unknowns, first=0.2, longest=5.0)
            case Unroutable():
                message.attempts += 1
                delay = backoff.delay(message.attempts, first=self._times.first_delay, longest=self._times.last_delay)
                self._postpone(message, outcome.error, delay)
            case Invalid():
                self._postpone(message, f"{INVALID} {outcome.error}", _TEN_YEARS)
            case _ as never:
                assert_never(never)

    def _postpone(self, message: Message, error: str, delay: float) -> None:
        message.not_before = self._loop.time() + delay
        self._postponed.append((message.row.key, error, delay))
        if not message.is_reported:
            message.is_reported = True
            log.warning(Event.OUTBOX_REFUSED, extra=_fields(message.row, error))
            self._on_undeliverable(message.row.ref, message.row.destination)

    async def _settle_repeatedly(self) -> None:
        while True:
            await self._work.wait()
            busy = self._confirmed or self._lanes.sending or self._lanes.has_ready or self._lanes.behind_others()
            await asyncio.sleep(self._times.settle if busy else self._times.idle)
            await self._survive(self._settle_pass)
            if not (self._lanes or self._confirmed or self._postponed):
                self._work.clear()

    async def _settle_pass(self) -> None:
        """What has happened since the last pass goes to the table; what may go on, goes on."""
        await self._delete_confirmed()
        await self._write_postponed()
        await self._ask_about_others()
        self._lanes.wake(self._loop.time())
        self._pump()
        if self._overflow and self._publisher.is_up and len(self._lanes) <= self._most_in_memory // 2:
            self._reread_now.set()

    async def _delete_confirmed(self) -> None:
        while self._confirmed:
            keys = set(list(self._confirmed)[:MOST_DELETED])
            fault_point("relay.confirmed")
            async with self._database.autocommit() as connection:
                await outbox.delete(connection, keys, owner=self._worker_id())
            self._confirmed -= keys
            fault_point("relay.deleted")

    async def _write_postponed(self) -> None:
        groups: dict[tuple[str, float], list[Key]] = defaultdict(list)
        noted = len(self._postponed)
        for key, error, delay in self._postponed:
            groups[error, delay].append(key)
        for (error, delay), keys in groups.items():
            async with self._database.autocommit() as connection:
                await outbox.postpone(connection, keys, self._worker_id(), error, delay)
        del self._postponed[:noted]

    async def _ask_about_others(self) -> None:
        refs = self._lanes.behind_others()
        if refs:
            async with self._database.autocommit() as connection:
                oldest = await outbox.oldest_foreign(connection, sorted(refs), self._worker_id())
            self._lanes.asked(refs, oldest)

    async def _take_over_repeatedly(self) -> None:
        while True:
            await self._survive(self.take_over_pass)
            await asyncio.sleep(self._times.take_over)

    async def take_over_pass(self) -> int:
        """Make rows of ended workers ours and publish them; how many."""
        async with self._database.transaction() as connection:
            rows = await outbox.take_over(connection, self._worker_id(), TAKE_OVER_ROWS)
        if rows:
            fault_point("relay.taken_over")
            log.info(Event.OUTBOX_TAKEN_OVER, extra={Field.COUNT: len(rows)})
            self._add_from_table(rows)
        return len(rows)

    async def _reread_repeatedly(self) -> None:
        while True:
            await self._survive(self.reread_pass)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.reread):
                    await self._reread_now.wait()
            self._reread_now.clear()

    async def reread_pass(self) -> None:
        """Bring memory and table together: what a lost answer hid, what an operator changed, what is not ours."""
        owner, before, overflow = self._worker_id(), self._lanes.keys, self._overflow
        self._handed_over = set(self._confirmed)  # they may be deleted before the answer is here
        try:
            async with self._database.autocommit() as connection:
                rows = await outbox.mine(connection, owner, limit=self._most_in_memory)
            if owner != self._worker_id():
                return
            is_whole = len(rows) < self._most_in_memory
            covered = before if is_whole else {key for key in before if key <= rows[-1].key}
            self._lanes.reschedule(rows, self._loop.time())
            self._lanes.drop(covered - {row.key for row in rows})
            past = before | self._handed_over | self._confirmed
            self._add_from_table([row for row in rows if row.key not in past])
            if is_whole and self._overflow == overflow:
                self._overflow = 0
        finally:
            self._handed_over = None

    def _add_from_table(self, rows: Iterable[OutboxRow]) -> None:
        rows = [row for row in rows if row.key not in self._lanes]
        if rows:
            self._lanes.add(rows, {(row.ref, row.destination) for row in rows}, self._loop.time())
            self._work.set()

    async def _survive(self, step: Callable[[], Awaitable[object]]) -> None:
        """One pass of a loop that must go on whatever happens."""
        try:
            await step()
        except Exception as error:
            stage_failed(log, "relay", describe(error))
            await asyncio.sleep(self._times.failed_pass)


def _outgoing(row: OutboxRow) -> Outgoing:
    properties = Properties(**row.properties) if row.properties is not None else load_properties(row.props)
    return Outgoing(row.exchange, row.routing_key, row.body, properties, row.mandatory)


def _fields(row: OutboxRow, error: str) -> dict[str, object]:
    fields: dict[str, object] = {
        Field.MESSAGE_ID: row.message_id, Field.DESTINATION: row.destination, Field.ERROR: error,
    }  # fmt: skip
    if (trace := stored_trace(row.props)) is not None:
        fields[Field.TRACE_ID] = trace.id
    return fields


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
