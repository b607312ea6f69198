"""One transaction over up to 200 sagas: lock → read → decide → save → commit. Names no column of any table.

Takes the refs of sagas that may have something to do; guarantees that new states, journal, timers, outgoing
messages and the outcome of inbox rows commit together or not at all; hands back what the relay has to publish.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from uuid_utils.compat import uuid7

from saga_worker import inbox, instances, outbox, timers
from saga_worker.faults import fault_point
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import Limits, fold
from saga_worker.saga.inputs import Given
from saga_worker.saga.instance import Instance
from saga_worker.saga.registry import Registry
from saga_worker.saga.rows import InboxRow, RowState
from saga_worker.sql.connection import Connection, Database

DECIDE_SECONDS: Final = 0.05  # after this the batch commits what it has; the rest is claimed again
NOBODY: Final = UUID(int=0)  # stands for the id of a new saga until one is drawn

Announce = Callable[[Sequence[int]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all transactions of a worker have in common."""

    registry: Registry
    limits: Limits
    namespace: str
    watch: timedelta


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

    @property
    def applied(self) -> int:
        return sum(len(change.journal) for change in self.changes)


class Orchestrator:
    """Advances sagas; one `advance` is one transaction on one connection."""

    def __init__(
        self, database: Database, plan: Plan, *, worker_id: Callable[[], int], replies_are_in: Callable[[], bool],
        has_relay: bool = True,
    ) -> None:  # fmt: skip
        """Without a relay in this process its messages belong to nobody, and any relay takes them at once."""
        self._database = database
        self._plan = plan
        self._worker_id = worker_id
        self._replies_are_in = replies_are_in
        self._has_relay = has_relay

    async def advance(
        self, refs: Sequence[UUID], *, announce: Announce | None = None, alone: bool = False,
        from_timers: bool = False, write_error: str | None = None,
    ) -> Advanced:  # fmt: skip
        """Lock these sagas (whoever is busy is left alone), apply what they have waiting, commit.

        `announce` gets the ids of the rows before any of the author's code runs. `alone` and `write_error` are
        those of `fold`. Raises LeaseLost, UnknownCommit or a database error; then nothing was handed out.
        """
        worker_id = self._worker_id()
        async with self._database.transaction() as connection:
            locked = await instances.lock(connection, refs)
            fault_point("orchestrator.locked")
            advanced = Advanced(busy=locked.busy)
            owned = [*locked.found, *sorted(locked.absent)]
            backlog = await inbox.read_backlog(connection, owned)
            unsent = await outbox.unsent(connection, list(locked.found))
            if announce is not None:
                await announce(_runnable(backlog.rows, alone=alone))
            given = Given(backlog.now, 0.0, NOBODY, replies_are_in=self._replies_are_in(), watch=self._plan.watch)
            stop_at = time.monotonic() + DECIDE_SECONDS
            for ref in owned:
                if time.monotonic() > stop_at:
                    advanced.again.add(ref)
                    continue
                mine = replace(given, jitter=random.random(), saga_id=uuid7(), unsent=unsent.get(ref, frozenset()))
                change = self._fold(
                    advanced, ref, locked.found.get(ref), backlog.rows.get(ref, []), mine, alone, write_error
                )
                if change is not None:
                    advanced.changes.append(change)
            advanced.again |= backlog.truncated & {change.ref for change in advanced.changes if change.rows}
            fault_point("orchestrator.decided")
            await self._save(connection, advanced, worker_id)
            await _save_wakes(connection, advanced, owned, from_timers=from_timers)
            fault_point("orchestrator.before_commit")
        fault_point("orchestrator.committed")
        return advanced

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
        if change.suspect is not None:
            advanced.suspects.add(ref)
        if change.again:
            advanced.again.add(ref)
        return change

    def _definition(self, instance: Instance | None, rows: list[InboxRow]) -> Saga[Any] | None:
        """The version the saga was started with; a saga that starts now takes the latest."""
        if instance is not None:
            return self._plan.registry.find(instance.definition, instance.definition_version)
        return self._plan.registry.latest(rows[0].consumer)

    async def _save(self, connection: Connection, advanced: Advanced, worker_id: int) -> None:
        """Every table module writes its own part, in one statement per table."""
        changes = advanced.changes
        await instances.save(connection, changes, worker_id=worker_id)
        rows = [row for change in changes for row in outbox.build(change, namespace=self._plan.namespace)]
        if rows:
            owner = worker_id if self._has_relay else outbox.NOBODY
            advanced.outgoing = await outbox.append(connection, rows, owner=owner)
            advanced.held_back = await outbox.foreign(connection, sorted({row.ref for row in rows}), owner)
        await inbox.settle(connection, [row for change in changes for row in change.rows])


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


def _runnable(rows: dict[UUID, list[InboxRow]], *, alone: bool) -> list[int]:
    """The ids of the rows that the author's code may meet: all that are ready, or the one that runs alone."""
    ids = [row.id for backlog in rows.values() for row in backlog if row.state is RowState.READY]
    return ids[:1] if alone else ids
