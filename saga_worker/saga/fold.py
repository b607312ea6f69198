"""All that one locked saga has waiting, applied in order: the decisions of one transaction for one saga.

Takes the saga and its backlog (ready, parked, held and dead rows, due timers); hands out a `SagaChange`. It keeps
these rules, each in one place: older rows first, a row in back-off or a dead one stops those behind it (never an
operator), a suspect runs alone, parked rows are offered again after each applied input, rows come before timers,
and none of the saga's rows is left ready and due unless it can run now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, assert_never
from uuid import UUID

from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.decide import decide
from saga_worker.saga.decide.timer import is_reply_timeout
from saga_worker.saga.definition import Saga
from saga_worker.saga.inputs import (
    Applied,
    Decision,
    EventArrived,
    Given,
    Ignored,
    Input,
    OperatorCommand,
    Parked,
    Postponed,
    Raised,
    Refused,
    ReplyArrived,
    TimerFired,
)
from saga_worker.saga.instance import Instance
from saga_worker.saga.retry import Retry
from saga_worker.saga.routing import parse_command_id
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.transitions import Status

BEHIND_DEAD: Final = "behind_dead"
DEAD_LETTER: Final = "dead_letter"  # on the attention list
HANDLER_ERROR: Final = "handler_error"
WORKER_KILLED: Final = "worker_killed"
BLOCKING: Final = frozenset({HANDLER_ERROR, WORKER_KILLED})  # only what died while being applied blocks its saga
LIFTED_HERE: Final = frozenset({BEHIND_DEAD, "paused"})  # reasons for being held that `fold` judges anew
TIMERS_AT_ONCE: Final = 50
FIVE_TIMES: Final = Retry.exponential(5)
HOPELESS: Final = timedelta(hours=1)  # between tries of a timer whose handler keeps raising
NOT_NOW: Final = timedelta(seconds=5)  # a due timer that may not fire is looked at again after this


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings say about failing rows and early ones."""

    attempts: Retry = FIVE_TIMES
    crashes: int = 3
    parking: timedelta = timedelta(days=14)


def fold(
    saga: Saga[Any], ref: UUID, instance: Instance | None, rows: Sequence[InboxRow], given: Given, limits: Limits,
    *, alone: bool = False, write_error: str | None = None,
) -> SagaChange:  # fmt: skip
    """Apply what can be applied. With `alone` the first row only, which may be a suspect.

    `write_error` says that what this first row leads to cannot be written: it counts as an error of its handler.
    """
    return _Fold(saga, ref, instance, given, limits, alone=alone, write_error=write_error).run(rows)


