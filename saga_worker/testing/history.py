"""One history of a saga: what the others have said so far, the story of it, and what has to hold at each of its steps.

Takes a saga and what is said to it, guarantees that a promise which breaks is told as a story from the beginning, and
that a history can be copied and gone on with in two ways. `crash_matrix` decides what happens next.
"""

from __future__ import annotations

from copy import copy
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn, Self

from pydantic_core import to_json

from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import Limits
from saga_worker.saga.fold.backlog import BLOCKING, SAGA_SOURCE
from saga_worker.saga.inputs import TAKE_BACK, LocalDone, LocalFailed
from saga_worker.saga.instance import NEVER, CommandKind, Fate
from saga_worker.saga.messages import Event, Message, encode
from saga_worker.saga.records import dump_progress
from saga_worker.saga.routing import child_message_id, command_id
from saga_worker.saga.rows import Role, RowState
from saga_worker.testing.children import PARENT, Child
from saga_worker.testing.promises import BrokenPromise, WatchedSaga

SHOWN: Final = 30  # lines of a story that are printed from its front, and as many from its end


class CounterExample(AssertionError):
    """A history that breaks a promise, told from its beginning."""


class History(WatchedSaga):
    """One history: the saga, what the others have said and will say, and the story so far."""

    def __init__(self, saga: Saga[Any], key: str) -> None:
        super().__init__(saga, key, limits=Limits())
        self.answered: set[object] = set()
        self.silent: set[object] = set()
        self.offered: set[str] = set()
        self.story: list[str] = []
        self.is_asked_back = False
        self.retries = 0
        self.messages = 0
        self.last: tuple[tuple[Role, str, bytes, str | None], str] | None = None

    def copy(self) -> Self:
        """The same history, to go on in another way."""
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | set | list) and name != "places":
                setattr(other, name, copy(value))
        return other

    def mark(self) -> object:
        """What the future depends on."""
        waiting = tuple(
            (row.type, row.state, row.reason, row.attempts, row.next_at)
            for row in self.in_state(RowState.READY, RowState.PARKED, RowState.HELD)
        )
        if self.instance is None:
            return waiting, self.now
        instance = self.instance
        return (
            instance.status, instance.state, dump_progress(instance.progress), waiting, self.now,
            frozenset(self.answered), frozenset(self.silent), frozenset(self.offered), self.retries, self.last,
            self.is_asked_back,
        )  # fmt: skip

    @property
    def attention(self) -> tuple[str, ...]:
        return self.instance.progress.attention if self.instance is not None else ()

    @property
    def status(self) -> str:
        return self.instance.status.label if self.instance is not None else "absent"

    # -- what others do -----------------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        self._say(Role.EVENT, event.wire_type, encode(event), None, repr(event))

    def reply(self, seq: int, message: Message) -> None:
        self._say(Role.REPLY, message.wire_type, encode(message), command_id(self.ref, seq), repr(message))

    def result(self, seq: int, outcome: str, body: bytes) -> None:
        self._say(Role.ACTIVITY, outcome, body, command_id(self.ref, seq), f"the result of number {seq}")

    def parent_says(self, type_: str, body: bytes) -> None:
        self.messages += 1
        id_ = child_message_id(PARENT, self.messages, None)
        self.store(Role.CHILD, type_, body, message_id=id_, source=f"{SAGA_SOURCE}parent")
        self.drain()

    def take_back(self) -> None:
        self.is_asked_back = True
        self.parent_says(TAKE_BACK, b"{}")

    def child_ends(self, child: Child, outcome: str, body: bytes) -> None:
        self.store(
            Role.CHILD, outcome, body, message_id=child.message_id, source=f"{SAGA_SOURCE}{child.definition}"
        )  # fmt: skip
        self.drain()

    def again(self) -> None:
        """What was said last, as a new message."""
        assert self.last is not None
        (role, type_, body, correlation_id), says = self.last
        self._say(role, type_, body, correlation_id, says)
        self.last = None

    def operator(self, command: str, **arguments: str) -> None:
        self.messages += 1
        self.store(Role.OPERATOR, command, to_json(arguments), message_id=f"operator-{self.messages}")
        self.drain()

    def retry(self) -> None:
        self.retries += 1
        self.operator("retry")
        commands = self.instance.progress.commands if self.instance is not None else {}
        self.answered -= {seq for seq, record in commands.items() if record.fate is Fate.SENT}

    def run_local_and_drain(self, done: LocalDone | LocalFailed) -> None:
        self.run_local(done)
        self.drain()

    def wait_for_it(self) -> None:
        """Until the next moment at which anything happens."""
        moment = self.next_moment()
        assert moment is not None
        self.advance(max(moment - self.now, timedelta(0)))

    def next_moment(self) -> datetime | None:
        """When somebody would look at the saga, if ever."""
        moment = self._next_moment()
        return None if moment is None or moment >= NEVER or self.due_local() is not None else moment

    def rounds_of(self, wait: str) -> int:
        """How often this wait has been open, as far as messages can tell: once more for each that has ended it."""
        return 1 + sum(f" for {wait}" in line for line in self.offered)

    def _say(self, role: Role, type_: str, body: bytes, correlation_id: str | None, says: str) -> None:
        self.messages += 1
        self.last = (role, type_, body, correlation_id), says
        self.store(role, type_, body, message_id=f"message-{self.messages}", correlation_id=correlation_id)
        self.drain()

    # -- what has to hold ---------------------------------------------------------------------------------------------

    def look(self) -> None:
        """The author's code has not raised, and the saga comes to an end."""
        for row in self.rows.values():
            is_broken = row.state is RowState.DEAD and (row.reason in BLOCKING or row.reason == "schema_mismatch")
            if is_broken or (row.state is RowState.READY and row.attempts):
                self.fail(f"{row.type} cannot be applied: {self.errors.get(row.id, row.reason)}")
        for name, failures in self.failed_timers().items():
            found = [entry for entry in self.attention if name in entry]
            self.fail(
                f"the code behind the timer {name} raised {failures} times ({'; '.join(found) or self._why(name)})"
            )

    def finish(self) -> None:
        """Nothing is left that anybody would do: the saga has to be at its end, with nothing open."""
        if not self.is_settled():
            self.fail(f"the saga is stuck: {'; '.join(self.attention) or 'nothing will move it'}")
        try:
            self.check_losers()
        except BrokenPromise as broken:
            self.fail(str(broken))

    def _why(self, timer: str) -> str:
        """What a timer raised whose tries are not used up: by trying once more."""
        del timer
        one = self.copy()
        for _ in range(6):
            one.wait_for_it()
            if one.instance is not None and "timer_failed" in (one.instance.attention or ""):
                return str(one.instance.attention)
        return "its error is on the attention list when its tries are used up"

    def fail(self, sentence: str) -> NoReturn:
        """Raises the story with what is wrong about it."""
        state = self.instance.state.decode() if self.instance is not None else ""
        told = [f"\n  {number:3} {line}" for number, line in enumerate(self.story, 1)]
        if len(told) > 2 * SHOWN:
            told = [*told[:SHOWN], "\n      …", *told[-SHOWN:]]
        lines = "".join(told)
        commands = self.instance.progress.commands.values() if self.instance is not None else ()
        fates = "".join(
            f"\n      {c.step}{' undone' if c.undone else ''}: {c.fate.value}"
            for c in commands
            if c.kind is CommandKind.FORWARD
        )
        raise CounterExample(f"{sentence}\nThe story (✗: a fault):{lines}\nThe state: {state}\nThe steps:{fates}")


class Telling:
    """Adds a line to the story, and tells it all when a promise breaks."""

    def __init__(self, played: History, line: str) -> None:
        self.played, self.line = played, line

    def __enter__(self) -> None:
        self.played.story.append(self.line)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, CounterExample):
            return
        self.played.story[-1] += f" → {self.played.status}"
        if isinstance(error, AssertionError):
            self.played.fail(f"{type(error).__name__}: {error}")
        if error is None:
            self.played.look()
