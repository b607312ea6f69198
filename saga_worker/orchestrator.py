"""One transaction over up to 200 sagas: lock → (insert) → read → decide → save → commit. Names no column of any table.

Takes the refs of sagas that may have something to do (`advance`, the general path) or a consumer's batch
(`take_in`, the fast path: its rows are born settled); guarantees that new states, journal, timers, outgoing messages
and the outcome of inbox rows commit together or not at all; hands back what the relay has to publish.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from saga_worker import activity_rows, inbox, instances, outbox, timers
from saga_worker.activity_rows import Ended, Written
from saga_worker.faults import fault_point
from saga_worker.inbox import NewRow
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.decide import describe_error
from saga_worker.saga.definition import Saga
from saga_worker.saga.errors import TerminalError
from saga_worker.saga.fold import Limits, LocalRefused, due_local, fold, fold_local, is_blocked
from saga_worker.saga.inputs import CancelActivity, Given, LocalDone, LocalFailed, RunActivity
from saga_worker.saga.instance import Instance
from saga_worker.saga.own_work import LocalStep
from saga_worker.saga.registry import Registry
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.sql.connection import Connection, Database, describe, is_transient

if TYPE_CHECKING:  # imported by processes that have local steps only: it takes as long as all of a worker's start
    from sqlalchemy.ext.asyncio import AsyncSession

    from saga_worker.sql.sessions import Sessions

DECIDE_SECONDS: Final = 0.05  # after this the batch commits what it has; the rest is claimed again
LOCK_NOT_AVAILABLE: Final = "55P03"
NOBODY: Final = UUID(int=0)  # stands for the id of a new saga until one is drawn

Announce = Callable[[Sequence[int]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all transactions of a worker have in common."""

    registry: Registry
    limits: Limits
    namespace: str
    watch: timedelta
    partitions: int = 1


@dataclass(slots=True)
class Advanced:
    """What one transaction did, for the pool and the relay."""

    busy: frozenset[UUID] = frozenset()  # locked by others: try again soon
    outgoing: list[outbox.OutboxRow] = field(default_factory=list)
    held_back: set[tuple[UUID, str]] = field(default_factory=set)  # (ref, destination) with older rows elsewhere
    again: set[UUID] = field(default_factory=set)  # more to do at once
    suspects: set[UUID] = field(default_factory=set)  # the next row must run alone
    unknown: set[UUID] = field(default_factory=set)  # definition or version not loaded here
    changes: list[SagaChange] = field(default_factory=list)
    left: list[RowChange] = field(default_factory=list)  # new rows that nobody looked at
    local: set[UUID] = field(default_factory=set)  # a local step is due
    activities: Written = field(default_factory=Written)
    slots: list[tuple[str, str]] = field(default_factory=list)  # taken from the runner of activities

    @property
    def applied(self) -> int:
        return sum(len(change.journal) for change in self.changes)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a consumer's batch. `later`: refs whose new rows stand ready for the pool."""

    inserted: inbox.Inserted
    advanced: Advanced
    later: frozenset[UUID]


class Slots(Protocol):
    """Room for activities in this process: who takes a slot starts an activity in it, or gives it back."""

    def take(self, definition: str, step: str) -> bool: ...

    def give_back(self, slots: Sequence[tuple[str, str]]) -> None: ...


