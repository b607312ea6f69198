"""The working copy of one saga during one decision.

Takes a definition, the instance (or the state of a new one) and what is given; collects changes and effects;
`finish` hands out the new instance. Nothing outlives the decision, so a handler that raises leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel

from saga_worker.saga.commands import Answer, Then, follow
from saga_worker.saga.definition import Saga
from saga_worker.saga.inputs import Applied, Decision, Effect, Given, Outcome, Postponed, PublishEvent, SendCommand
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Instance, Progress, Timer
from saga_worker.saga.messages import Event, Message, encode
from saga_worker.saga.retry import Undo
from saga_worker.saga.steps import CommandOf
from saga_worker.saga.transitions import Status, move

# Timer names are "<kind>:<seq or step id>"; `deadline` stands alone.
TIMEOUT: Final = "timeout"  # no answer to a command
RESEND: Final = "resend"  # send it again after the back-off
UNDO_AGAIN: Final = "undo"  # a refused undo is tried again
WATCH: Final = "watch"  # the watch over an unknown fate ends
WAIT: Final = "wait"
EVERY: Final = "every"
DEADLINE: Final = "deadline"


class Draft:
    """One saga, being changed. Attributes are the fields of `Instance` and `Progress`, copied."""

    def __init__(self, saga: Saga[Any], instance: Instance, given: Given, *, is_new: bool = False) -> None:
        progress = instance.progress
        self.saga = saga
        self.given = given
        self.instance = instance
        self.is_new = is_new
        self.status: Status | None = None if is_new else instance.status
        self.reason = instance.reason
        self.seq = instance.seq
        self.state_bytes = instance.state
        self.active = dict(progress.active)
        self.commands = dict(progress.commands)
        self.timers = dict(progress.timers)
        self.epoch = progress.epoch
        self.undo_failures = dict(progress.undo_failures)
        self.pivoted = progress.pivoted
        self.attention = dict.fromkeys(progress.attention)
        self.effects: list[Effect] = []
        self._state: BaseModel | None = None

    # -- the author's state -------------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The author's model; what a maker does to it is not kept, see `handle`."""
        if self._state is None:
            self._state = self.saga.state_model.__pydantic_validator__.validate_json(self.state_bytes)
        return self._state

    def start(self, state: BaseModel) -> None:
        """The state that a start handler made."""
        if not isinstance(state, self.saga.state_model):
            expected = self.saga.state_model.__name__
            raise TypeError(f"the start handler returned {type(state).__name__}; return {expected}")
        self._state = state
        self._keep_state()

    def handle(self, handler: Callable[[Any, Any], Any], message: Message) -> Any:
        """Run a handler, keep what it did to the state, return its verdict."""
        verdict = handler(self.state, message)
        self._keep_state()
        return verdict

    def _keep_state(self) -> None:
        self.state_bytes = self.state.__pydantic_serializer__.to_json(self.state, by_alias=False)
        if b"\\u0000" in self.state_bytes:
            raise ValueError("the state holds a NUL character, which PostgreSQL cannot store as JSON")

    # -- commands and events ------------------------------------------------------------------------------------

    def send(
        self, step: CommandOf[Any, Any], message: Message, *, kind: CommandKind, timeout: timedelta,
        undoes: int | None = None,
    ) -> int:  # fmt: skip
        """Commit to a new command; its id is this saga's next number."""
        self.seq += 1
        record = CommandRecord(
            seq=self.seq, step=step.id, kind=kind, fate=Fate.SENT, destination=step.to, type=message.wire_type,
            body=encode(message).decode(), undoes=undoes,
        )  # fmt: skip
        self.commands[self.seq] = record
        self._emit_command(record, timeout)
        return self.seq

    def resend(self, record: CommandRecord) -> None:
        """The same id and the same bytes once more."""
        self.commands[record.seq] = replace(record, attempts=record.attempts + 1)
        self._emit_command(record, self.timeout_of(record))

    def _emit_command(self, record: CommandRecord, timeout: timedelta) -> None:
        self.arm(f"{TIMEOUT}:{record.seq}", timeout)
        self.effects.append(
            SendCommand(
                seq=record.seq,
                step=record.step,
                destination=record.destination,
                type=record.type,
                body=(record.body or "").encode(),
                deadline=self.given.now + timeout,
                undoes=record.undoes,
            )
        )

    def timeout_of(self, record: CommandRecord) -> timedelta:
        step = self.step(record)
        return step.timeout if record.kind is CommandKind.FORWARD else step.undo_timeout

    def publish(self, step_id: str, event: Event) -> None:
        self.seq += 1
        self.effects.append(PublishEvent(seq=self.seq, step=step_id, type=event.wire_type, body=encode(event)))

    def step(self, record: CommandRecord) -> CommandOf[Any, Any]:
        """The definition's step that `record` belongs to."""
        step = self.saga.steps[record.step]
        assert isinstance(step, CommandOf), f"step {record.step} of {self.saga.name} is no command any more"
        return step

    def answer(self, record: CommandRecord, answer: Answer) -> Then:
        """Enter `answer` into the record; returns what follows. Ends its timers when the fate is settled."""
        fate, then = follow(record.kind, record.fate, answer)
        if fate is not record.fate:
            self.commands[record.seq] = replace(record, fate=fate, body=None)
            for kind in (TIMEOUT, RESEND, WATCH):
                self.disarm(f"{kind}:{record.seq}")
            self.lift(record.step)
        return then

    def mark_undone(self, seq: int) -> None:
        """The effects of command `seq` are taken back."""
        self.commands[seq] = replace(self.commands[seq], undone=True)
        self.undo_failures.pop(seq, None)
        self.disarm(f"{WATCH}:{seq}")

    def in_flight(self, kind: CommandKind) -> Iterator[CommandRecord]:
        return (c for c in list(self.commands.values()) if c.kind is kind and c.fate is Fate.SENT)

    @property
    def past_pivot(self) -> bool:
        """The pivot's command is out (a rejection would still bring us back) or answered: only forward."""
        return self.pivoted or any(step_id in self.saga.flow_root.pivots for step_id in self.active)

    # -- timers and attention -----------------------------------------------------------------------------------

    def arm(self, name: str, after: timedelta, *, fired: int = 0, failures: int = 0) -> None:
        self.epoch += 1
        self.timers[name] = Timer(self.given.now + after, self.epoch, fired, failures)

    def disarm(self, name: str) -> None:
        self.timers.pop(name, None)

    def attend(self, reason: str, step_id: str | None = None) -> None:
        """Put the saga on the attention list."""
        self.attention[f"{reason}: {step_id}" if step_id else reason] = None

    def lift(self, step_id: str) -> None:
        """Take the entries of this step off the attention list."""
        for entry in [entry for entry in self.attention if entry.endswith(f": {step_id}")]:
            del self.attention[entry]

    # -- the end of the decision --------------------------------------------------------------------------------

    def become(self, status: Status, *, reason: str | None = None) -> None:
        self.status = move(self.status, status)
        if reason is not None:
            self.reason = reason

    def finish(self, outcome: Outcome | None = None) -> Decision:
        """The decision: the saga one revision on (not when merely postponed), with what it has to say."""
        assert self.status is not None
        now, before = self.given.now, self.instance
        outcome = outcome or Applied()
        instance = replace(
            before,
            status=self.status,
            revision=before.revision + (not isinstance(outcome, Postponed)),
            seq=self.seq,
            unsettled=self._unsettled(),
            attention="; ".join(self.attention) or None,
            reason=self.reason,
            state=self.state_bytes,
            progress=Progress(
                active=self.active, commands=self.commands, timers=self.timers, epoch=self.epoch,
                undo_failures=self.undo_failures, pivoted=self.pivoted, attention=tuple(self.attention),
            ),
            updated_at=now,
            finished_at=(before.finished_at or now) if self.status.is_final else None,
        )  # fmt: skip
        return Decision(instance, tuple(self.effects), outcome)

    def _unsettled(self) -> int:
        """How many effects may exist that nobody has taken back: unknown, with an undo that was not answered."""
        return sum(c.fate is Fate.UNKNOWN and not c.undone and self.step(c).make_undo is not None
                   for c in self.commands.values() if c.kind is CommandKind.FORWARD)  # fmt: skip


def is_undone_at_once(step: CommandOf[Any, Any]) -> bool:
    """Hybrid undo takes back what is merely possible; strict undo waits for the answer."""
    return step.undo_mode is Undo.HYBRID
