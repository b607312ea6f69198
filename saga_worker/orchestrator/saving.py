"""What a transaction decided, to the tables: each writes its own part, in one statement.

Takes the changes in `Advanced` and puts there what the relay and the runner of activities have to do after the
commit. The transaction is the caller's: all of this becomes true with its commit, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from saga_worker import activity_rows, children, inbox, instances, outbox, timers
from saga_worker.orchestrator.contract import Advanced, Plan
from saga_worker.saga.inputs import OF_ACTIVITIES, OF_CHILDREN
from saga_worker.sql.connection import Connection

TakeSlot = Callable[[Advanced, UUID, str, str], bool]


class Saver:
    """Writes what was decided. Without a relay in this process its messages belong to nobody."""

    def __init__(self, plan: Plan, *, has_relay: bool, take_slot: TakeSlot) -> None:
        self._namespace = plan.namespace
        self._partitions = plan.partitions
        self._has_relay = has_relay
        self._take_slot = take_slot

    async def save(
        self, connection: Connection, advanced: Advanced, owned: Sequence[UUID], worker_id: int,
        *, from_timers: bool = False,
    ) -> None:  # fmt: skip
        """Sagas with their journal, outgoing messages, activities, outcomes of inbox rows, wake rows of `owned`."""
        changes = advanced.changes
        await instances.save(connection, changes, worker_id=worker_id)
        await self._send(connection, advanced, worker_id)
        if any(isinstance(effect, OF_ACTIVITIES) for change in changes for effect in change.effects):
            advanced.activities = await activity_rows.save(
                connection, changes, worker_id=worker_id, take=partial(self._take_slot, advanced)
            )
        if any(isinstance(effect, OF_CHILDREN) for change in changes for effect in change.effects):
            advanced.again |= await children.save(connection, changes)
        await inbox.settle(connection, [*(row for change in changes for row in change.rows), *advanced.left])
        if from_timers:
            await _correct_wakes(connection, advanced, owned)
        else:
            await _lower_wakes(connection, advanced)

    async def _send(self, connection: Connection, advanced: Advanced, worker_id: int) -> None:
        rows = [
            row
            for change in advanced.changes
            for row in outbox.build(change, namespace=self._namespace, partitions=self._partitions)
        ]
        if rows:
            owner = worker_id if self._has_relay else outbox.NOBODY
            advanced.outgoing = await outbox.append(connection, rows, owner=owner)
            advanced.held_back = await outbox.foreign(connection, {row.ref for row in rows}, owner)


async def _correct_wakes(connection: Connection, advanced: Advanced, owned: Sequence[UUID]) -> None:
    """Of sagas whose wake row was due: to the earliest timer, or away."""
    exact = {change.ref: change.wake_at for change in advanced.changes if change.wake_at is not None}
    await timers.correct(connection, list(exact.items()))
    await timers.push_back(connection, sorted(advanced.unknown), seconds=5)
    later = exact.keys() | advanced.unknown | advanced.again
    await timers.clear(connection, [ref for ref in owned if ref not in later])


async def _lower_wakes(connection: Connection, advanced: Advanced) -> None:
    """A wake row is a lower bound of its saga's timers: never raised before it is due."""
    changes = advanced.changes
    lower = [(c.ref, c.wake_at) for c in changes if c.lower_wake and c.wake_at is not None]
    await timers.lower(connection, lower)
    had_one = [c.ref for c in changes if c.clear_wake and c.before is not None and c.before.next_due is not None]
    await timers.clear(connection, had_one)