class Orchestrator:
    """Advances sagas; one `advance` or `take_in` is one transaction on one connection."""

    def __init__(
        self, database: Database, plan: Plan, *, worker_id: Callable[[], int], replies_are_in: Callable[[], bool],
        has_relay: bool = True, sessions: Sessions | None = None,
    ) -> None:  # fmt: skip
        """Without a relay in this process its messages belong to nobody, and any relay takes them at once."""
        self._database = database
        self._plan = plan
        self._worker_id = worker_id
        self._replies_are_in = replies_are_in
        self._has_relay = has_relay
        self._sessions = sessions
        self.slots: Slots | None = None  # without a runner here activities are left to others
        self._turns = _Turns()

    async def advance(
        self, refs: Sequence[UUID], *, announce: Announce | None = None, alone: bool = False,
        from_timers: bool = False, write_error: str | None = None,
    ) -> Advanced:  # fmt: skip
        """Lock these sagas (whoever is busy is left alone), apply what they have waiting, commit.

        With `alone` no other code of an author runs in this process meanwhile, so that a death has one suspect.

        `announce` gets the ids of the rows before any of the author's code runs. `alone` and `write_error` are
        those of `fold`. Raises LeaseLost, UnknownCommit or a database error; then nothing was handed out.
        """
        worker_id = self._worker_id()
        advanced = Advanced()
        async with self._turn(advanced, alone=alone), self._database.transaction() as connection:
            locked = await instances.lock(connection, refs)
            fault_point("orchestrator.locked")
            advanced.busy = locked.busy
            owned = [*locked.found, *sorted(locked.absent)]
            backlog = await inbox.read_backlog(connection, owned, _lines(locked.found))
            if announce is not None:
                await announce(_runnable(backlog.rows, alone=alone))
            unsent = await _unsent(connection, locked.found, backlog.now)
            self._decide(advanced, locked.found, owned, backlog, unsent, alone=alone, write_error=write_error)
            fault_point("orchestrator.decided")
            await self._save(connection, advanced, worker_id)
            await _save_wakes(connection, advanced, owned, from_timers=from_timers)
            fault_point("orchestrator.before_commit")
        fault_point("orchestrator.committed")
        return advanced

    async def take_in(self, rows: Sequence[NewRow], apart: frozenset[UUID] = frozenset()) -> TakenIn:
        """Store a batch in the order of arrival, and apply it at once where the saga is free.

        Rows of busy sagas, of `apart` (redelivered ones: they may have killed a worker) and of definitions that are
        not loaded here are stored ready, for the pool. Older rows of a saga are folded before the new ones. Raises
        as `advance` does; then nothing is stored.
        """
        advanced = Advanced()
        async with self._turn(advanced), self._database.transaction() as connection:
            taken = await self._take_in(connection, rows, apart, advanced)
        fault_point("orchestrator.committed")
        return taken

    async def take_results(self, ended: Sequence[Ended]) -> TakenIn:
        """End these activities and apply their results at once, as `take_in` does with a consumer's batch."""
        advanced = Advanced()
        async with self._turn(advanced), self._database.transaction() as connection:
            rows = await activity_rows.settle(connection, ended)
            taken = await self._take_in(connection, rows, frozenset(), advanced)
        fault_point("orchestrator.committed")
        return taken

    async def _take_in(
        self, connection: Connection, rows: Sequence[NewRow], apart: frozenset[UUID], advanced: Advanced
    ) -> TakenIn:
        worker_id = self._worker_id()
        wanted = {row.ref for row in rows if row.ref is not None and _is_fresh(row)} - apart
        locked = await instances.lock(connection, wanted)
        owned = self._loaded(locked, rows)
        fault_point("orchestrator.locked")
        ours = frozenset(owned)
        fresh_places = {place for place, row in enumerate(rows) if row.ref in ours and _is_fresh(row)}
        inserted = await inbox.insert(connection, rows, born_done=fresh_places)  # most are never written again
        backlog = await inbox.read_backlog(connection, owned, _lines(locked.found))
        fresh = _as_read(rows, inserted, fresh_places, backlog)
        unsent = await _unsent(connection, locked.found, backlog.now)
        advanced.busy = locked.busy
        self._decide(advanced, locked.found, owned, backlog, unsent)
        fault_point("orchestrator.decided")
        _correct(advanced, fresh)
        await self._save(connection, advanced, worker_id)
        await _save_wakes(connection, advanced, owned, from_timers=False)
        fault_point("orchestrator.before_commit")
        stored = {ref for ref, _ in inserted.new if ref is not None}
        return TakenIn(inserted, advanced, frozenset((stored - ours) | advanced.again))

    # -- local steps ------------------------------------------------------------------------------------------------

    async def run_local(self, ref: UUID) -> Advanced:
        """Run the local step that is due in this saga, in the transaction that moves the saga on.

        A step that raises is rolled back with all it did, and the failure is written in a transaction of its own.
        """
        assert self._sessions is not None, "no definition that is loaded here has local steps"
        advanced = Advanced()
        try:
            async with self._turn(advanced), self._sessions.transaction() as (connection, session):
                await self._run_local(connection, session, ref, advanced)
            fault_point("orchestrator.committed")
            return advanced
        except _LocalRaised as raised:
            failed = raised
        advanced = Advanced()
        async with self._turn(advanced), self._database.transaction() as connection:
            await self._apply_local(connection, ref, advanced, failed.outcome)
        return advanced

    async def _run_local(self, connection: Connection, session: AsyncSession, ref: UUID, advanced: Advanced) -> None:
        locked = await instances.lock(connection, [ref])
        advanced.busy = locked.busy
        instance = locked.found.get(ref)
        backlog = await inbox.read_backlog(connection, [ref])
        due = due_local(instance, backlog.now)
        if instance is None or due is None or is_blocked(backlog.rows.get(ref, [])):
            return
        saga = self._plan.registry.find(instance.definition, instance.definition_version)
        if saga is None:
            advanced.unknown.add(ref)
            return
        done = await _call_local(saga, instance, due, session)
        try:
            await self._apply_local(connection, ref, advanced, done)
        except LocalRefused as refused:
            raise _LocalRaised(LocalFailed(*due, str(refused), is_terminal=False)) from refused

    async def _apply_local(
        self, connection: Connection, ref: UUID, advanced: Advanced, done: LocalDone | LocalFailed
    ) -> None:
        """Lock (again), apply, save. A failure that has been overtaken has no effect."""
        locked = await instances.lock(connection, [ref])
        advanced.busy = locked.busy
        instance = locked.found.get(ref)
        if instance is None:
            return
        saga = self._plan.registry.find(instance.definition, instance.definition_version)
        assert saga is not None
        backlog = await inbox.read_backlog(connection, [ref])
        given = Given(
            backlog.now, random.random(), NOBODY, replies_are_in=self._replies_are_in(), watch=self._plan.watch
        )
        try:
            change = fold_local(saga, instance, backlog.rows.get(ref, []), given, self._plan.limits, done)
        except LocalRefused:
            if isinstance(done, LocalFailed):
                return
            raise
        self._note(advanced, change)
        advanced.changes.append(change)
        await self._save(connection, advanced, self._worker_id())
        await _save_wakes(connection, advanced, [ref], from_timers=False)
        fault_point("orchestrator.before_commit")

    @asynccontextmanager
    async def _turn(self, advanced: Advanced, *, alone: bool = False) -> AsyncIterator[None]:
        """Around a transaction; the slots that it took for activities go back when it does not commit."""
        try:
            async with self._turns.of(alone=alone):
                yield
        except BaseException:
            if self.slots is not None:
                self.slots.give_back(advanced.slots)
            raise

    def _loaded(self, locked: instances.Locked, rows: Sequence[NewRow]) -> list[UUID]:
        """The locked sagas that run by a version loaded here."""
        consumers = {row.ref: row.consumer for row in rows if row.ref is not None}
        found = [r for r, s in locked.found.items() if self._plan.registry.find(s.definition, s.definition_version)]
        absent = [ref for ref in locked.absent if self._plan.registry.latest(consumers[ref])]
        return [*found, *sorted(absent)]

    def _decide(
        self, advanced: Advanced, found: dict[UUID, Instance], owned: Sequence[UUID], backlog: inbox.Backlog,
        unsent: dict[UUID, frozenset[int]], *, alone: bool = False, write_error: str | None = None,
    ) -> None:  # fmt: skip
        """Fold saga by saga until the time is up."""
        given = Given(backlog.now, 0.0, NOBODY, replies_are_in=self._replies_are_in(), watch=self._plan.watch)
        stop_at = time.monotonic() + DECIDE_SECONDS
        for ref in owned:
            if time.monotonic() > stop_at:
                advanced.again.add(ref)
                continue
            mine = replace(given, jitter=random.random(), saga_id=uuid7(), unsent=unsent.get(ref, frozenset()))
            rows = backlog.rows.get(ref, [])
            change = self._fold(advanced, ref, found.get(ref), rows, mine, alone, write_error)
            if change is not None:
                advanced.changes.append(change)
        advanced.again |= backlog.truncated & {change.ref for change in advanced.changes if change.rows}

    def _fold(
        self, advanced: Advanced, ref: UUID, instance: Instance | None, rows: list[InboxRow], given: Given,
        alone: bool, write_error: str | None,
    ) -> SagaChange | None:  # fmt: skip
        if instance is None and not rows:
            return None
        saga = self._definition(instance, rows)
        if saga is None:
            advanced.unknown.add(ref)
            return None
        limits = self._plan.limits
        change = fold(saga, ref, instance, rows, given, limits, alone=alone, write_error=write_error)
        self._note(advanced, change)
        return change

    def _note(self, advanced: Advanced, change: SagaChange) -> None:
        """What is to be done about this saga after the commit."""
        if change.suspect is not None:
            advanced.suspects.add(change.ref)
        if change.again:
            advanced.again.add(change.ref)
        if change.local:
            advanced.local.add(change.ref)

    def _definition(self, instance: Instance | None, rows: list[InboxRow]) -> Saga[Any] | None:
        """The version the saga was started with; a saga that starts now takes the latest."""
        if instance is not None:
            return self._plan.registry.find(instance.definition, instance.definition_version)
        return self._plan.registry.latest(rows[0].consumer)

    async def _save(self, connection: Connection, advanced: Advanced, worker_id: int) -> None:
        """Every table module writes its own part, in one statement per table."""
        changes = advanced.changes
        await instances.save(connection, changes, worker_id=worker_id)
        plan = self._plan
        rows = [
            row
            for change in changes
            for row in outbox.build(change, namespace=plan.namespace, partitions=plan.partitions)
        ]
        if rows:
            owner = worker_id if self._has_relay else outbox.NOBODY
            advanced.outgoing = await outbox.append(connection, rows, owner=owner)
            advanced.held_back = await outbox.foreign(connection, sorted({row.ref for row in rows}), owner)
        if any(isinstance(effect, RunActivity | CancelActivity) for change in changes for effect in change.effects):
            advanced.activities = await activity_rows.save(
                connection, changes, worker_id=worker_id, take=partial(self._take_slot, advanced)
            )
        await inbox.settle(connection, [*(row for change in changes for row in change.rows), *advanced.left])

    def _take_slot(self, advanced: Advanced, definition: str, step: str) -> bool:
        if self.slots is None or not self.slots.take(definition, step):
            return False
        advanced.slots.append((definition, step))
        return True


