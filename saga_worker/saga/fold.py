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

from msgspec import structs

from saga_worker.saga.backlog import (
    BEHIND_DEAD,
    HANDLER_ERROR,
    PAUSED,
    WORKER_KILLED,
    changed,
    failed,
    input_of,
    is_blocking,
    is_held_here,
    sequence,
)
from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.decide import decide
from saga_worker.saga.decide.event import is_over
from saga_worker.saga.decide.timer import is_local, is_reply_timeout
from saga_worker.saga.definition import Saga
from saga_worker.saga.draft import SEQUENCE_GAP, gap_subject
from saga_worker.saga.inputs import (
    Applied,
    Decision,
    Given,
    Ignored,
    Input,
    LocalDone,
    LocalFailed,
    Parked,
    Postponed,
    PublishEvent,
    Raised,
    Refused,
    SendCommand,
    TimerFired,
)
from saga_worker.saga.instance import Instance, Timer
from saga_worker.saga.lines import Lines
from saga_worker.saga.retry import Retry
from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.saga.transitions import Status

DEAD_LETTER: Final = "dead_letter"  # on the attention list
TIMER_FAILED: Final = "timer_failed: "  # on the attention list, with the name of the timer and the error
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


def fold_local(
    saga: Saga[Any], instance: Instance, rows: Sequence[InboxRow], given: Given, limits: Limits,
    done: LocalDone | LocalFailed,
) -> SagaChange:  # fmt: skip
    """Apply the outcome of a local step; raises `LocalRefused` when that cannot be."""
    folding = _Fold(saga, instance.ref, instance, given, limits, alone=True, write_error=None)
    return folding.run_local(rows, done)


def due_local(instance: Instance | None, now: datetime) -> tuple[int, int] | None:
    """Number and epoch of the local step whose turn it is."""
    if instance is None:
        return None
    timers = instance.progress.timers.items()
    due = [(timer.due_at, timer.epoch, name) for name, timer in timers if is_local(name) and timer.due_at <= now]
    if not due or instance.status is Status.PAUSED:
        return None
    _, epoch, name = min(due)
    return int(name.partition(":")[2]), epoch


def is_blocked(rows: Sequence[InboxRow]) -> bool:
    """Whether a dead row stops the saga of these rows."""
    return any(is_blocking(row) for row in rows)


