"""Workers drain the inbox: wake → claim sagas → advance them → hand over → next.

Takes refs from whoever stored something and, as a net, from the claim that laps over all ready rows. Guarantees
that a failing batch is taken apart until only the guilty saga waits, and that no neighbour pays. Hands the
committed messages to the relay.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from saga_worker import backoff, inbox, outbox, workers
from saga_worker.orchestrator import Advanced, Orchestrator
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.instance import Instance
from saga_worker.saga.rows import RowChange, RowState
from saga_worker.sql.connection import Database, UnknownCommit, describe, is_transient
from saga_worker.telemetry import Event, Field, metrics, stage_failed
from saga_worker.workers import Intent

log = logging.getLogger(__name__)

NOT_LOADED_SECONDS: Final = 5.0  # a saga whose version is not loaded here is left to others for so long
START: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    batch_size: int = 200  # sagas per transaction
    concurrency: int = 2  # transactions at a time
    poll_seconds: float = 1.0  # between laps of the claim when nothing wakes the pool


class InboxPool:
    """Drains the inbox in `concurrency` loops that share one set of refs to look at."""

    def __init__(
        self,
        database: Database,
        orchestrator: Orchestrator,
        settings: PoolSettings,
        *,
        definitions: Sequence[str],
        worker_id: Callable[[], int],
        hand_over: Callable[[Sequence[outbox.OutboxRow], set[tuple[UUID, str]]], None],
        reread: Callable[[], None],
        on_own_work: Callable[[Advanced], None] = lambda advanced: None,
    ) -> None:
        """`on_own_work` takes what a commit wants from activities and local steps."""
        self._database = database
        self._orchestrator = orchestrator
        self._settings = settings
        self._definitions = list(definitions)
        self._worker_id = worker_id
        self._hand_over = hand_over
        self._reread = reread
        self._on_own_work = on_own_work
        self._wanted: dict[UUID, None] = {}
        self._in_hand: set[UUID] = set()
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._skip_until: dict[UUID, float] = {}
        self._look_at = 0.0  # when the next claim is due
        self._cursor: UUID = UUID(int=random.getrandbits(128))
        self.loops: list[asyncio.Task[None]] = []
        self._later: set[asyncio.TimerHandle] = set()
        self.applied = 0

    # -- the life of the pool -------------------------------------------------------------------------------------

    def start(self) -> None:
        self.loops = [
            asyncio.create_task(self._drain(slot), name=f"inbox pool {slot}")
            for slot in range(self._settings.concurrency)
        ]

    async def stop(self) -> None:
        """Claim nothing more; finish the transactions that run."""
        self._stopping.set()
        self._awake.set()
        if self.loops:
            await asyncio.wait(self.loops)
        for handle in self._later:
            handle.cancel()

    def wake(self, refs: Iterable[UUID]) -> None:
        """These sagas may have something to do."""
        self._wanted.update(dict.fromkeys(refs))
        if self._wanted:
            self._awake.set()

    def look(self) -> None:
        """Some saga may have something to do: claim at once instead of at the next poll."""
        self._look_at = min(self._look_at, self._now())
        self._awake.set()

    # -- draining -------------------------------------------------------------------------------------------------

    async def _drain(self, slot: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._awake.clear()  # before looking: what is stored from now on wakes us again
                refs = await self._find()
                if refs:
                    await self.advance(refs, slot=slot)
                else:
                    await self._sleep()
                failures = 0
            except Exception as error:
                failures += 1
                stage_failed(log, "inbox_pool", describe(error), attempt=failures)
                await self._pause(backoff.delay(failures, first=0.2, longest=5.0) * random.uniform(0.5, 1.0))

    async def _find(self) -> list[UUID]:
        """Wanted sagas first; the claim when its time has come, and before them when it is overdue."""
        overdue = self._now() - self._look_at
        refs = self._take() if overdue < self._settings.poll_seconds else []
        if not refs and overdue >= 0:
            # Before looking: whoever says meanwhile that there is something brings the next look forward.
            self._look_at = self._now() + self._settings.poll_seconds * random.uniform(0.8, 1.2)
            looks_again = True  # also after a failure, so that failures in a row are counted as such
            try:
                refs = await self._claim()
                looks_again = bool(refs)
            finally:
                if looks_again:
                    self._look_at = min(self._look_at, self._now())
        return refs or self._take()

    def _take(self) -> list[UUID]:
        """Up to a batch of wanted refs that nobody of this process has in hand."""
        refs = [ref for ref in self._wanted if ref not in self._in_hand][: self._settings.batch_size]
        for ref in refs:
            del self._wanted[ref]
        return refs

    async def _claim(self) -> list[UUID]:
        """The net under the wake-ups: the next sagas with ready rows. None only after a whole lap without any."""
        now = self._now()
        self._skip_until = {ref: until for ref, until in self._skip_until.items() if until > now}
        laps_ended = 0
        while laps_ended < 2 and not self._stopping.is_set():
            async with self._database.transaction() as connection:
                claimed = await inbox.claim(connection, self._cursor, self._definitions, self._settings.batch_size)
            self._cursor = START if claimed.lap_ended else claimed.cursor
            laps_ended += claimed.lap_ended
            refs = [ref for ref in claimed.refs if ref not in self._in_hand and ref not in self._skip_until]
            if refs:
                return refs
        return []

    async def _sleep(self) -> None:
        """Until something wakes the pool, at most until the next look."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._look_at - self._now())):
                await self._awake.wait()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # -- one batch --------------------------------------------------------------------------------------------------

    async def advance(self, refs: Sequence[UUID], *, slot: int, from_timers: bool = False) -> None:
        """Run one batch to its end, whatever it takes; refs that could not be looked at are wanted again."""
        refs = [ref for ref in refs if ref not in self._in_hand]
        self._in_hand.update(refs)
        try:
            await self._advance_or_split(refs, slot, from_timers)
        except BaseException:
            self.wake(refs)
            raise
        finally:
            self._in_hand.difference_update(refs)
            if self._wanted:
                self._awake.set()

    async def _advance_or_split(self, refs: Sequence[UUID], slot: int, from_timers: bool) -> None:
        try:
            await self._commit(refs, slot, from_timers=from_timers)
        except LeaseLost:
            self._want_soon(refs)
        except UnknownCommit:
            self._reread()
            self._want_soon(refs)
        except Exception as error:
            if is_transient(error):
                raise
            await self._isolate(refs, slot, from_timers, error)

    async def _isolate(self, refs: Sequence[UUID], slot: int, from_timers: bool, error: Exception) -> None:
        """A write that the database refuses is bisected; the one saga that is left pays with its first row."""
        if len(refs) > 1:
            half = len(refs) // 2
            await self._advance_or_split(refs[:half], slot, from_timers)
            await self._advance_or_split(refs[half:], slot, from_timers)
            return
        stage_failed(log, "inbox_pool", describe(error), level=logging.ERROR, ref=refs[0])
        advanced = await self._run_alone(refs[0], slot, from_timers, write_error=None)
        if advanced is None:
            await self._commit(refs, slot, from_timers=from_timers, alone=True, write_error=describe(error))

    async def _run_alone(self, ref: UUID, slot: int, from_timers: bool, *, write_error: str | None) -> Advanced | None:
        """The first row only; None when even that cannot be written."""
        try:
            return await self._commit([ref], slot, from_timers=from_timers, alone=True, write_error=write_error)
        except Exception as error:
            if is_transient(error) or isinstance(error, (LeaseLost, UnknownCommit)):
                raise
            return None  # the saga's first row pays for it, with the error that is logged already

    async def _commit(
        self, refs: Sequence[UUID], slot: int, *, from_timers: bool = False, alone: bool = False,
        write_error: str | None = None,
    ) -> Advanced:  # fmt: skip
        """One transaction; afterwards the relay has its messages and the pool what is left to do."""

        announce = partial(self.announce, slot)
        started = time.perf_counter()
        try:
            advanced = await self._orchestrator.advance(
                refs, announce=announce, alone=alone, from_timers=from_timers, write_error=write_error
            )
        except BaseException:
            if alone:  # whatever this process dies of from now on, it is not this row or timer
                await announce(Intent())
            raise
        metrics.transaction_seconds.labels("timers" if from_timers else "inbox").observe(time.perf_counter() - started)
        self.follow_up(advanced)
        self._want_soon(advanced.busy)
        # After the follow-up: a connection that is lost here must not keep what was committed from being sent. What is
        # left to do may be taken up by another worker, who must not think that this one died of it.
        if alone or from_timers or _left_ready(advanced):
            await announce(Intent())
        if not alone:
            for ref in advanced.suspects:
                await self._commit([ref], slot, alone=True)
        return advanced

    async def announce(self, slot: int, intent: Intent) -> None:
        """Leave word of what this process may die of next; each transaction at a time has a slot of its own."""
        async with self._database.autocommit() as connection:
            await workers.write_intent(connection, self._worker_id(), slot, intent)

    def follow_up(self, advanced: Advanced) -> None:
        """After a commit, by whoever made it: its messages go to the relay, what it left to do is wanted."""
        _count(advanced)
        self._hand_over(advanced.outgoing, advanced.held_back)
        self._on_own_work(advanced)
        self.applied += advanced.applied
        self.wake(advanced.again)
        until = self._now() + NOT_LOADED_SECONDS
        self._skip_until.update(dict.fromkeys(advanced.unknown, until))

    def _want_soon(self, refs: Collection[UUID]) -> None:
        """Nobody signals the end of a lock: look again in 5–50 ms, at all of them together."""
        if not refs:
            return
        loop = asyncio.get_running_loop()
        handle = loop.call_later(random.uniform(0.005, 0.05), self.wake, tuple(refs))
        self._later = {h for h in self._later if not h.cancelled() and h.when() > loop.time()} | {handle}