class _Fold:
    """The working copy of one saga during one transaction."""

    def __init__(
        self, saga: Saga[Any], ref: UUID, instance: Instance | None, given: Given, limits: Limits, *, alone: bool,
        write_error: str | None,
    ) -> None:  # fmt: skip
        self.saga, self.given, self.limits, self.alone = saga, given, limits, alone
        self.write_error = write_error
        self.instance = instance
        self.change = SagaChange(ref=ref, before=instance, after=instance)
        self.parked: list[InboxRow] = []
        self.dead_reason: str | None = None  # why the saga is blocked
        self.applied = 0
        self.rows_wait = False  # a row is ready but not yet due, or must run alone

    def run(self, rows: Sequence[InboxRow]) -> SagaChange:
        ready = sorted((r for r in rows if r.state is RowState.READY), key=_sequence)
        held = [r for r in rows if r.state is RowState.HELD and r.reason in LIFTED_HERE]
        self.parked = sorted((r for r in rows if r.state is RowState.PARKED), key=lambda r: r.id)
        if any(r.state is RowState.DEAD and r.reason in BLOCKING for r in rows):
            self.dead_reason = BEHIND_DEAD
        if self._is_blocked() or not held:
            self._apply_rows(ready)
        else:
            self._release(held, ready)
        self._expire_parked()
        self._judge_attention()
        self._fire_timers()
        self._set_wake()
        self.change.after = self.instance
        return self.change

    # -- rows -----------------------------------------------------------------------------------------------------

    def _is_blocked(self) -> bool:
        return self.dead_reason is not None or self._is_paused()

    def _is_paused(self) -> bool:
        return self.instance is not None and self.instance.status is Status.PAUSED

    def _release(self, held: list[InboxRow], ready: list[InboxRow]) -> None:
        """What held these rows is lifted: ready again, in their old order. Younger rows wait for the next round."""
        self.change.rows += [_changed(row, RowState.READY) for row in held]
        self.change.again = True
        self.rows_wait = True
        self._apply_rows([row for row in ready if row.role is Role.OPERATOR])

    def _apply_rows(self, ready: list[InboxRow]) -> None:
        for row in ready:
            if self.alone and self.applied:
                self.rows_wait = self.change.again = True
                return
            if row.role is not Role.OPERATOR:
                if self._is_blocked():
                    self._hold(row)
                    continue
                if self.rows_wait:
                    continue  # behind a row in back-off or a suspect: its `next_at` decides for the whole saga
                if row.next_at is not None and row.next_at > self.given.now:
                    self.rows_wait = True
                    continue
                if row.suspect and not self.alone:
                    self.rows_wait = True
                    self.change.suspect = row.id
                    continue
            self.applied += 1
            if row.suspect and row.crashes >= self.limits.crashes:
                self._bury(row)
            else:
                self._apply(row)

    def _bury(self, row: InboxRow) -> None:
        """Workers died of this row, alone with it, as often as they may."""
        error = f"{row.crashes} workers died while they applied this row, alone; the last word has an operator."
        failed = _failed(row, self.given.now, attempts=row.attempts)
        self.change.rows.append(replace(failed, state=RowState.DEAD, reason=WORKER_KILLED, error=error))
        self.dead_reason = BEHIND_DEAD

    def _apply(self, row: InboxRow) -> None:
        decision = self._decide(_input_of(row))
        if not self._settle(row, decision):
            return
        if self.alone:
            self._unpark()
        else:
            self._take_up()

    def _decide(self, given_input: Input) -> Decision:
        if self.write_error is not None:
            return Decision(self.instance, (), Raised(self.write_error))
        return decide(self.saga, self.instance, given_input, self.given)

    def _settle(self, row: InboxRow, decision: Decision) -> bool:
        """Write down what became of `row`; True when it was applied."""
        now = self.given.now
        match decision.outcome:
            case Applied(reason):
                self.change.rows.append(_changed(row, RowState.DONE, reason=reason, settled_at=now))
                self._journal(row, decision)
                return True
            case Ignored(reason):
                self.change.rows.append(_changed(row, RowState.IGNORED, reason=reason, settled_at=now))
            case Parked(reason):
                self._park(row, reason)
            case Refused(reason, error):
                failed = _failed(row, now, attempts=row.attempts + 1)
                self.change.rows.append(replace(failed, state=RowState.DEAD, reason=reason, error=error))
            case Raised(error):
                self._fail(row, error)
            case Postponed():
                raise AssertionError("only a timer is postponed")
            case _:
                assert_never(decision.outcome)
        return False

    def _fail(self, row: InboxRow, error: str) -> None:
        """The author's code raised: again after the back-off, then a dead letter that blocks its saga."""
        failed = _failed(row, self.given.now, attempts=row.attempts + 1)
        delay = self.limits.attempts.delay(failed.attempts, self.given.jitter)
        if delay is not None:
            self.change.rows.append(replace(failed, state=RowState.READY, error=error, next_at=self.given.now + delay))
            self.rows_wait = self.rows_wait or row.role is not Role.OPERATOR
            return
        self.change.rows.append(replace(failed, state=RowState.DEAD, reason=HANDLER_ERROR, error=error))
        if row.role is not Role.OPERATOR:
            self.dead_reason = BEHIND_DEAD

    def _hold(self, row: InboxRow) -> None:
        """Behind a dead row or in a paused saga. Without a saga (its start died) the row parks without an end."""
        if self.instance is None:
            self.change.rows.append(_changed(row, RowState.PARKED, reason=BEHIND_DEAD))
        else:
            reason = "paused" if self._is_paused() else BEHIND_DEAD
            self.change.rows.append(_changed(row, RowState.HELD, reason=reason))

    def _park(self, row: InboxRow, reason: str) -> None:
        expires_at = row.expires_at or self.given.now + self.limits.parking
        self.change.rows.append(_changed(row, RowState.PARKED, reason=reason, expires_at=expires_at))
        self.parked.append(replace(row, state=RowState.PARKED, reason=reason, expires_at=expires_at))

    def _take_up(self) -> None:
        """Offer every parked row again, lowest id first, until none of them is applied any more."""
        moved = True
        while moved and self.parked:
            moved = False
            for row in list(self.parked):
                decision = self._decide(_input_of(row))
                if isinstance(decision.outcome, Parked):
                    continue
                self.parked.remove(row)
                self._forget(row.id)
                if self._settle(row, decision):
                    moved = True
                    break

    def _unpark(self) -> None:
        """After a row that ran alone: the parked ones are ready again, to be offered without it."""
        for row in self.parked:
            self._forget(row.id)
            self.change.rows.append(_changed(row, RowState.READY, expires_at=row.expires_at))
            self.change.again = True
        self.parked = []

    def _forget(self, row_id: int) -> None:
        """A row that was parked in this very transaction gets only its last word written."""
        self.change.rows = [change for change in self.change.rows if change.id != row_id]

    def _expire_parked(self) -> None:
        if self.dead_reason is not None:
            return  # what they wait for may only be dead, and come back
        for row in self.parked:
            if row.expires_at is not None and row.expires_at <= self.given.now:
                reason = "unknown_saga" if self.instance is None else "not_expected"
                self._forget(row.id)
                failed = _failed(row, self.given.now, attempts=row.attempts)
                error = f"Nothing took up this {row.type} before its parking period ended."
                self.change.rows.append(replace(failed, state=RowState.DEAD, reason=reason, error=error))
            elif row.expires_at is None and row.reason == BEHIND_DEAD:
                self._forget(row.id)  # the dead start is gone: park it like any early row from now on
                expires_at = self.given.now + self.limits.parking
                change = _changed(row, RowState.PARKED, reason="unknown_saga", expires_at=expires_at)
                self.change.rows.append(change)

    def _judge_attention(self) -> None:
        """A saga behind a dead row stands on the attention list; it leaves it when the row is gone."""
        if self.instance is not None:
            self._list(DEAD_LETTER, is_listed=self.dead_reason is not None)

    def _list(self, entry: str, *, is_listed: bool) -> None:
        """Put `entry` on the saga's attention list, or take it off."""
        assert self.instance is not None
        listed = self.instance.progress.attention
        if is_listed is not (entry in listed):
            listed = (*listed, entry) if is_listed else tuple(e for e in listed if e != entry)
            progress = replace(self.instance.progress, attention=listed)
            self.instance = replace(self.instance, attention="; ".join(listed) or None, progress=progress)

    # -- timers ---------------------------------------------------------------------------------------------------

    def _fire_timers(self) -> None:
        """Due timers, oldest first, once no row is left that could still win against them."""
        if self._is_blocked() or self.rows_wait or (self.alone and self.applied):
            return
        for _ in range(TIMERS_AT_ONCE):
            name = self._due_timer()
            if name is None:
                return
            assert self.instance is not None
            decision = self._decide(TimerFired(name, self.instance.progress.timers[name].epoch))
            self._settle_timer(name, decision)
            if isinstance(decision.outcome, Applied):
                if self.alone:
                    self._unpark()
                else:
                    self._take_up()
            if self.alone:
                return

    def _due_timer(self) -> str | None:
        if self.instance is None:
            return None
        due = [
            (timer.due_at, timer.epoch, name)
            for name, timer in self.instance.progress.timers.items()
            if timer.due_at <= self.given.now and (self.given.replies_are_in or not is_reply_timeout(name))
        ]
        return min(due)[2] if due else None

    def _settle_timer(self, name: str, decision: Decision) -> None:
        match decision.outcome:
            case Applied():
                self._journal_timer(name, decision)
                self._list(f"timer_failed: {name}", is_listed=False)
            case Postponed():
                self.instance = decision.instance
            case Raised(error):
                self._fail_timer(name, error)
            case Refused() | Parked() | Ignored():
                raise AssertionError(f"an armed timer cannot be {decision.outcome}")
            case _:
                assert_never(decision.outcome)

    def _fail_timer(self, name: str, error: str) -> None:
        """The author's code raised: the timer is due again after the back-off; out of tries it asks for attention."""
        assert self.instance is not None
        progress = self.instance.progress
        timer = progress.timers[name]
        failures = timer.failures + 1
        delay = self.limits.attempts.delay(failures, self.given.jitter)
        if delay is None:
            delay = HOPELESS
            self._list(f"timer_failed: {name}", is_listed=True)
        timers = {**progress.timers, name: replace(timer, due_at=self.given.now + delay, failures=failures)}
        progress = replace(self.instance.progress, timers=timers)
        self.instance = replace(self.instance, progress=progress, reason=self.instance.reason or error)

    def _set_wake(self) -> None:
        """When the wake row is due: the earliest timer; later if a due one may not fire now; never while blocked."""
        if self.instance is None:
            return
        due = self.instance.next_due
        if due is None or self._is_blocked():
            self.change.clear_wake = True
            return
        self.change.wake_at = due if due > self.given.now else self.given.now + NOT_NOW
        before = self.change.before
        had = before.next_due if before is not None else None
        was_blocked = before is not None and (
            before.status is Status.PAUSED or DEAD_LETTER in before.progress.attention
        )
        self.change.lower_wake = had is None or was_blocked or due < had

    # -- the journal ----------------------------------------------------------------------------------------------

    def _journal(self, row: InboxRow, decision: Decision) -> None:
        kind = row.role.name.lower()
        self._append(decision, kind=kind, source=row.source, message_id=row.message_id, inbox_id=row.id)

    def _journal_timer(self, name: str, decision: Decision) -> None:
        assert self.instance is not None
        message_id = f"timer:{self.change.ref}:{name}:{self.instance.progress.timers[name].epoch}"
        self._append(decision, kind="timer", source="timer", message_id=message_id, inbox_id=None)

    def _append(self, decision: Decision, *, kind: str, source: str, message_id: str, inbox_id: int | None) -> None:
        before, after = self.instance, decision.instance
        assert after is not None
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
                sent=tuple(effect.seq for effect in decision.effects),
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


