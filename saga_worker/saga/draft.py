"""The working copy of one saga during one decision.

Takes a definition, the instance (or the state of a new one) and what is given; collects changes and effects;
`finish` hands out the new instance. Nothing outlives the decision, so a handler that raises leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace
from pydantic import BaseModel

from saga_worker.saga import family, recording
from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.commands import Answer, Then, follow
from saga_worker.saga.definition import Saga
from saga_worker.saga.inputs import (
    CancelActivity,
    Effect,
    Given,
    MoveActivity,
    PublishEvent,
    ReplyToStarter,
    RunActivity,
    SendCommand,
)
from saga_worker.saga.instance import (
    CommandKind,
    CommandRecord,
    Fate,
    Instance,
    Items,
    Mark,
    Recorded,
    Round,
    Taken,
    Timer,
)
from saga_worker.saga.messages import Event, Message, encode, refuse_nul
from saga_worker.saga.names import (
    EVERY,
    JOINED,
    LOCAL,
    LOCAL_FAILED,
    NO_ANSWER,
    OF_A_STEP,
    OF_MESSAGES,
    OF_THE_FLOW,
    RESEND,
    SEQUENCE_GAP,
    SLEEP,
    STEP_AGAIN,
    TIMEOUT,
    UNDO_AGAIN,
    UNDO_FAILED,
    UNSETTLED_EXPIRED,
    WAIT,
    WATCH,
)
from saga_worker.saga.own_work import ActivityStep, Answered, Children, LocalStep, is_undone_at_once
from saga_worker.saga.placed import PlacedStep, stored_for_call
from saga_worker.saga.records import at_hand, changeable
from saga_worker.saga.starters import Starter
from saga_worker.saga.steps import CommandOf, SavepointStep
from saga_worker.saga.trace import Trace
from saga_worker.saga.transitions import Status
from saga_worker.saga.upcast import UPCASTERS, upcasted

_ANSWERED: Final = (CommandOf, ActivityStep, LocalStep, SubsagaStep, EachStep)


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
        self.commands = changeable(progress.commands)
        self.timers = dict(progress.timers)
        self.epoch = progress.epoch
        self.undo_failures = dict(progress.undo_failures)
        self.pivoted = progress.pivoted
        self.attention = dict.fromkeys(progress.attention)
        self.sequences = dict(progress.sequences)
        self.rounds: Mapping[str, Round] = progress.rounds
        self.withdrawn = frozenset(progress.withdrawn)
        self.savepoints: Mapping[str, Mark] = progress.savepoints
        self.items: dict[int, Items] = {} if progress.items is UNSET else progress.items  # never changed in place
        self.parent = None if progress.parent is UNSET else progress.parent
        self.trace = progress.trace
        self.recorded: dict[int, Recorded] = {} if progress.recorded is UNSET else dict(progress.recorded)
        self.begun: dict[str, datetime] = {} if progress.begun is UNSET else dict(progress.begun)
        self.since = progress.since
        self.starters: tuple[Starter, ...] = progress.starters or ()
        self.result = progress.result
        self.before = None if progress.before is UNSET else bytes(progress.before)
        self.effects: list[Effect] = []
        self._state: BaseModel | None = None
        self.near: Callable[..., Any] | str | None = None  # what of the author's was run last: a function, or a place

    # -- the author's state -------------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The author's model; what a maker does to it is not kept, see `handle`."""
        if self._state is None:
            model = self.saga.state_model
            stored = upcasted(model, self.state_bytes) if UPCASTERS else self.state_bytes
            self._state = model.__pydantic_validator__.validate_json(stored, by_name=True, by_alias=False)
        return self._state

    def start(self, state: BaseModel) -> None:
        """The state that a start handler made."""
        if not isinstance(state, self.saga.state_model):
            expected = self.saga.state_model.__name__
            raise TypeError(f"the start handler returned {type(state).__name__}; return {expected}")
        self._state = state
        self._keep_state()

    def keep(self, state: BaseModel) -> None:
        """The state as a local step left it."""
        self._state = state
        self._keep_state()

    def handle(self, handler: Callable[[Any, Any], Any], message: object) -> Any:
        """Run a handler, keep what it did to the state, return its verdict."""
        self.near = handler
        verdict = handler(self.state, message)
        self._keep_state()
        return verdict

    def test(self, where: Callable[[Any, Any], bool], message: object) -> bool:
        """Ask the author whether an event is meant."""
        self.near = where
        return bool(where(self.state, message))

    def take_back_state(self, state_bytes: bytes) -> None:
        """What a handler did to the state does not count."""
        self.state_bytes, self._state = state_bytes, None

    def pass_number(self, source: str, number: int) -> None:
        """The next event of `source` is the one after `number`."""
        self.sequences[source] = number + 1
        self.lift(gap_subject(source), SEQUENCE_GAP)

    def follow(self, trace: Trace | None) -> None:
        """The saga belongs to the first trace that one of its messages names; within that it follows the last one."""
        if trace is not None and (not self.trace or self.trace.id == trace.id):
            self.trace = trace

    def _keep_state(self) -> None:
        write = self.state.__pydantic_serializer__.to_json
        self.state_bytes = write(self.state, by_alias=False, round_trip=True, warnings=False)
        refuse_nul(self.state_bytes, "the state")
        # Read back at once: a state that does not fit its model is the error of whoever made it, not of all who follow.
        self._state = None
        _ = self.state

    # -- commands and events ------------------------------------------------------------------------------------

    def send(
        self, step: CommandOf[Any, Any], message: Message, *, kind: CommandKind, timeout: timedelta,
        undoes: int | None = None,
    ) -> int:  # fmt: skip
        """Commit to a new command; its id is this saga's next number."""
        _check_made(message, step.command_model if kind is CommandKind.FORWARD else step.undo_model, step.id)
        self.seq += 1
        record = CommandRecord(
            seq=self.seq, step=step.id, kind=kind, fate=Fate.SENT, destination=step.to, type=message.wire_type,
            body=encode(message).decode(), undoes=undoes,
        )  # fmt: skip
        self.commands[self.seq] = record
        self._note_begin(step, undoes)
        self._emit_command(record, timeout)
        return self.seq

    def work(
        self, step: ActivityStep[Any, Any] | LocalStep[Any] | Children, *, undoes: int | None = None,
        event: Taken | None = None,
    ) -> int:  # fmt: skip
        """Commit to an activity, a local step or children; `undoes`: what takes it back, `event`: once more with it."""
        self.seq += 1
        if isinstance(step, PlacedStep) and undoes is None:
            self.recorded[self.seq] = recording.entry(self, step, event)
        kind = CommandKind.FORWARD if undoes is None else CommandKind.UNDO
        record = CommandRecord(
            seq=self.seq, step=step.id, kind=kind, fate=Fate.SENT, destination="", type=step.id, body=None,
            undoes=undoes,
        )  # fmt: skip
        self.commands[self.seq] = record
        self._note_begin(step, undoes)
        self._start_work(record, step)
        return self.seq

    def resend(self, record: CommandRecord) -> None:
        """The same id and the same bytes once more; own work begins again with all its attempts."""
        record = replace(record, attempts=record.attempts + 1, is_given_up=False)
        self.commands[record.seq] = record
        step = self.step(record)
        if isinstance(step, CommandOf):
            self._emit_command(record, self.timeout_of(record))
        else:
            self._start_work(record, step)

    def _start_work(self, record: CommandRecord, step: ActivityStep[Any, Any] | LocalStep[Any] | Children) -> None:
        if isinstance(step, LocalStep):
            self.arm(f"{LOCAL}:{record.seq}", timedelta(0))
            return
        if isinstance(step, SubsagaStep | EachStep):
            self._start_children(record, step)
            return
        stored, timeout = self._work_of(record, step)
        self.effects.append(
            RunActivity(record.seq, step.id, stored, record.attempts, timeout, record.undoes, self.trace or None)
        )

    def _work_of(self, record: CommandRecord, step: ActivityStep[Any, Any]) -> tuple[bytes, timedelta]:
        """What an attempt reads, and how long it may take."""
        timeout = step.timeout if record.undoes is None else step.undo_timeout
        forward = record.seq if record.undoes is None else record.undoes
        stored = stored_for_call(self.recorded[forward]) if isinstance(step, PlacedStep) else self.state_bytes
        return stored, timeout

    def move_work(self) -> None:
        """The saga has come to another version: so have the activities that somebody may still run."""
        for record in self.commands.values():
            step = self.step(record)
            if not isinstance(step, ActivityStep) or record.fate not in (Fate.SENT, Fate.UNKNOWN):
                continue
            forward = record.seq if record.undoes is None else record.undoes
            if not isinstance(step, PlacedStep) or forward in self.recorded:
                stored, timeout = self._work_of(record, step)
                self.effects.append(MoveActivity(record.seq, step.id, self.saga.version, stored, timeout))

    def _note_begin(self, step: Answered, undoes: int | None) -> None:
        """When the first try began, where that counts; a rejected step that is sent again keeps its time."""
        if (step.retry if undoes is None else step.undo_retry).looks_at_time:
            self.begun.setdefault(_tries_of(step.id, undoes), self.given.now)

    def begin_anew(self, record: CommandRecord) -> None:
        """An operator wants more tries: their time begins now."""
        tries = _tries_of(record.step, record.undoes)
        if tries in self.begun:
            self.begun[tries] = self.given.now

    def rest(self, record: CommandRecord, failures: int) -> timedelta | None:
        """How long to rest before this is tried again; None: it was tried often, or long, enough."""
        step = self.step(record)
        retry = step.retry if record.undoes is None else step.undo_retry
        begun = self.begun.get(_tries_of(step.id, record.undoes), self.given.now)
        return retry.delay(failures, self.given.jitter, self.given.now - begun)

    def _start_children(self, record: CommandRecord, step: Children) -> None:
        """Asked for again, a child is what it was: only the time for it begins anew."""
        if record.undoes is not None:
            family.take_back(self, record, step)
            return
        if step.timeout is not None and step.is_awaited:
            self.arm(f"{TIMEOUT}:{record.seq}", step.timeout)
        if record.attempts == 1:
            family.start(self, record, step)
            if isinstance(step, EachStep) and self.items[record.seq].total == 0:
                self.arm(f"{JOINED}:{record.seq}", timedelta(0))

    def give_up(self, record: CommandRecord) -> None:
        """No attempt is left (or a child has no time): it waits for an operator, or for the saga to turn back."""
        if self.commands[record.seq].fate is Fate.SENT:
            self.commands[record.seq] = replace(self.commands[record.seq], is_given_up=True)

    def abandon(self, record: CommandRecord) -> None:
        """The saga leaves the flow while this is in flight: unknown, unless it is certain that it never ran."""
        step = self.step(record)
        has_no_children = isinstance(step, EachStep) and self.items[record.seq].total == 0
        if isinstance(step, LocalStep) or has_no_children:
            self.answer(record, Answer.REJECTION)
            return
        self.answer(record, Answer.ABANDONED)
        if step.has_undo and not is_undone_at_once(step):
            self.arm(f"{WATCH}:{record.seq}", self.given.watch)
        elif isinstance(step, ActivityStep):  # of a strict one the answer is wanted, so it runs on
            self.effects.append(CancelActivity(record.seq))

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
                trace=self.trace or None,
            )
        )

    def timeout_of(self, record: CommandRecord) -> timedelta:
        step = self.command_step(record)
        return step.timeout if record.kind is CommandKind.FORWARD else step.undo_timeout

    def publish(self, step_id: str, event: Event, model: type[Event]) -> None:
        _check_made(event, model, step_id)
        self.seq += 1
        self.effects.append(PublishEvent(self.seq, step_id, event.wire_type, encode(event), self.trace or None))

    def reply_to(self, queue: str, correlation_id: str, type_: str, body: bytes) -> None:
        """Answer to whoever waits for the saga; its id is this saga's next number."""
        self.seq += 1
        self.effects.append(ReplyToStarter(self.seq, queue, correlation_id, type_, body, self.trace or None))

    def step(self, record: CommandRecord) -> Answered:
        """The definition's step that `record` belongs to."""
        step = self.saga.steps[record.step]
        assert isinstance(step, _ANSWERED), f"step {record.step} has no answers any more"
        return step

    def command_step(self, record: CommandRecord) -> CommandOf[Any, Any]:
        """The same, of a record that is known to be a command."""
        step = self.step(record)
        assert isinstance(step, CommandOf)
        return step

    def answer(self, record: CommandRecord, answer: Answer) -> Then:
        """Enter `answer` into the record; returns what follows. Ends its timers when the fate is settled."""
        fate, then = follow(record.kind, record.fate, answer)
        if fate is not record.fate:
            self.commands[record.seq] = replace(record, fate=fate, body=None)
            if record.seq in self.recorded:
                recording.follow_entry(self, record, fate)
            for kind in (TIMEOUT, RESEND, WATCH, LOCAL, JOINED):
                self.timers.pop(f"{kind}:{record.seq}", None)
            forward = record.kind is CommandKind.FORWARD
            self.lift(record.step, *((NO_ANSWER, LOCAL_FAILED, UNSETTLED_EXPIRED) if forward else (UNDO_FAILED,)))
        return then

    def mark_undone(self, seq: int) -> None:
        """The effects of command `seq` are taken back."""
        self.commands[seq] = replace(self.commands[seq], undone=True)
        self.disarm(f"{WATCH}:{seq}")
        self.forget_undo(seq)

    def forget_undo(self, seq: int) -> None:
        """There is nothing (more) to take back of command `seq`: no undo of it is tried any more."""
        self.undo_failures.pop(seq, None)
        self.begun.pop(_tries_of("", seq), None)
        self.disarm(f"{UNDO_AGAIN}:{seq}")
        for undo in self.in_flight(CommandKind.UNDO):
            if undo.undoes == seq:
                self.disarm(f"{TIMEOUT}:{undo.seq}")
                self.disarm(f"{RESEND}:{undo.seq}")
                self.disarm(f"{LOCAL}:{undo.seq}")
        self.lift(self.commands[seq].step, UNDO_FAILED)

    def in_flight(self, kind: CommandKind) -> Iterator[CommandRecord]:
        return (c for c in at_hand(self.commands) if c.kind is kind and c.fate is Fate.SENT)

    def must_be_undone(self, record: CommandRecord) -> bool:
        """It had an effect, or with hybrid undo may have had one, that nobody has taken back.

        What a failed saga has done stays.
        """
        if record.kind is CommandKind.UNDO or record.undone or self.has_failed_for_good:
            return False
        step = self.step(record)
        if not step.has_undo:
            return False
        return record.fate is Fate.DONE or (record.fate is Fate.UNKNOWN and is_undone_at_once(step))

    def is_of_earlier_run(self, seq: int) -> bool:
        """Whether this number was given out by a run of this key before this one."""
        return self.since is not UNSET and 1 <= seq <= self.since

    def is_awaited(self, record: CommandRecord) -> bool:
        """Something goes on when this command is answered."""
        if record.undoes is None:
            return self.active.get(record.step) == record.seq
        return self.must_be_undone(self.commands[record.undoes])

    def is_under_way(self, record: CommandRecord) -> bool:
        """Its time-out, its next copy or its next attempt is ahead: it does not wait for an operator."""
        if isinstance(self.step(record), ActivityStep | SubsagaStep | EachStep):
            return not record.is_given_up
        return any(f"{kind}:{record.seq}" in self.timers for kind in (TIMEOUT, RESEND, LOCAL))

    @property
    def stands_still(self) -> bool:
        """As `Instance.stands_still`."""
        return self.status is Status.PAUSED or (self.status is Status.FAILED and bool(self.active))

    @property
    def has_failed_for_good(self) -> bool:
        """Ended, with what it has done left by decision."""
        return self.status is Status.FAILED and not self.active

    def may_repeat(self, record: CommandRecord) -> bool:
        """Whether it may be sent or run again although it may have worked."""
        step = self.step(record)
        if not isinstance(step, CommandOf | ActivityStep):
            return True
        return step.repeats.of(is_undo=record.kind is CommandKind.UNDO)

    @property
    def past_pivot(self) -> bool:
        """The pivot's command is out (a rejection would still bring us back), or the pivot is over: only forward."""
        pivots = self.saga.flow_root.pivots
        return self.pivoted or any(
            step_id in pivots and (seq is not None or recording.last_entry(self, step_id) is not None)
            for step_id, seq in self.active.items()
        )

    def go_on(self) -> None:
        """Running while something of ours is in flight for an open step, a savepoint that is gone back to included."""
        has_work = any(
            seq is not None or isinstance(self.saga.steps[step_id], SavepointStep)
            for step_id, seq in self.active.items()
        )
        self.become(Status.RUNNING if has_work else Status.WAITING)

    def close(self, step_id: str) -> None:
        """This step is open no more."""
        del self.active[step_id]
        self.begun.pop(_tries_of(step_id, None), None)
        for kind in (WAIT, EVERY, SLEEP, STEP_AGAIN):
            self.disarm(f"{kind}:{step_id}")
        self.lift(step_id, *OF_A_STEP)

    def withdraw(self, since: int, steps: AbstractSet[str] | None = None) -> None:
        """What these steps (or all) have sent after number `since` goes back while the saga goes on."""
        for step_id in self.active.keys() & (self.active.keys() if steps is None else steps):
            self.close(step_id)
        for record in list(self.commands.values()):
            is_meant = steps is None or record.step in steps
            if record.kind is CommandKind.FORWARD and is_meant and record.seq > since:
                if record.fate is Fate.SENT:
                    self.abandon(record)
                self.withdrawn |= {record.seq}

    def end_round(self) -> None:
        """An entity is about to rest: what is settled is forgotten, or it would grow with every event.

        What still has to be taken back, or is watched, stays. An answer to what was forgotten is one to an earlier run.
        """
        kept = {
            c.seq
            for c in self.commands.values()
            if c.kind is CommandKind.FORWARD and not c.undone and self.step(c).has_undo
            if c.fate in (Fate.SENT, Fate.UNKNOWN) or (c.fate is Fate.DONE and c.seq in self.withdrawn)
        }
        kept |= {c.seq for c in self.commands.values() if c.undoes in kept}
        for seq in self.commands.keys() - kept:
            del self.commands[seq]
            self.undo_failures.pop(seq, None)
            self.recorded.pop(seq, None)
            self.begun.pop(_tries_of("", seq), None)
            for kind in (TIMEOUT, RESEND, WATCH, UNDO_AGAIN, LOCAL):
                self.disarm(f"{kind}:{seq}")
        self.withdrawn &= kept
        self.rounds, self.savepoints, self.pivoted, self.before = {}, {}, False, None
        self.since = self.seq

    def leave_flow(self) -> None:
        """No step is open any more; what was asked of somebody for the sake of one is moot."""
        self.active.clear()
        self.rounds = {}
        self.begun = {tries: since for tries, since in self.begun.items() if tries.startswith("undo:")}
        self.timers = {name: timer for name, timer in self.timers.items() if self._outlives_flow(name)}
        moot = [entry for entry in self.attention if entry.partition(": ")[0] in OF_THE_FLOW]
        for entry in moot:
            del self.attention[entry]

    def let_go(self) -> None:
        """Nothing is tried, undone or watched any more; activities get no further attempt."""
        for record in [*self.in_flight(CommandKind.FORWARD), *self.in_flight(CommandKind.UNDO)]:
            if isinstance(self.step(record), ActivityStep):
                self.effects.append(CancelActivity(record.seq))
        self.timers, self.undo_failures, self.withdrawn = {}, {}, frozenset()
        self.attention = {e: None for e in self.attention if e.partition(": ")[0] in OF_MESSAGES}

    def _outlives_flow(self, timer: str) -> bool:
        """A watch, or a timer of an undo that is under way."""
        kind, _, subject = timer.partition(":")
        if kind in (TIMEOUT, RESEND, LOCAL):
            return self.commands[int(subject)].kind is CommandKind.UNDO
        return kind in (WATCH, UNDO_AGAIN)

    # -- timers and attention -----------------------------------------------------------------------------------

    def arm(self, name: str, after: timedelta, *, fired: int = 0, failures: int = 0) -> None:
        self.epoch += 1
        self.timers[name] = Timer(self.given.now + after, self.epoch, fired, failures)

    def disarm(self, name: str) -> None:
        self.timers.pop(name, None)

    def attend(self, reason: str, subject: str | None = None) -> None:
        """Put the saga on the attention list."""
        self.attention[_entry(reason, subject)] = None

    def lift(self, subject: str | None, *reasons: str) -> bool:
        """Take these entries of a step or destination off the attention list; whether one was there."""
        if not self.attention:
            return False
        listed = [entry for reason in reasons if (entry := _entry(reason, subject)) in self.attention]
        for entry in listed:
            del self.attention[entry]
        return bool(listed)

    # -- the end of the decision --------------------------------------------------------------------------------

    def become(self, status: Status, *, reason: str | None = None) -> None:
        self.status = status
        if reason is not None:
            self.reason = reason


def _tries_of(step_id: str, undoes: int | None) -> str:
    """The tries of a step, or of what takes a command back."""
    return f"step:{step_id}" if undoes is None else f"undo:{undoes}"


def _entry(reason: str, subject: str | None) -> str:
    return reason if subject is None else f"{reason}: {subject}"


def gap_subject(source: str) -> str:
    """A source as an attention entry can hold it."""
    return source.replace("; ", ", ") or "no source"


def _check_made(message: object, model: type[Message] | None, step_id: str) -> None:
    """What a maker returned has to be what its annotation says: the reply is read by that."""
    if model is None or not isinstance(message, model):
        expected = model.__name__ if model is not None else "a message"
        raise TypeError(f"step {step_id} made {type(message).__name__}; return {expected}, as it is annotated")
