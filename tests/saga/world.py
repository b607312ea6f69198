"""One saga that checks the promises after every transaction: what random histories run on.

`WatchedSaga` checks; here stands what a history may do to it. `settle_down` checks that nothing is stuck: when faults
end and everybody answers, every saga ends, settled.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from msgspec.structs import replace
from pydantic_core import to_json

from saga_worker import Retry, Saga, days, seconds
from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.decide import describe_error
from saga_worker.saga.fold import Limits
from saga_worker.saga.fold.backlog import SAGA_SOURCE
from saga_worker.saga.inputs import ACTIVITY_DONE, COMPENSATED, COMPLETED, LocalDone, LocalFailed, RunActivity
from saga_worker.saga.instance import NEVER, Fate
from saga_worker.saga.messages import Message, encode
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.terminal import resolve_terminal_error
from saga_worker.testing.children import Child, children_asked_back, children_started
from saga_worker.testing.promises import WatchedSaga
from tests.saga.scripted import BROKEN, LOCALS, Begun, Out, Signal, Yes

LIMITS: Final = Limits(attempts=Retry.fixed(2, seconds(10)), crashes=2, parking=days(3))


class World(WatchedSaga):
    """`WatchedSaga`, told what to do by the acts of a history."""

    def __init__(self, saga: Saga[Any], *, authors: str = "scripted.py", prefix: str = "") -> None:
        """`authors`: the file that holds the definition's functions; what raises elsewhere is an error of the core.
        `prefix`: of the ids of messages.
        """
        super().__init__(saga, "k", limits=LIMITS)
        self.authors = authors
        self.prefix = prefix
        self.messages = 0
        self.children_told: set[str] = set()
        self.effects_of_locals: list[tuple[str, bool]] = []  # step, and whether it was taken back

    # -- what a history may do --------------------------------------------------------------------------------------

    def message(
        self, role: Role, message: Message, *, seq: int | None = None, id_: str | None = None
    ) -> InboxRow | None:
        """Store a message, under a new id unless one is given."""
        return self.put(role, message.wire_type, encode(message), seq=seq, id_=id_)

    def put(
        self, role: Role, type_: str, body: bytes, *, seq: int | None = None, id_: str | None = None
    ) -> InboxRow | None:
        self.messages += 1
        correlation_id = command_id(self.ref, seq) if seq is not None else None
        return self.store(
            role, type_, body, message_id=id_ or f"{self.prefix}message-{self.messages}", correlation_id=correlation_id
        )  # fmt: skip

    def answer(self, seq: int, message: Message, *, outcome: str = ACTIVITY_DONE) -> InboxRow | None:
        """An answer to what was asked under this number: a reply, or the result of an activity."""
        if not isinstance(self.asked.get(seq), RunActivity):
            return self.message(Role.REPLY, message, seq=seq)
        if outcome == ACTIVITY_DONE:
            return self.put(Role.ACTIVITY, outcome, encode(message), seq=seq)
        details = {"error": "it failed", "attempts": 1, "is_terminal": getattr(message, "then", "go") != "compensate"}
        return self.put(Role.ACTIVITY, outcome, to_json(details), seq=seq)

    def children(self) -> list[Child]:
        """Those that were started, or asked to go back, and have not answered that."""
        asked = [*children_started(self), *children_asked_back(self)]
        return [child for child in asked if child.message_id not in self.children_told]

    def child_ends(self, child: Child, outcome: str = COMPLETED, then: str = "go") -> None:
        """It says how it has ended; asked to go back it cannot complete any more."""
        is_asked_back = child in children_asked_back(self)
        if is_asked_back and outcome == COMPLETED:
            outcome = COMPENSATED
        self.children_told.add(child.message_id)
        body = to_json({"key": "child", "seen": [then]}) if outcome == COMPLETED else to_json({"reason": "so it is"})
        source = f"{SAGA_SOURCE}{child.definition}"
        self.store(Role.CHILD, outcome, body, message_id=child.message_id, source=source)

    def operator(self, command: str, step: str = "a") -> None:
        self.messages += 1
        body = b'{"destination": "p", "why": "because", "step": "%s"}' % step.encode()
        self.store(Role.OPERATOR, command, body, message_id=f"{self.prefix}operator-{self.messages}")

    def move_timer(self, what: str, name: str, epoch: int) -> None:
        self.messages += 1
        body = b'{"timer": "%s:%d", "after_seconds": 3600}' % (name.encode(), epoch)
        self.store(Role.OPERATOR, f"timer_{what}", body, message_id=f"{self.prefix}operator-{self.messages}")

    def suspect(self, row: InboxRow, crashes: int) -> None:
        """A worker died while it had this row in hand."""
        self.rows[row.id] = replace(row, suspect=True, crashes=crashes)

    def relay(self, runs: bool) -> None:
        self.relay_runs = runs
        if runs:
            self.unsent.clear()

    def advance(self, by: timedelta) -> None:
        """As time passes, a local step runs as soon as it has its turn; nobody looks at one every few seconds."""
        target = self.now + by
        self.run_due_locals()
        while (moment := self._next_moment()) is not None and moment <= target:
            super().advance(max(moment - self.now, timedelta(0)))
            self.run_due_locals()
        super().advance(target - self.now)

    def run_due_locals(self) -> None:
        """Local steps whose turn it is run at once, in a transaction of their own each."""
        for _ in range(20):
            due = self.due_local()
            if due is None or self.is_blocked():
                return
            done = self._call(*due)
            if LOCALS:
                LOCALS.pop(0)
            record = self.instance.progress.commands[done.seq] if self.instance is not None else None
            self.run_local(done)
            if isinstance(done, LocalDone) and record is not None:
                self.effects_of_locals.append((record.step, record.undoes is not None))
            self.drain()

    def _call(self, seq: int, epoch: int) -> LocalDone | LocalFailed:
        """The author's function, as the transaction of a local step calls it; its session leads nowhere."""
        assert self.instance is not None
        record = self.instance.progress.commands[seq]
        step = self.saga.steps[record.step]
        assert isinstance(step, LocalStep)
        state = self.saga.state_model.model_validate_json(self.instance.state, by_name=True, by_alias=False)
        work: Any = step.work if record.undoes is None else step.undo_work
        try:
            verdict = _finished(work(state, _Nowhere()))
        except Exception as error:
            final = resolve_terminal_error(error, mapper=step.as_terminal)
            words = (final.reason if final is not None else "") or describe_error(error)
            return LocalFailed(seq, epoch, words, is_terminal=final is not None)
        if record.undoes is not None:
            state = self.saga.state_model.model_validate_json(self.instance.state, by_name=True, by_alias=False)
            verdict = None
        return LocalDone(seq, epoch, state, verdict)

    def _settle(self, seen: RowChange) -> None:
        super()._settle(seen)
        if seen.error is not None and (seen.state is RowState.READY or seen.reason == "handler_error"):
            assert f" at {self.authors}:" in seen.error, f"an error of the core: {seen.error}"

    # -- when the faults end ------------------------------------------------------------------------------------------

    def settle_down(self) -> None:
        """Everybody answers, nothing raises, an operator looks: then the saga ends, settled, within a few rounds."""
        BROKEN.clear()
        BROKEN.add("fixed")
        self.relay(runs=True)
        self.replies_are_in = True
        self.replay()
        self.advance(seconds(30))
        self.run_due_locals()
        for _ in range(60):
            if self.is_settled():
                break
            self._help()
        assert self.is_settled(), f"stuck: {self.instance}"
        self.check_losers()

    def _help(self) -> None:
        """One round of good will: answers, events, `retry`; what stays dead is discarded; time passes."""
        progress = self.instance.progress if self.instance is not None else None
        if progress is not None:
            for record in progress.commands.values():
                if record.fate in (Fate.SENT, Fate.UNKNOWN) and not isinstance(self.step_of(record), LocalStep):
                    if isinstance(self.step_of(record), SubsagaStep | EachStep):
                        continue
                    is_activity = isinstance(self.step_of(record), ActivityStep)
                    self.answer(record.seq, Out() if is_activity else Yes())
            for child in self.children():
                self.child_ends(child)
            for command in ("resume", "delivered", "retry"):
                self.operator(command)
            for name, timer in progress.timers.items():
                if timer.due_at == NEVER:
                    self.move_timer("fire", name, timer.epoch)
            if any(seq is None for seq in progress.active.values()):
                self.message(Role.EVENT, Begun())
                self.message(Role.EVENT, Signal())
        self.discard()
        self.advance(timedelta(0))
        self.run_due_locals()
        self.advance(days(6) if progress is not None and not any(progress.active.values()) else seconds(30))
        self.run_due_locals()


class _Nowhere:
    """In place of a session."""

    async def execute(self, *_: object) -> None: ...


def _finished(work: Any) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a local step of a test waits for something")