def _sequence(row: InboxRow) -> tuple[int, int]:
    return (0 if row.role is Role.OPERATOR else 1, row.id)


def _input_of(row: InboxRow) -> Input:
    match row.role:
        case Role.EVENT:
            return EventArrived(row.type, row.saga_key or "", row.body)
        case Role.REPLY:
            answered = parse_command_id(row.correlation_id or "")
            return ReplyArrived(answered[1] if answered else 0, row.type, row.body)
        case Role.OPERATOR:
            return OperatorCommand(row.type, row.body)
        case Role.CHILD:
            raise AssertionError("no definition of this release starts children")
        case _:
            assert_never(row.role)


def _changed(
    row: InboxRow, state: RowState, *, reason: str | None = None, expires_at: datetime | None = None,
    settled_at: datetime | None = None,
) -> RowChange:  # fmt: skip
    """`row` in a new state; its counters stay, what made it wait does not."""
    return RowChange(
        id=row.id, state=state, reason=reason, attempts=row.attempts, crashes=row.crashes, expires_at=expires_at,
        first_failed_at=row.first_failed_at, settled_at=settled_at, suspect=row.suspect and state is RowState.HELD,
    )  # fmt: skip


def _failed(row: InboxRow, now: datetime, *, attempts: int) -> RowChange:
    """The counters of a row that failed now; the caller puts in state, reason and error."""
    return RowChange(
        id=row.id, state=RowState.READY, attempts=attempts, crashes=row.crashes,
        first_failed_at=row.first_failed_at or now, last_failed_at=now,
    )  # fmt: skip
