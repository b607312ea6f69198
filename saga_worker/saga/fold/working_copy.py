"""One saga during one transaction: where it stands now, and what has to be written about it.

Takes what was read under the saga's lock. Guarantees that an applied input leaves one journal row and its effects
together with the new state, and that what holds rows back is known from the first look on. The other modules of this
package work on it, each by the rules it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.decide import decide, describe_error
from saga_worker.saga.decide.operator import is_listed_already
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold.backlog import is_blocked, is_held_here, sequence
from saga_worker.saga.inputs import MESSAGES, Decision, Given, Ignored, Input, Raised
from saga_worker.saga.instance import Instance
from saga_worker.saga.lines import Lines
from saga_worker.saga.moving import Course, move
from saga_worker.saga.retry import Retry
from saga_worker.saga.rows import InboxRow, Role, RowState

FIVE_TIMES: Final = Retry.exponential(5)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings say about failing rows and early ones."""

    attempts: Retry = FIVE_TIMES
    crashes: int = 3
    parking: timedelta = timedelta(days=14)


class WorkingCopy:
    """A saga and its rows, of each kind in the order of their turn. `alone` and `write_error` are those of `fold`."""

    def __init__(
        self, saga: Saga[Any], ref: UUID, instance: Instance | None, rows: Sequence[InboxRow], given: Given,
        limits: Limits, *, alone: bool, write_error: str | None = None, upgrade: Course | None = None,
        newest: Saga[Any] | None = None,
    ) -> None:  # fmt: skip
        self.upgrade = upgrade  # what has to be done to the saga before its next input
        self.saga, self.given, self.limits, self.alone = saga, given, limits, alone
        self._newest = newest or saga
        self._write_error = write_error
        self.instance = instance
        self.change = SagaChange(ref=ref, before=instance, after=instance)
        self.ready = [row for row in rows if row.state is RowState.READY]
        self.held: list[InboxRow] = []
        self.parked: list[InboxRow] = []  # early, and not numbered
        self.lines = Lines()  # early and numbered
        self.is_behind_dead = False
        if len(rows) > 1 or not self.ready:  # nearly always there is one row, and it is ready
            self._sort(rows)
        self.is_offered = False  # the early rows have been judged where the saga stands now
        self.applied = 0  # ready rows that had their turn
        self.rows_wait = False  # a row is ready but not yet due, or must run alone

    def _sort(self, rows: Sequence[InboxRow]) -> None:
        self.ready.sort(key=sequence)
        aside = sorted((row for row in rows if row.state in (RowState.PARKED, RowState.HELD)), key=lambda row: row.id)
        parked = [row for row in aside if row.state is RowState.PARKED and not is_held_here(row)]
        self.held = [row for row in aside if is_held_here(row)]
        self.parked = [row for row in parked if row.sequence is None]
        self.lines.extend(parked)
        self.is_behind_dead = is_blocked(rows)

    @property
    def has_early(self) -> bool:
        """Whether any row waits for the saga to come where it takes it."""
        return bool(self.parked or self.lines)

    def stands_still(self) -> bool:
        return self.instance is not None and self.instance.stands_still

    def is_second_start(self, row: InboxRow) -> bool:
        """A start whose key has a saga that stands still. What it leads to is the same wherever that stands, and its
        sender wants to know."""
        saga = self.saga
        if row.role is not Role.EVENT or row.type not in saga.starts or row.type in {*saga.arms, *saga.handlers}:
            return False
        return self.stands_still() and not self.is_behind_dead

    def is_blocked(self) -> bool:
        """Only an operator can help: nothing else is applied, and no timer fires."""
        return self.is_behind_dead or self.stands_still()

    def is_stopped(self) -> bool:
        """Blocked, or behind a row that waits: in this transaction only operators' rows can still be applied."""
        return self.rows_wait or self.is_behind_dead or self.stands_still()

    def has_moved(self, before: Instance | None) -> bool:
        """Whether an event that was early at `before` may be due, or too late, now: a step opens, ends or waits."""
        after = self.instance
        if before is None or after is None:
            return before is not after
        one, other = before.progress, after.progress
        return (
            before.status is not after.status
            or one.active != other.active
            or one.rounds != other.rounds  # the same wait may be open again
            or (before.unsettled == 0) is not (after.unsettled == 0)  # a start may wait for that
        )

    def decide(self, given_input: Input) -> Decision:
        if self._write_error is not None:
            return Decision(self.instance, (), Raised(self._write_error))
        if self.upgrade is not None:
            if self.instance is not None and is_listed_already(self.instance, given_input):
                return Decision(self.instance, (), Ignored("listed_already"))  # without the upgrade that killed
            if (error := self.move_on()) is not None:
                return Decision(self.instance, (), Raised(error))
        return decide(self.saga, self.instance, given_input, self.given, self._newest)

    def is_next_run(self, decision: Decision) -> bool:
        """Whether this is the first step of another run of the key than the one that stands here."""
        after, before = decision.instance, self.instance
        return before is not None and after is not None and after.revision <= before.revision

    def may_begin_run(self) -> bool:
        """Whether the run that stands here is as it was locked. If not, it is saved before the next one begins."""
        return self.instance is self.change.before

    def move_on(self) -> str | None:
        """Bring the saga to the version that it is to run by; the error of the author's code, if that raised.

        Then the saga stays as it was, and its next input tries again.
        """
        if self.upgrade is None or self.instance is None:
            return None
        version = self.instance.definition_version
        try:
            decisions = move(self.upgrade, self.instance, self.given)
        except BaseException as error:  # as in `decide`
            return f"The upgrade from version {version} raised {describe_error(error)}"
        self.upgrade = None
        for decision in decisions:
            assert decision.instance is not None
            message_id = f"upgrade:{decision.instance.saga_id}:{decision.instance.definition_version}"
            self.record(decision, kind="upgrade", source="upgrade", message_id=message_id)
        return None

    def record(
        self, decision: Decision, *, kind: str, source: str, message_id: str, inbox_id: int | None = None
    ) -> None:
        """Go where this applied input has led, and journal it."""
        before, after = self.instance, decision.instance
        assert after is not None
        if self.is_next_run(decision):
            before, self.saga = None, self._newest
        self.change.journal.append(
            JournalRow(
                revision=after.revision,
                definition_version=after.definition_version,
                input_kind=kind,
                consumer=self.saga.name,
                source=source,
                message_id=message_id,
                inbox_id=inbox_id,
                decided_at=self.given.now,
                from_status=before.status if before else None,
                to_status=after.status,
                sent=tuple([e.seq for e in decision.effects if isinstance(e, MESSAGES)]),
                timers=_armed(before, after),
            )
        )
        self.change.effects += decision.effects
        self.instance = after


def _armed(before: Instance | None, after: Instance) -> tuple[str, ...]:
    """The timers that `after` has and `before` had not, or had under another epoch."""
    old = before.progress.timers if before else {}
    return tuple(
        f"{name}:{timer.epoch}"
        for name, timer in after.progress.timers.items()
        if name not in old or old[name].epoch != timer.epoch
    )
