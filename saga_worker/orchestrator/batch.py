"""One transaction over up to 200 sagas: lock → (insert) → read → decide → save → commit. Names no column of any table.

Takes the refs of sagas that may have something to do (`advance`, the general path) or a consumer's batch
(`take_in`, the fast path: its rows are born settled); guarantees that new states, journal, timers, outgoing messages
and the outcome of inbox rows commit together or not at all; hands back what the relay has to publish.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from saga_worker import activity_rows, inbox, instances, outbox
from saga_worker.activity_rows import Ended
from saga_worker.faults import fault_point
from saga_worker.inbox import NewRow
from saga_worker.orchestrator import deaths, fresh_rows, hook_calls, stranded
from saga_worker.orchestrator.addressees import name_consumers
from saga_worker.orchestrator.contract import Advanced, Announce, Plan, Slots, TakenIn
from saga_worker.orchestrator.deciding import Decider
from saga_worker.orchestrator.fresh_rows import is_fresh
from saga_worker.orchestrator.local_step import LocalTransaction
from saga_worker.orchestrator.saving import Saver
from saga_worker.orchestrator.turns import Turns
from saga_worker.saga.instance import Instance
from saga_worker.saga.rows import RowState
from saga_worker.sql.connection import Connection, Database
from saga_worker.workers import Intent

if TYPE_CHECKING:  # importing it takes as long as all of a worker's start
    from saga_worker.sql.sessions import Sessions


class Orchestrator:
    """Advances sagas; one `advance` or `take_in` is one transaction on one connection."""

    def __init__(
        self, database: Database, plan: Plan, *, worker_id: Callable[[], int], replies_are_in: Callable[[], bool],
        has_relay: bool = True, sessions: Sessions | None = None,
    ) -> None:  # fmt: skip
        """Without a relay in this process its messages belong to nobody, and any relay takes them at once."""
        self._database = database
        self._worker_id = worker_id
        self._decider = Decider(plan, replies_are_in)
        self._saver = Saver(plan, has_relay=has_relay, take_slot=self._take_slot)
        self._local = LocalTransaction(
            database, sessions, self._decider, self._saver, worker_id=worker_id, turn=self._turn
        )
        self.slots: Slots | None = None  # without a runner here activities are left to others
        self._turns = Turns()

    async def advance(
        self, refs: Sequence[UUID], *, announce: Announce | None = None, alone: bool = False,
        from_timers: bool = False, write_error: str | None = None,
    ) -> Advanced:  # fmt: skip
        """Lock these sagas (whoever is busy is left alone), apply what they have waiting, commit.

        With `alone` no other code of an author runs in this process meanwhile, so that a death has one suspect.

        `announce` gets what may run before any of the author's code does. `alone` and `write_error` are those of
        `fold`. Raises LeaseLost, UnknownCommit or a database error; then nothing was handed out.
        """
        worker_id = self._worker_id()
        advanced = Advanced()
        async with self._turn(advanced, alone=alone), self._database.transaction() as connection:
            locked = await instances.lock(connection, refs)
            fault_point("orchestrator.locked")
            advanced.busy = locked.busy
            told: set[UUID] = set()
            owned = [*locked.found, *sorted(locked.absent)]
            backlog = await inbox.read_backlog(connection, owned, _lines(locked.found))
            if announce is not None:
                await deaths.accuse_rows(connection, worker_id, backlog)
                timers = self._decider.timers_in_hand(locked.found, backlog.now, alone=alone)
                told = await deaths.report_timers(connection, worker_id, timers)
                advanced.again |= told
                await announce(self._intent(locked.found, backlog, alone=alone))
            unsent = await _unsent(connection, locked.found, backlog.now)
            self._decider.fold_all(
                advanced, locked.found, owned, backlog, unsent, alone=alone, write_error=write_error, fires=not told
            )  # fmt: skip
            if advanced.stranded:
                await stranded.hold(connection, advanced, locked.found, backlog)
            fault_point("orchestrator.decided")
            await self._saver.save(connection, advanced, owned, worker_id, from_timers=from_timers)
            fault_point("orchestrator.before_commit")
        fault_point("orchestrator.committed")
        hook_calls.call(advanced.changes)
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
        hook_calls.call(advanced.changes)
        return taken

    async def take_results(self, ended: Sequence[Ended]) -> TakenIn:
        """End these activities and apply their results at once, as `take_in` does with a consumer's batch."""
        advanced = Advanced()
        async with self._turn(advanced), self._database.transaction() as connection:
            rows = await activity_rows.settle(connection, ended)
            taken = await self._take_in(connection, rows, frozenset(), advanced)
        fault_point("orchestrator.committed")
        hook_calls.call(advanced.changes)
        return taken

    async def run_local(self, ref: UUID, *, announce: Announce | None = None) -> Advanced:
        """Run the local step that is due in this saga, in the transaction that moves the saga on."""
        advanced = await self._local.run(ref, announce)
        hook_calls.call(advanced.changes)
        return advanced

    async def _take_in(
        self, connection: Connection, rows: Sequence[NewRow], apart: frozenset[UUID], advanced: Advanced
    ) -> TakenIn:
        worker_id = self._worker_id()
        wanted = {row.ref for row in rows if row.ref is not None and is_fresh(row)} - apart
        locked = await instances.lock(connection, wanted)
        await name_consumers(connection, rows, locked.found)
        owned = self._decider.loaded(locked, rows)
        fault_point("orchestrator.locked")
        ours = frozenset(owned)
        places = {place for place, row in enumerate(rows) if row.ref in ours and is_fresh(row)}
        inserted = await inbox.insert(connection, rows, born_done=places)  # most are never written again
        backlog = await inbox.read_backlog(connection, owned, _lines(locked.found))
        fresh = fresh_rows.add_to_backlog(backlog, rows, inserted, places)
        advanced.busy = locked.busy
        self._decider.fold_all(advanced, locked.found, owned, backlog, {}, fires=False)
        fault_point("orchestrator.decided")
        fresh_rows.correct(advanced, fresh)
        await self._saver.save(connection, advanced, owned, worker_id)
        fault_point("orchestrator.before_commit")
        stored = {ref for ref, _ in inserted.new if ref is not None}
        return TakenIn(inserted, advanced, frozenset((stored - ours) | advanced.again))

    def _intent(self, found: dict[UUID, Instance], backlog: inbox.Backlog, *, alone: bool) -> Intent:
        """What the author's code may meet: all that is ready or due, or the one row or timer that runs alone."""
        ids = [row.id for rows in backlog.rows.values() for row in rows if row.state is RowState.READY]
        timers = self._decider.timers_in_hand(found, backlog.now, alone=alone)
        return Intent(ids[:1], () if ids else timers[:1], alone) if alone else Intent(ids, timers)

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

    def _take_slot(self, advanced: Advanced, ref: UUID, definition: str, step: str) -> bool:
        if self.slots is None or not self.slots.take(ref, definition, step):
            return False
        advanced.slots.append((definition, step))
        return True


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