class _LocalRaised(Exception):
    """A local step has to be rolled back; `outcome` is what is written instead."""

    def __init__(self, outcome: LocalFailed) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


async def _call_local(saga: Saga[Any], instance: Instance, due: tuple[int, int], session: AsyncSession) -> LocalDone:
    """The author's function on a copy of the state; what it wrote is flushed, and not committed."""
    from saga_worker.sql.sessions import driver_error

    record = instance.progress.commands[due[0]]
    step = saga.steps[record.step]
    assert isinstance(step, LocalStep)
    read = saga.state_model.__pydantic_validator__.validate_json
    state = read(instance.state, by_name=True, by_alias=False)
    try:
        if record.undoes is not None:
            assert step.undo_work is not None
            await step.undo_work(state, session)
            state, verdict = read(instance.state, by_name=True, by_alias=False), None
        else:
            verdict = await step.work(state, session)
        await session.commit()  # ends the session's savepoint, not the transaction
    except (SystemExit, KeyboardInterrupt) as error:  # the author's: they end nothing of ours
        raise _LocalRaised(LocalFailed(*due, describe_error(error), is_terminal=False)) from error
    except Exception as error:
        cause = driver_error(error)
        if cause is not error and is_transient(cause) and getattr(cause, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise cause from error
        words = error.reason if isinstance(error, TerminalError) else describe_local(error)
        raise _LocalRaised(LocalFailed(*due, words, is_terminal=isinstance(error, TerminalError))) from error
    return LocalDone(*due, state, verdict)


def describe_local(error: Exception) -> str:
    """One line without the values that SQLAlchemy and the driver quote."""
    from saga_worker.sql.sessions import driver_error

    cause = driver_error(error)
    return describe(cause) if cause is not error else describe_error(error)


class _Turns:
    """Many transactions at a time, or one alone. Whoever wants to be alone keeps the next ones out."""

    def __init__(self) -> None:
        self._running = 0
        self._ended = asyncio.Condition()
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def of(self, *, alone: bool) -> AsyncIterator[None]:
        if alone:
            async with self._alone, self._ended:
                await self._ended.wait_for(lambda: self._running == 0)
                yield
            return
        async with self._alone:
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            async with self._ended:
                self._ended.notify_all()


async def _save_wakes(connection: Connection, advanced: Advanced, owned: Sequence[UUID], *, from_timers: bool) -> None:
    """A wake row is a lower bound of its saga's timers: lowered here, corrected when it was due, never raised."""
    changes = {change.ref: change for change in advanced.changes}
    if from_timers:
        exact = {ref: change.wake_at for ref, change in changes.items() if change.wake_at is not None}
        await timers.correct(connection, list(exact.items()))
        await timers.push_back(connection, sorted(advanced.unknown), seconds=5)
        later = exact.keys() | advanced.unknown | advanced.again
        await timers.clear(connection, [ref for ref in owned if ref not in later])
        return
    lower = [(ref, c.wake_at) for ref, c in changes.items() if c.lower_wake and c.wake_at is not None]
    await timers.lower(connection, lower)
    await timers.clear(
        connection,
        [ref for ref, c in changes.items() if c.clear_wake and c.before is not None and c.before.next_due is not None],
    )


async def _unsent(connection: Connection, found: dict[UUID, Instance], now: datetime) -> dict[UUID, frozenset[int]]:
    """Commands that may not have left, of the sagas with a due timer: nobody else asks."""
    due = [ref for ref, saga in found.items() if saga.next_due is not None and saga.next_due <= now]
    return await outbox.unsent(connection, due) if due else {}


def _lines(found: dict[UUID, Instance]) -> dict[tuple[UUID, str], int]:
    """Of numbered events the number that is next, by saga and source."""
    return {
        (ref, source): number
        for ref, instance in found.items()
        for source, number in instance.progress.sequences.items()
    }


def _is_fresh(row: NewRow) -> bool:
    return row.state is RowState.READY and not row.suspect and row.role in (Role.EVENT, Role.REPLY, Role.ACTIVITY)


def _as_read(
    rows: Sequence[NewRow], inserted: inbox.Inserted, fresh_places: AbstractSet[int], backlog: inbox.Backlog
) -> dict[UUID, list[InboxRow]]:
    """The new rows as `fold` reads them, added to the backlog of their sagas behind everything older.

    Where the backlog was cut short they are not added: they are younger than what was not read.
    """
    fresh: dict[UUID, list[InboxRow]] = defaultdict(list)
    for place in sorted(fresh_places):
        row, outcome = rows[place], inserted.outcomes[place]
        if outcome.verdict is inbox.Verdict.NEW and outcome.id is not None and row.ref is not None:
            fresh[row.ref].append(_read(row, outcome.id, backlog.now))
    for ref, added in fresh.items():
        if ref not in backlog.truncated:
            backlog.rows.setdefault(ref, []).extend(added)
    return fresh


def _read(row: NewRow, id_: int, now: datetime) -> InboxRow:
    return InboxRow(
        id=id_, dedup=NOBODY, consumer=row.consumer, source=row.source, message_id=row.message_id, type=row.type,
        role=row.role, ref=row.ref, saga_key=row.saga_key, correlation_id=row.correlation_id, state=RowState.READY,
        reason=None, suspect=False, attempts=0, crashes=0, first_failed_at=None, next_at=None, expires_at=None,
        received_at=now, body=row.body,
    )  # fmt: skip


def _correct(advanced: Advanced, fresh: dict[UUID, list[InboxRow]]) -> None:
    """New rows are born `done`: leave those alone that are, write the others as they were judged or left."""
    ids = {row.id for rows in fresh.values() for row in rows}
    judged: set[int] = set()
    for change in advanced.changes:
        judged.update(row.id for row in change.rows)
        change.rows = [row for row in change.rows if row.id not in ids or not _is_plainly_done(row)]
    left = [RowChange(id=id_, state=RowState.READY) for id_ in sorted(ids - judged)]
    if left:
        advanced.left = left


def _is_plainly_done(row: RowChange) -> bool:
    return row.state is RowState.DONE and row.reason is None


def _runnable(rows: dict[UUID, list[InboxRow]], *, alone: bool) -> list[int]:
    """The ids of the rows that the author's code may meet: all that are ready, or the one that runs alone."""
    ids = [row.id for backlog in rows.values() for row in backlog if row.state is RowState.READY]
    return ids[:1] if alone else ids
