"""One saga with its inbox, outbox and clock in memory: what `SagaTest` and random histories run on.

Takes messages, guarantees to do with them what the worker does around `fold` (store once, claim by the head of the
inbox, fire by the wake row, keep the saga as stored bytes) and hands out every effect and journal row in order.
Rules that the database enforces are asserted here, so that a decision it would refuse fails in a pure test, too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from msgspec.structs import replace

from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.decide.timer import is_local
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import Limits, due_local, fold, fold_local
from saga_worker.saga.fold.backlog import sequence
from saga_worker.saga.inputs import MESSAGES, Effect, Given, LocalDone, LocalFailed, SendCommand
from saga_worker.saga.instance import Instance
from saga_worker.saga.records import dump_progress, load_progress
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
SAGA_ID: Final = UUID(int=0x5A6A)
ROUNDS: Final = 1000  # transactions at one instant; more is a loop without end
PAGE: Final = 200  # rows of each kind that one transaction reads
MAY_HAVE_NO_REASON: Final = frozenset({RowState.READY, RowState.DONE})


class OneSaga:
    """The saga of `key`, at `now`. Nothing happens by itself: `store` then `drain`, or `advance`."""

    def __init__(self, saga: Saga[Any], key: str, *, limits: Limits | None = None, jitter: float = 0.0) -> None:
        self.saga = saga
        self.registry = Registry([saga])
        self.key = key
        self.ref = ref_of(saga.name, key)
        self.limits = limits or Limits()
        self.jitter = jitter
        self.now = START
        self.instance: Instance | None = None
        self.runs = 0
        self.rows: dict[int, InboxRow] = {}
        self.errors: dict[int, str] = {}  # row id -> the last error
        self.journal: list[JournalRow] = []
        self.effects: list[Effect] = []
        self.versions: list[Saga[Any]] = [saga]  # all that were ever loaded, the last first
        self.relay_runs = True
        self.replies_are_in = True
        self.unsent: set[int] = set()
        self.wake_at: datetime | None = None  # the wake row

    def deploy(self, *versions: Saga[Any]) -> None:
        """From now on these versions are loaded, and no others."""
        self.registry = Registry(versions)
        newest = self.registry.latest(self.saga.name)
        assert newest is not None, f"no version of {self.saga.name} is left"
        self.saga = newest
        self.versions = [*reversed(versions), *self.versions]

    # -- what comes in --------------------------------------------------------------------------------------------

    def store(
        self, role: Role, type_: str, body: bytes, *, message_id: str, correlation_id: str | None = None,
        source: str | None = None,
    ) -> InboxRow | None:  # fmt: skip
        """A new ready row; None when a message of this id was stored before."""
        source = source or ("operator" if role is Role.OPERATOR else "test")
        dedup = uuid5(SAGA_ID, f"{self.saga.name}/{source}/{message_id}")
        if any(row.dedup == dedup for row in self.rows.values()):
            return None
        row = InboxRow(
            id=len(self.rows) + 1, dedup=dedup, consumer=self.saga.name, source=source, message_id=message_id,
            type=type_, role=role, ref=self.ref, saga_key=self.key, correlation_id=correlation_id,
            state=RowState.READY, reason=None, suspect=False, attempts=0, crashes=0, first_failed_at=None,
            next_at=None, expires_at=None, received_at=self.now, body=body,
        )  # fmt: skip
        self.rows[row.id] = row
        return row

    def failed_timers(self) -> dict[str, int]:
        """The timers whose code raised the last time they fired, and how often; local steps are told to fail."""
        timers = self.instance.progress.timers if self.instance is not None else {}
        return {name: timer.failures for name, timer in timers.items() if timer.failures and not is_local(name)}

    def in_state(self, *states: RowState) -> list[InboxRow]:
        return [row for row in self.rows.values() if row.state in states]

    def replay(self) -> int:
        """Make all dead rows ready, as an operator does."""
        dead = self.in_state(RowState.DEAD)
        for row in dead:
            self.rows[row.id] = replace(row, state=RowState.READY, reason=None, attempts=0, crashes=0, next_at=None)
        return len(dead)

    def discard(self) -> int:
        """Ignore all dead rows for good; the saga is asked to look again."""
        dead = self.in_state(RowState.DEAD)
        for row in dead:
            self.rows[row.id] = replace(row, state=RowState.IGNORED, reason="discarded")
            self.store(Role.OPERATOR, "recheck", b"{}", message_id=f"recheck:{row.id}:{len(self.rows)}")
        return len(dead)

    # -- time -----------------------------------------------------------------------------------------------------

    def advance(self, by: timedelta) -> None:
        """Let time pass, stopping at every moment at which the worker would look at this saga."""
        target = self.now + by
        self.drain()
        rounds = 0
        while (moment := self._next_moment()) is not None and moment <= target:
            rounds = rounds + 1 if moment <= self.now else 0
            assert rounds < ROUNDS, f"saga {self.key} is looked at again and again at {self.now}: {self._pending()}"
            self.now = max(self.now, moment)
            self.step(from_timers=self.wake_at is not None and self.wake_at <= self.now)
            self.drain()
        self.now = target

    def _next_moment(self) -> datetime | None:
        """When somebody would look: the wake row, the head of the ready rows, a parked row that expires."""
        moments = [row.expires_at for row in self.in_state(RowState.PARKED)] + [self.wake_at]
        if (head := self._head()) is not None:
            moments.append(head.next_at or self.now)
        return min((moment for moment in moments if moment is not None), default=None)

    def _head(self) -> InboxRow | None:
        return min(self.in_state(RowState.READY), key=sequence, default=None)

    # -- transactions ---------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Apply whatever can run at this moment."""
        is_wanted = False
        for _ in range(ROUNDS):
            head = self._head()
            is_due = head is not None and (head.next_at is None or head.next_at <= self.now)
            if not is_due and not is_wanted:
                return
            change = self.step()
            if change is None:
                return
            is_wanted = change.again
            if change.suspect is not None or change.suspect_timer:
                alone = self.step(alone=True)
                is_wanted = is_wanted or (alone is not None and alone.again)
        raise AssertionError(f"saga {self.key} does not come to rest at {self.now}: {self._pending()}")

    def step(
        self, *, from_timers: bool = False, alone: bool = False, write_error: str | None = None
    ) -> SagaChange | None:
        """One transaction; None when there is nothing to look at."""
        rows = self._backlog()
        if self.instance is None and not rows:
            return None
        given = Given(
            self.now, self.jitter, self._next_id(), unsent=frozenset(self.unsent), replies_are_in=self.replies_are_in,
            crashes=self.limits.crashes,
        )  # fmt: skip
        saga, upgrade = self.registry.runs_by(self.instance) if self.instance is not None else (self.saga, None)
        if saga is None:
            return None  # left to a worker that has its version
        change = fold(
            saga, self.ref, self.instance, rows, given, self.limits, alone=alone, write_error=write_error,
            upgrade=upgrade,
        )  # fmt: skip
        self._save(change)
        self._save_wake(change, from_timers=from_timers)
        if len(rows) >= PAGE and change.rows:
            change.again = True  # there may be more than was read
        return change

    def due_local(self) -> tuple[int, int] | None:
        """Number and epoch of the local step whose turn it is."""
        return due_local(self.instance, self.now)

    def run_local(self, done: LocalDone | LocalFailed) -> SagaChange:
        """The transaction of a local step."""
        assert self.instance is not None
        given = Given(self.now, self.jitter, SAGA_ID, replies_are_in=self.replies_are_in)
        saga, _ = self.registry.runs_by(self.instance)
        assert saga is not None
        change = fold_local(saga, self.instance, self._backlog(), given, self.limits, done)
        self._save(change)
        self._save_wake(change, from_timers=False)
        return change

    def _next_id(self) -> UUID:
        """Of the run that may begin: the first one has a name of its own in tests."""
        return SAGA_ID if self.runs == 0 else uuid5(SAGA_ID, f"run {self.runs}")

    def _backlog(self) -> list[InboxRow]:
        """What the statement that reads the backlog gives: a page of each kind, held and dead rows without body."""
        ready = sorted(self.in_state(RowState.READY), key=sequence)
        aside = [replace(row, body=b"") for row in self.in_state(RowState.HELD, RowState.DEAD)]
        return [*ready[:PAGE], *self.in_state(RowState.PARKED)[:PAGE], *aside[:PAGE]]

    def _save(self, change: SagaChange) -> None:
        before, after = change.before, change.after
        assert before is self.instance and (after is not None or not (change.journal or change.effects))
        if after is not None:
            stood_at = before.revision if before is not None and not change.has_begun else 0
            assert after.revision == stood_at + len(change.journal), "a step without journal"
            self.runs += change.has_begun
            assert (after.finished_at is not None) is after.status.is_final
            stored = load_progress(dump_progress(after.progress))
            assert stored == after.progress, "the progress does not survive being stored"
            self.instance = replace(after, progress=stored)
        for seen in change.rows:
            self._settle(seen)
        assert len({seen.id for seen in change.rows}) == len(change.rows), "a row is named twice"
        self.journal += change.journal
        self.effects += change.effects
        if not self.relay_runs:
            self.unsent |= {effect.seq for effect in change.effects if isinstance(effect, MESSAGES)}

    def _settle(self, seen: RowChange) -> None:
        row = self.rows[seen.id]
        assert seen.reason is not None or seen.state in MAY_HAVE_NO_REASON, f"{seen} gives no reason"
        self.rows[seen.id] = replace(
            row, state=seen.state, reason=seen.reason, suspect=seen.suspect, attempts=seen.attempts,
            crashes=seen.crashes, first_failed_at=seen.first_failed_at, next_at=seen.next_at,
            expires_at=seen.expires_at,
        )  # fmt: skip
        if seen.error is not None:
            self.errors[seen.id] = seen.error

    def _save_wake(self, change: SagaChange, *, from_timers: bool) -> None:
        """The wake row is lowered by any step, and corrected only by those that it caused."""
        if from_timers:
            self.wake_at = change.wake_at if change.wake_at is not None or not change.again else self.wake_at
        elif change.clear_wake:
            self.wake_at = None
        elif change.lower_wake and change.wake_at is not None:
            self.wake_at = min(self.wake_at or change.wake_at, change.wake_at)

    def _pending(self) -> list[str]:
        """What is not settled, for the words of a failure."""
        timers = self.instance.progress.timers if self.instance is not None else {}
        waiting = self.in_state(RowState.READY, RowState.PARKED, RowState.HELD)
        return [*(f"{row.type} is {row.state.label}" for row in waiting), *timers]

    # -- what went out --------------------------------------------------------------------------------------------

    def commands(self) -> list[SendCommand]:
        """Every command and undo that was sent, resends included."""
        return [effect for effect in self.effects if isinstance(effect, SendCommand)]