class LocalRefused(Exception):
    """What a local step did cannot be kept; the text says why."""


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
        self.lines = Lines()
        self.is_behind_dead = False
        self.is_offered = False  # the parked rows have been judged where the saga stands now
        self.applied = 0
        self.rows_wait = False  # a row is ready but not yet due, or must run alone

    def run(self, rows: Sequence[InboxRow]) -> SagaChange:
        ready = sorted((r for r in rows if r.state is RowState.READY), key=sequence)
        aside = sorted((r for r in rows if r.state in (RowState.PARKED, RowState.HELD)), key=lambda r: r.id)
        held = [r for r in aside if is_held_here(r)]
        parked = [r for r in aside if r.state is RowState.PARKED and not is_held_here(r)]
        self.parked = [r for r in parked if r.sequence is None]
        self.lines.extend(parked)
        self.is_behind_dead = any(is_blocking(r) for r in rows)
        if self._is_blocked() or not held:
            self._apply_rows(ready)
        else:
            self._release(held, ready)
        self._offer_once()
        self._expire_parked()
        self._fire_timers()
        return self._finish()

    def run_local(self, rows: Sequence[InboxRow], done: LocalDone | LocalFailed) -> SagaChange:
        """Only what a local step has led to; rows have their turn in the next transaction.

        Raises `LocalRefused` when the step's outcome cannot be applied: its transaction must be rolled back.
        """
        self.is_behind_dead = any(is_blocking(r) for r in rows)
        before = self.instance
        decision = self._decide(done)
        match decision.outcome:
            case Applied():
                self._journal_local(done, decision)
            case Raised(error):
                raise LocalRefused(error)
            case _:
                raise LocalRefused("the step is not due any more")
        if _has_moved(before, self.instance):
            self._put_behind([r for r in rows if r.state is RowState.PARKED and not is_held_here(r)])
        self.change.again = self.change.again or any(r.state is RowState.READY for r in rows)
        return self._finish()

    def _finish(self) -> SagaChange:
        self._judge_attention()
        self._set_wake()
        self.change.after = self.instance
        self.change.local = not self._is_blocked() and due_local(self.instance, self.given.now) is not None
        return self.change

    # -- rows -----------------------------------------------------------------------------------------------------

    def _is_blocked(self) -> bool:
        return self.is_behind_dead or self._is_paused()

    def _is_paused(self) -> bool:
        return self.instance is not None and self.instance.status is Status.PAUSED

    def _release(self, held: list[InboxRow], ready: list[InboxRow]) -> None:
        """What held these rows is lifted: ready again, in their old order. Younger rows wait for the next round."""
        self.change.rows += [changed(row, RowState.READY) for row in held]
        self.change.again = True
        self.rows_wait = True
        self._apply_rows([row for row in ready if row.role is Role.OPERATOR])

    def _apply_rows(self, ready: list[InboxRow]) -> None:
        for row in ready:
            if self.alone and self.applied:
                self.rows_wait = self.change.again = True
                return
            if not self._may_run(row):
                continue
            self.applied += 1
            if row.suspect and row.crashes >= self.limits.crashes:
                self._bury(row)
            else:
                self._apply(row)

    def _may_run(self, row: InboxRow) -> bool:
        """Whether it is the turn of `row`. One that waits makes those behind it wait, unless it is an operator's."""
        is_operators = row.role is Role.OPERATOR
        if not is_operators and self._is_blocked():
            self._hold(row)
            return False
        if not is_operators and self.rows_wait:
            return False  # behind a row in back-off or a suspect: its `next_at` decides for the whole saga
        is_suspect = row.suspect and not self.alone
        if is_suspect and self.change.suspect is None:
            self.change.suspect = row.id
        may_run = not is_suspect and (row.next_at is None or row.next_at <= self.given.now)
        self.rows_wait = self.rows_wait or not (may_run or is_operators)
        return may_run

    def _bury(self, row: InboxRow) -> None:
        """Workers died of this row, alone with it, as often as they may."""
        error = f"{row.crashes} workers died while they applied this row, alone; the last word has an operator."
        counted = failed(row, self.given.now, attempts=row.attempts)
        self.change.rows.append(replace(counted, state=RowState.DEAD, reason=WORKER_KILLED, error=error))
        self.is_behind_dead = self.is_behind_dead or row.role is not Role.OPERATOR

    def _apply(self, row: InboxRow) -> None:
        before = self.instance
        if self._settle(row, self._decide(input_of(row))):
            self._after_step(before)

    def _after_step(self, before: Instance | None) -> None:
        """Where the saga has moved, parked rows may have their turn; where a line has, the next of it."""
        if not _has_moved(before, self.instance):
            if self.alone:
                self._put_behind(self._next_in_line())
            elif self.lines:
                self._move_lines()
        elif self.alone:
            self._put_behind([*self.parked, *self._next_in_line()])
            self.parked = []
        elif self.rows_wait or self._is_blocked():
            self.is_offered = False  # an operator's row moved the saga; nothing overtakes those that wait
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
                self.change.rows.append(changed(row, RowState.DONE, reason=reason, settled_at=now))
                self._journal(row, decision)
                return True
            case Ignored(reason):
                self.change.rows.append(changed(row, RowState.IGNORED, reason=reason, settled_at=now))
            case Parked(reason, number):
                self._park(row, reason, number)
            case Refused(reason, error):
                counted = failed(row, now, attempts=row.attempts + 1)
                self.change.rows.append(replace(counted, state=RowState.DEAD, reason=reason, error=error))
            case Raised(error):
                self._fail(row, error)
            case Postponed():
                raise AssertionError("only a timer is postponed")
            case _:
                assert_never(decision.outcome)
        return False

    def _fail(self, row: InboxRow, error: str) -> None:
        """The author's code raised: again after the back-off, then a dead letter that blocks its saga."""
        counted = failed(row, self.given.now, attempts=row.attempts + 1)
        delay = self.limits.attempts.delay(counted.attempts, self.given.jitter)
        if delay is not None:
            self.change.rows.append(replace(counted, state=RowState.READY, error=error, next_at=self.given.now + delay))
            self.rows_wait = self.rows_wait or row.role is not Role.OPERATOR
            return
        self.change.rows.append(replace(counted, state=RowState.DEAD, reason=HANDLER_ERROR, error=error))
        self.is_behind_dead = self.is_behind_dead or row.role is not Role.OPERATOR

    def _hold(self, row: InboxRow) -> None:
        """Behind a dead row or in a paused saga. Without a saga (its start died) the row parks without an end."""
        if self.instance is None:
            self.change.rows.append(changed(row, RowState.PARKED, reason=BEHIND_DEAD))
        else:
            reason = PAUSED if self._is_paused() else BEHIND_DEAD
            self.change.rows.append(changed(row, RowState.HELD, reason=reason))

    def _park(self, row: InboxRow, reason: str, number: int | None) -> None:
        expires_at = row.expires_at or self.given.now + self.limits.parking
        parked = replace(row, state=RowState.PARKED, reason=reason, expires_at=expires_at, sequence=number)
        self.change.rows.append(changed(parked, RowState.PARKED, reason=reason, expires_at=expires_at))
        if number is None:
            self.parked.append(parked)
        else:
            self.lines.add(parked)

    def _offer_once(self) -> None:
        """A net under the offers that follow a step, and the turn of rows that an earlier page left out."""
        if not (self.is_offered or self.alone or self.rows_wait or self._is_blocked()):
            self._take_up()

    def _take_up(self) -> None:
        """Offer every parked row, lowest id first; from the start again whenever one of them moved the saga."""
        self.is_offered = True
        if not self._move_lines():
            return
        place = 0
        while place < len(self.parked):
            row = self.parked[place]
            decision = self._decide(input_of(row))
            if isinstance(decision.outcome, Parked):
                self.parked[place] = self._still_parked(row, decision.outcome.reason)
                place += 1
                continue
            del self.parked[place]
            self._forget(row.id)
            before = self.instance
            if self._settle(row, decision) and _has_moved(before, self.instance):
                if not self._move_lines():
                    return
                place = 0
            elif isinstance(decision.outcome, Raised):
                behind, self.parked = self.parked[place:], self.parked[:place]
                self._put_behind(behind)
                return

    def _next_in_line(self) -> list[InboxRow]:
        """The numbered rows whose turn it is, taken out of their lines; all of them when the saga takes no more."""
        if self.instance is None:
            return []
        if is_over(self.instance.status):
            rows = self.lines.take_all()
            self.change.again = self.change.again or bool(rows)  # there may be more than were read
            return rows
        return self.lines.take_next(self.instance.progress.sequences)

    def _move_lines(self) -> bool:
        """Apply numbered rows as long as the next of some line is there; False when one of them failed."""
        early: list[InboxRow] = []  # their number has come, but the saga does not stand where it takes them
        while not (self.rows_wait or self._is_blocked()) and (rows := self._next_in_line()):
            for place, row in enumerate(rows):
                decision = self._decide(input_of(row))
                if isinstance(decision.outcome, Parked):
                    early.append(self._still_parked(row, decision.outcome.reason))
                    continue
                self._forget(row.id)
                before = self.instance
                if self._settle(row, decision) and _has_moved(before, self.instance):
                    self.lines.extend(early)
                    early = []
                if self.rows_wait or self._is_blocked():
                    early += rows[place + 1 :]
                    break
        self.lines.extend(early)
        return not (self.rows_wait or self._is_blocked())

    def _still_parked(self, row: InboxRow, reason: str) -> InboxRow:
        """Written again only when it waits for something else now."""
        if row.reason == reason:
            return row
        self._forget(row.id)
        self.change.rows.append(changed(row, RowState.PARKED, reason=reason, expires_at=row.expires_at))
        return replace(row, reason=reason)

    def _put_behind(self, rows: list[InboxRow]) -> None:
        """Parked rows whose turn may be now, but not in this transaction: in sequence with all others again."""
        for row in rows:
            self._forget(row.id)
            if self._is_blocked():
                self._hold(row)
            else:
                self.change.rows.append(changed(row, RowState.READY, expires_at=row.expires_at))
                self.change.again = self.change.again or not self.rows_wait

    def _forget(self, row_id: int) -> None:
        """A row that was parked in this very transaction gets only its last word written."""
        self.change.rows = [change for change in self.change.rows if change.id != row_id]

    def _expire_parked(self) -> None:
        for row in [*self.parked, *self.lines]:
            if row.expires_at is None or row.expires_at > self.given.now:
                continue
            self._forget(row.id)
            if self._is_blocked():  # what they wait for may only be dead, and come back: another period
                expires_at = self.given.now + self.limits.parking
                change = changed(row, RowState.PARKED, reason=row.reason, expires_at=expires_at)
            else:
                reason = "unknown_saga" if self.instance is None else "not_expected"
                error = f"Nothing took up this {row.type} before its parking period ended."
                counted = failed(row, self.given.now, attempts=row.attempts)
                change = replace(counted, state=RowState.DEAD, reason=reason, error=error)
                self._note_gap(row)
            self.change.rows.append(change)

    def _note_gap(self, row: InboxRow) -> None:
        """One of a line is given up: somebody has to look where the number is that it waited for."""
        if row.sequence is None or self.instance is None or is_over(self.instance.status):
            return
        reason = SEQUENCE_GAP
        self._list([*self.instance.progress.attention, f"{reason}: {gap_subject(row.source)}"])

    def _judge_attention(self) -> None:
        """What only `fold` knows: a dead row that blocks the saga, and timers whose code keeps raising."""
        if self.instance is None:
            return
        timers = self.instance.progress.timers
        listed = [e for e in self.instance.progress.attention if e != DEAD_LETTER and not _is_over(e, timers)]
        if self.is_behind_dead:
            listed.append(DEAD_LETTER)
        self._list(listed)

    def _list(self, listed: list[str]) -> None:
        """Make this the saga's attention list."""
        assert self.instance is not None
        if set(listed) != set(self.instance.progress.attention):
            listed = list(dict.fromkeys(listed))
            progress = structs.replace(self.instance.progress, attention=tuple(listed))
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
            before = self.instance
            decision = self._decide(TimerFired(name, before.progress.timers[name].epoch))
            self._settle_timer(name, decision)
            if isinstance(decision.outcome, Applied) and _has_moved(before, self.instance):
                self._wait_for_parked()
            if self.alone or self.rows_wait or self._is_blocked():
                return

    def _wait_for_parked(self) -> None:
        """A timer has moved the saga: parked rows have their turn before the next one.

        In a transaction of their own, which announces them: of those that this one takes up nobody would know if the
        author's code killed the worker, and the timer would do it again for ever.
        """
        rows = [*self.parked, *self._next_in_line()]
        if rows:
            self._put_behind(rows)
            self.parked = []
            self.rows_wait = True

    def _due_timer(self) -> str | None:
        if self.instance is None:
            return None
        due = [
            (timer.due_at, timer.epoch, name)
            for name, timer in self.instance.progress.timers.items()
            if timer.due_at <= self.given.now
            and not is_local(name)
            and (self.given.replies_are_in or not is_reply_timeout(name))
        ]
        return min(due)[2] if due else None

    def _settle_timer(self, name: str, decision: Decision) -> None:
        match decision.outcome:
            case Applied():
                self._journal_timer(name, decision)
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
        timers = {
            **progress.timers,
            name: structs.replace(timer, due_at=self.given.now + (delay or HOPELESS), failures=failures),
        }
        self.instance = replace(self.instance, progress=structs.replace(progress, timers=timers))
        if delay is None:
            others = [entry for entry in progress.attention if not entry.startswith(f"{TIMER_FAILED}{name}: ")]
            self._list([*others, f"{TIMER_FAILED}{name}: {error[:200].replace('; ', ', ')}"])

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
        # One that was due before may have been put off: a time-out that waits for replies, a local step in other hands.
        self.change.lower_wake = had is None or was_blocked or due < had or had <= self.given.now

    # -- the journal ----------------------------------------------------------------------------------------------

    def _journal(self, row: InboxRow, decision: Decision) -> None:
        kind = row.role.name.lower()
        self._append(decision, kind=kind, source=row.source, message_id=row.message_id, inbox_id=row.id)

    def _journal_timer(self, name: str, decision: Decision) -> None:
        assert self.instance is not None
        message_id = f"timer:{self.change.ref}:{name}:{self.instance.progress.timers[name].epoch}"
        self._append(decision, kind="timer", source="timer", message_id=message_id, inbox_id=None)

    def _journal_local(self, done: LocalDone | LocalFailed, decision: Decision) -> None:
        message_id = f"local:{self.change.ref}:{done.seq}:{done.epoch}"
        self._append(decision, kind="local", source="local", message_id=message_id, inbox_id=None)

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
                sent=tuple(e.seq for e in decision.effects if isinstance(e, SendCommand | PublishEvent)),
                timers=_armed(before, after),
            )
        )
        self.change.effects += decision.effects
        self.instance = after


def _has_moved(before: Instance | None, after: Instance | None) -> bool:
    """Whether an event that was early before may be due, or too late, now."""
    if before is None or after is None:
        return before is not after
    return before.status is not after.status or before.progress.active.keys() != after.progress.active.keys()


def _is_over(entry: str, timers: dict[str, Timer]) -> bool:
    """Whether this entry is about a timer that is gone, was armed anew, or is to be tried afresh."""
    name = entry.removeprefix(TIMER_FAILED)
    return name != entry and not any(name.startswith(f"{n}: ") and timer.failures for n, timer in timers.items())


def _armed(before: Instance | None, after: Instance) -> tuple[str, ...]:
    """The timers that `after` has and `before` had not, or had under another epoch."""
    old = before.progress.timers if before else {}
    return tuple(
        f"{name}:{timer.epoch}"
        for name, timer in after.progress.timers.items()
        if name not in old or old[name].epoch != timer.epoch
    )