def _left_ready(advanced: Advanced) -> bool:
    """Whether rows that this transaction had in hand wait for another one."""
    return bool(advanced.again) or any(
        row.state is RowState.READY for change in advanced.changes for row in change.rows
    )


def _fields(saga: Instance | None, row: RowChange) -> dict[str, object]:
    fields: dict[str, object] = {Field.INBOX_ID: row.id, Field.REASON: row.reason}
    if saga is not None and saga.progress.trace:
        fields[Field.TRACE_ID] = saga.progress.trace.id
    return fields


def _count(advanced: Advanced) -> None:
    """What was committed, as figures; logs what became a dead letter."""
    metrics.transaction_sagas.observe(len(advanced.changes))
    settled: Counter[tuple[str, str]] = Counter()
    applied: Counter[tuple[str, str]] = Counter()
    started: Counter[str] = Counter()
    finished: Counter[tuple[str, str]] = Counter()
    for change in advanced.changes:
        saga = change.after or change.before
        definition = saga.definition if saga is not None else ""
        for row in change.rows:
            if row.state is RowState.READY:
                continue
            settled[definition, row.state.label] += 1
            if row.state is RowState.DEAD:
                metrics.dead.labels(definition, row.reason or "").inc()
                log.warning(Event.ROW_DEAD, extra=_fields(saga, row))
        for entry in change.journal:
            applied[entry.consumer, entry.input_kind] += 1
        started[definition] += change.has_begun
        if change.after is not None and change.has_ended:
            finished[definition, change.after.status.label] += 1
    for definition, count in started.items():
        metrics.started.labels(definition).inc(count)
    for counter, found in ((metrics.settled, settled), (metrics.inputs_applied, applied), (metrics.finished, finished)):
        for labels, count in found.items():
            counter.labels(*labels).inc(count)
