"""Every locked saga with its backlog through `fold`, until the time is up.

Takes what was read after the locks; guarantees that a saga runs by the version it was started with, and that one
whose version is not loaded here is left as it is. Adds the changes to `Advanced`, for `saving`. Writes nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from uuid_utils.compat import uuid7

from saga_worker.inbox import Backlog, NewRow
from saga_worker.instances import Locked
from saga_worker.orchestrator.contract import Advanced, Plan
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import fold, fold_local, in_hand
from saga_worker.saga.inputs import Given, LocalDone, LocalFailed
from saga_worker.saga.instance import Instance
from saga_worker.saga.moving import Course
from saga_worker.saga.rows import InboxRow

# After this a batch commits what it has, and the rest is claimed again. 200 sagas take 10 ms; with a limit of 50 ms a
# busy machine sent an eighth of the events through the pool, which made it busier.
DECIDE_SECONDS: Final = 0.2
_NOT_DRAWN: Final = UUID(int=0)  # the id of a saga that has one already
_NONE: Final[frozenset[int]] = frozenset()


class Decider:
    """What `fold` is given besides rows: definitions, limits, the world."""

    def __init__(self, plan: Plan, replies_are_in: Callable[[], bool]) -> None:
        self._registry = plan.registry
        self._limits = plan.limits
        self._watch = plan.watch
        self._replies_are_in = replies_are_in
        self._begins_traces = plan.begins_traces

    def fold_all(
        self, advanced: Advanced, found: dict[UUID, Instance], owned: Sequence[UUID], backlog: Backlog,
        unsent: dict[UUID, frozenset[int]], *, alone: bool = False, write_error: str | None = None,
        fires: bool = True,
    ) -> None:  # fmt: skip
        """Apply what these sagas have waiting; those that the time does not suffice for are looked at again."""
        stop_at = time.monotonic() + DECIDE_SECONDS
        for ref in owned:
            if time.monotonic() > stop_at:
                advanced.again.add(ref)
                continue
            instance, rows = found.get(ref), backlog.rows.get(ref, [])
            if instance is None and not rows:
                continue
            upgrade: Course | None = None
            if instance is None:
                saga = self._registry.latest(rows[0].consumer)
            else:
                saga, upgrade = self._registry.runs_by(instance)
            if saga is None:
                advanced.unknown.add(ref)
                if instance is not None and (why := self._registry.why_stranded(instance)) is not None:
                    advanced.stranded[ref] = why
                continue
            may_begin = instance is None or instance.status.is_final
            saga_id = uuid7() if may_begin else _NOT_DRAWN
            mine = self._given(backlog.now, saga_id, unsent.get(ref, _NONE))
            change = fold(
                saga, ref, instance, rows, mine, self._limits, alone=alone, write_error=write_error, fires=fires,
                upgrade=upgrade, newest=self._registry.latest(saga.name),
            )  # fmt: skip
            advanced.add(change)
        advanced.again |= backlog.truncated & {change.ref for change in advanced.changes if change.rows}

    def fold_local(
        self, saga: Saga[Any], instance: Instance, rows: Sequence[InboxRow], now: datetime,
        done: LocalDone | LocalFailed,
    ) -> SagaChange:  # fmt: skip
        """What a local step has led to; raises `LocalRefused` when that cannot be kept."""
        given = self._given(now, _NOT_DRAWN, _NONE)
        return fold_local(saga, instance, rows, given, self._limits, done)

    def timers_in_hand(self, found: Mapping[UUID, Instance], now: datetime, *, alone: bool) -> list[tuple[UUID, str]]:
        """The timers of these sagas that `fold_all` may run."""
        due = [(ref, saga) for ref, saga in found.items() if saga.next_due is not None and saga.next_due <= now]
        replies_are_in = self._replies_are_in()
        return [
            (ref, timer)
            for ref, saga in due
            for timer in in_hand(saga, now, replies_are_in, alone=alone, is_to_move=self.is_to_move(saga))
        ]

    def definition(self, instance: Instance) -> Saga[Any] | None:
        """The version that the saga runs by now: that of its start, or the one it was brought to."""
        return self._registry.find(instance.definition, instance.definition_version)

    def is_to_move(self, instance: Instance) -> bool:
        """Whether the saga is brought to a newer version before its next input."""
        return self._registry.runs_by(instance)[1] is not None

    def loaded(self, locked: Locked, rows: Sequence[NewRow]) -> list[UUID]:
        """The locked sagas that run by a version loaded here, or can be brought to one."""
        consumers = {row.ref: row.consumer for row in rows if row.ref is not None}
        found = [ref for ref, instance in locked.found.items() if self._registry.runs_by(instance)[0]]
        absent = [ref for ref in locked.absent if ref in consumers and self._registry.latest(consumers[ref])]
        return [*found, *sorted(absent, key=_number)]

    def _given(self, now: datetime, saga_id: UUID, unsent: frozenset[int]) -> Given:
        return Given(
            now, random.random(), saga_id, unsent, self._replies_are_in(), self._watch, self._limits.crashes,
            self._begins_traces,
        )  # fmt: skip


def _number(ref: UUID) -> int:
    return ref.int
