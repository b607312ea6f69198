"""A saga told as a story: given an event, expect a command, reply, let time pass, see where it stands.

Takes a definition and messages, guarantees the decisions of the worker itself (parking, order, back-off, time-outs,
undo) in virtual time and without any server, and hands back what was sent and what became of the saga.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, NoReturn, Self, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker.saga.activity import WaitFor
from saga_worker.saga.asking import answer
from saga_worker.saga.children import ChildStep
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import Limits
from saga_worker.saga.fold.backlog import SAGA_SOURCE
from saga_worker.saga.inputs import (
    ACTIVITY_DONE,
    ACTIVITY_FAILED,
    ACTIVITY_LOST,
    ACTIVITY_PARTIAL,
    ACTIVITY_WAITS,
    COMPENSATED,
    COMPLETED,
    TAKE_BACK,
    LocalDone,
    LocalFailed,
    PublishEvent,
    RunActivity,
    SendCommand,
    TellParent,
)
from saga_worker.saga.inputs import START as CHILD_START
from saga_worker.saga.instance import Fate
from saga_worker.saga.lifecycle import NO_STEP
from saga_worker.saga.messages import (
    Command,
    Event,
    Message,
    Rejected,
    decode,
    encode,
    rejection_models,
    reply_models,
    wire_types,
)
from saga_worker.saga.own_work import ActivityStep, AnyStep, LocalStep
from saga_worker.saga.placed import PlacedStep
from saga_worker.saga.queries import A, Query
from saga_worker.saga.retry import Verdict
from saga_worker.saga.routing import canonical_key, child_message_id, command_id
from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.saga.steps import CommandOf, EmitStep, WaitStep
from saga_worker.saga.upcast import upcasted
from saga_worker.testing.children import PARENT, Child, children_asked_back, children_started
from saga_worker.testing.one_saga import OneSaga

S = TypeVar("S", bound=BaseModel)
M = TypeVar("M", bound=Message)
ASIDE: Final = (RowState.PARKED, RowState.HELD, RowState.IGNORED, RowState.DEAD)


class SagaTest(Generic[S]):
    """One saga of `saga`, in memory and in virtual time.

    ::

        test = SagaTest(checkout)
        test.given(OrderPlaced(order_id="4711", ...)).expect(ScoreOrder(order_id="4711", cents=100))
        test.reply(Cleared()).expect(ReserveStock).reply(StockReserved(reservation="r1"))
        test.expect_activity(price).result(Quote(cents=100))
        test.expect(ChargeCard).advance(minutes(1))          # no answer: it may have been charged
        test.expect(CancelCharge).reply(Done()).expect(ReleaseStock).reply(Done())
        test.expect_status("compensated").expect_nothing()
        test.late_reply(Charged(payment="p1"), to=ChargeCard)  # charged after all, and taken back already
        test.expect_outcome("applied: late_reply").expect_nothing()

    Methods that do something return the test, so that a story reads as one. An exception in the saga's own code, or
    a message that dies, fails the test, unless it says `tolerant=True`.
    """

    __test__ = False  # for pytest: the name is not that of a test

    def __init__(self, saga: Saga[S], *, tolerant: bool = False, limits: Limits | None = None) -> None:
        saga.check()
        self.saga = saga
        self.tolerant = tolerant
        self._limits = limits
        self._one: OneSaga | None = None
        self._story: list[str] = []
        self._expected: dict[type[Message], int] = {Command: 0, Event: 0}  # how many of each kind were expected
        self._activities_expected = 0
        self._children_expected = 0
        self._child_undos_expected = 0
        self._children_back: set[str] = set()
        self._last: tuple[Role, str, bytes, str | None] | None = None
        self._outcome = "nothing happened yet"

    # -- what happens ---------------------------------------------------------------------------------------------

    def deploy(self, *versions: Saga[Any]) -> SagaTest[Any]:
        """A release with these versions of the saga, and no others: upgrades run with the next input."""
        self.one.deploy(*versions)
        self.saga = self.one.saga
        return self

    def given(self, *events: Event) -> Self:
        """These events arrive, and each of them has to be applied."""
        for event in events:
            self.event(event).expect_outcome("applied")
        return self

    def event(self, event: Event) -> Self:
        """An event arrives; `outcome` says what became of it (it may be early, late or a repetition)."""
        entry = dict(self.saga.entries()).get(event.wire_type)
        if entry is None:
            self._fail(f"saga {self.saga.name} takes no {event.wire_type}; it takes: {', '.join(self._taken())}")
        key = canonical_key(entry.key(event), self.saga.key_kind)
        if self._one is None:
            self._one = OneSaga(self.saga, key, limits=self._limits)
        elif key != self.one.key:
            self._fail(f"{event!r} is for the saga {key}, and this test follows {self.one.key}")
        return self._deliver(Role.EVENT, event.wire_type, encode(event), repr(event))

    def reply(self, message: Message, *, to: type[Command[Any, Any]] | None = None) -> Self:
        """The last command (or the last one of class `to`) is answered with success."""
        return self._answer(message, self._command(to), reply_models, "reply")

    def reject(self, message: Message | None = None, *, to: type[Command[Any, Any]] | None = None) -> Self:
        """The last command (or the last one of class `to`) is rejected, which is final."""
        return self._answer(message or Rejected(), self._command(to), rejection_models, "rejection")

    def late_reply(self, message: Message, *, to: type[Command[Any, Any]]) -> Self:
        """A command that the saga has given up is answered with success after all."""
        sent = self._command(to)
        fate = self.one.instance.progress.commands[sent.seq].fate if self.one.instance is not None else None
        if fate is Fate.SENT:
            self._fail(f"{sent.type} is still waiting for its answer, so a reply is not late: advance the time first")
        return self._answer(message, sent, reply_models, "reply")

    def result(self, value: BaseModel | WaitFor | None = None, *, of: ActivityStep[Any, Any] | None = None) -> Self:
        """The last activity (or the last one of the step `of`) returns; an undo returns nothing."""
        effect = self._activity(of)
        if isinstance(value, WaitFor):
            return self._end_activity(effect, ACTIVITY_WAITS, self._waiting(effect, value), repr(value))
        model = self._activity_step(effect).result_model
        if effect.undoes is None and not isinstance(value, model):
            self._fail(f"{effect.step} returns {model.__name__}, not {value!r}")
        body = value.model_dump_json(by_alias=False).encode() if value is not None else b"{}"
        return self._end_activity(effect, ACTIVITY_DONE, body, repr(value))

    def fail(
        self, error: str = "it failed", *, terminal: bool = True, lost: bool = False,
        partial: BaseModel | None = None, of: ActivityStep[Any, Any] | None = None,
    ) -> Self:  # fmt: skip
        """The last activity fails for good: it says so, or all its attempts raised, or (`lost`) nobody knows.

        With `partial` it says what it has done before.
        """
        effect = self._activity(of)
        details: dict[str, Any] = {"error": error, "attempts": 1, "is_terminal": terminal and not lost}
        if partial is not None:
            details["partial"] = partial.model_dump(mode="json", by_alias=False)
            return self._end_activity(effect, ACTIVITY_PARTIAL, to_json(details), error)
        return self._end_activity(effect, ACTIVITY_LOST if lost else ACTIVITY_FAILED, to_json(details), error)

    def local(self, verdict: Verdict = None, *, change: Callable[[S], object] = lambda state: None) -> Self:
        """The local step whose turn it is has run: `change` is what it does to the state. Its SQL is not run here."""
        seq, epoch = self._local_turn()
        state = self.state
        change(state)
        return self._run_local(LocalDone(seq, epoch, state, verdict), "has run")

    def local_fails(self, error: str = "it failed", *, terminal: bool = False) -> Self:
        """The local step whose turn it is raises, and what it did is rolled back."""
        return self._run_local(LocalFailed(*self._local_turn(), error, is_terminal=terminal), f"raised {error}")

    def begin(self, state: S, *, key: str = "child", parent: str = "parent") -> Self:
        """Another saga starts this one as its child, with this first state."""
        self._one = OneSaga(self.saga, key, limits=self._limits)
        body = state.model_dump_json(by_alias=False).encode()
        source = f"{SAGA_SOURCE}{parent}"
        return self._deliver(Role.CHILD, CHILD_START, body, f"starts as a child: {state!r}", source=source,
                             message_id=child_message_id(PARENT, 1, None))  # fmt: skip

    def take_back(self) -> Self:
        """The parent of this saga goes back, and wants it to do so, too."""
        return self._deliver(Role.CHILD, TAKE_BACK, b"{}", "its parent takes it back", source=f"{SAGA_SOURCE}parent",
                             message_id=child_message_id(PARENT, 2 + len(self.told), None))  # fmt: skip

    def child_completes(
        self, state: BaseModel, *, of: ChildStep[S, Any] | None = None, item: int | None = None
    ) -> Self:
        """The last child that was started (or this one) completes, and `state` is what its state is then."""
        child = self._child(of, item)
        return self._child_ends(child, COMPLETED, state.model_dump_json(by_alias=False).encode(), repr(state))

    def child_fails(
        self, reason: str = "it failed", *, status: str = COMPENSATED, of: ChildStep[S, Any] | None = None,
        item: int | None = None,
    ) -> Self:  # fmt: skip
        """The last child that was started (or this one) is taken back by itself, or ends as `failed` or `refused`."""
        return self._child_ends(self._child(of, item), status, to_json({"reason": reason}), f"{status}: {reason}")

    def child_is_back(self, *, of: ChildStep[S, Any] | None = None, item: int | None = None) -> Self:
        """A child that was asked to go back is compensated; without `item` the first that has not answered."""
        asked = [c for c in children_asked_back(self.one) if of is None or c.step == of.id]
        left = [c for c in asked if c.message_id not in self._children_back and item in (None, c.item)]
        if not left:
            self._fail("no child was asked to go back that has not answered")
        self._children_back.add(left[0].message_id)
        return self._child_ends(left[0], COMPENSATED, to_json({"reason": "taken back"}), "taken back")

    def again(self) -> Self:
        """The last message arrives once more, as a new message with the same content."""
        if self._last is None:
            self._fail("nothing has arrived yet that could arrive again")
        role, type_, body, correlation_id = self._last
        return self._deliver(role, type_, body, f"again {type_}", correlation_id=correlation_id)

    def operator(self, command: str, body: bytes = b"{}") -> Self:
        """An operator says something, such as `retry`."""
        return self._deliver(Role.OPERATOR, command, body, f"operator: {command}")

    def ask(self, query: Query[S, A]) -> A:
        """What the saga answers now; its state is left alone."""
        if self.one.instance is None:
            self._fail("the saga has not started, so it answers no query")
        return answer(query, self.one.instance.state)

    def advance(self, by: timedelta) -> Self:
        """Time passes; every timer that becomes due fires, in order."""
        self.one.advance(by)
        self._note(f"{by} pass")
        for name, failures in self.one.failed_timers().items():
            if not self.tolerant:
                self._fail(f"the code of timer {name} raised {failures} times")
        return self

    # -- what can be seen -----------------------------------------------------------------------------------------

    @property
    def one(self) -> OneSaga:
        """The saga with its inbox and clock, for tests that look closer."""
        if self._one is None:
            self._fail("there is no saga yet: begin with given(…)")
        return self._one

    @property
    def status(self) -> str:
        """The word that `v_saga` shows; `absent` before the start."""
        return self.one.instance.status.label if self.one.instance is not None else "absent"

    @property
    def state(self) -> S:
        """The author's state as it is stored."""
        if self.one.instance is None:
            self._fail("the saga has not started, so it has no state")
        instance = self.one.instance
        version = self.one.registry.find(instance.definition, instance.definition_version) or self.saga
        model = cast("type[S]", version.state_model)
        return model.model_validate_json(upcasted(model, self.one.instance.state), by_name=True, by_alias=False)

    @property
    def reason(self) -> str | None:
        """Why the saga compensates or ended as it did."""
        return self.one.instance.reason if self.one.instance is not None else None

    @property
    def attention(self) -> tuple[str, ...]:
        """Why somebody should look at the saga."""
        return self.one.instance.progress.attention if self.one.instance is not None else ()

    @property
    def unsettled(self) -> int:
        """How many effects may exist that nobody has taken back."""
        return self.one.instance.unsettled if self.one.instance is not None else 0

    @property
    def outcome(self) -> str:
        """What became of the last message: `applied`, `applied: late_reply`, `parked: unknown_saga`, …"""
        return self._outcome

    @property
    def sent(self) -> list[Message]:
        """Every command and undo, resends too, in order."""
        return [self._model(effect) for effect in self.one.effects if isinstance(effect, SendCommand)]

    @property
    def published(self) -> list[Message]:
        """Every published event, in order."""
        events = (effect for effect in self.one.effects if isinstance(effect, PublishEvent))
        return [self._model(effect) for effect in events if effect.step != NO_STEP]

    def was_undone(self, step: str) -> bool:
        """Whether all that this step has done is taken back, as `Client.was_undone` says it."""
        return self.one.instance is not None and self.one.instance.progress.was_undone(step)

    @property
    def lifecycle(self) -> list[str]:
        """What a definition with `lifecycle=True` has published of itself: `started`, `completed`, …"""
        events = (effect for effect in self.one.effects if isinstance(effect, PublishEvent))
        return [effect.type.rpartition(".")[2] for effect in events if effect.step == NO_STEP]

    @property
    def told(self) -> list[str]:
        """What the parent of this saga was told, in order: `completed`, `compensated`, `failed`, `refused`."""
        return [effect.outcome for effect in self.one.effects if isinstance(effect, TellParent)]

    @property
    def children(self) -> list[Child]:
        """The children that were started, in order."""
        return children_started(self.one)

    # -- what is expected -----------------------------------------------------------------------------------------

    def expect(self, message: Message | type[Message]) -> Self:
        """The next command (or the next published event) that was not expected yet is this one."""
        wanted = message if isinstance(message, type) else type(message)
        kind: type[Message] = Command if issubclass(wanted, Command) else Event
        found = self._unexpected(kind)
        said = message.__name__ if isinstance(message, type) else repr(message)
        if not found:
            self._fail(f"expected {said} to go out next, but nothing more did")
        if not (isinstance(found[0], message) if isinstance(message, type) else found[0] == message):
            self._fail(f"expected {said} to go out next, but it is {found[0]!r}")
        self._expected[kind] += 1
        return self

    def expect_activity(
        self, step: ActivityStep[Any, Any], *, undo: bool = False, input: BaseModel | None = None,
        output: BaseModel | None = None, event: Event | None = None,
    ) -> Self:  # fmt: skip
        """The next activity that was not expected yet is of this step, or is its undo.

        Of a reusable activity also what goes in: its `input`, the `output` that its undo gets, the `event` with which
        it is entered again.
        """
        found = self._activities()[self._activities_expected :]
        if not found:
            self._fail(f"expected the activity {step.id} to run next, but nothing more did")
        if found[0].step != step.id or (found[0].undoes is not None) is not undo:
            what = "the undo of " if found[0].undoes is not None else ""
            self._fail(f"expected {step.id} to run next, but it is {what}{found[0].step}")
        self._activities_expected += 1
        given = {"input": input, "output": output, "event": event}
        if any(value is not None for value in given.values()):
            self._check_given(step, found[0], given)
        return self

    def expect_local(self, step: LocalStep[Any], *, undo: bool = False) -> Self:
        """It is the turn of this local step, or of its undo."""
        assert self.one.instance is not None
        record = self.one.instance.progress.commands[self._local_turn()[0]]
        if record.step != step.id or (record.undoes is not None) is not undo:
            self._fail(f"expected the turn of {step.id}, but it is that of {record.step}")
        return self

    def expect_child(self, step: ChildStep[S, Any], *states: BaseModel) -> Self:
        """The next children that were started and not expected yet are of this step, and begin with these states."""
        count = max(1, len(states))
        found = self.children[self._children_expected :][:count]
        if [child.step for child in found] != [step.id] * count:
            self._fail(f"expected {count} of {step.id} to start next, but it is {[child.step for child in found]}")
        begun = [step.child.state_model.model_validate_json(child.body, by_name=True) for child in found]
        if states and begun != list(states):
            self._fail(f"expected {list(states)} to start, but it is {begun}")
        self._children_expected += count
        return self

    def expect_child_undo(self, step: ChildStep[S, Any], count: int = 1) -> Self:
        """The next children that were asked to go back, `count` of them, are of this step."""
        found = children_asked_back(self.one)[self._child_undos_expected :][:count]
        if [child.step for child in found] != [step.id] * count:
            self._fail(f"expected {count} of {step.id} to be asked back, but it is {[child.step for child in found]}")
        self._child_undos_expected += count
        return self

    def expect_nothing(self) -> Self:
        """Everything that went out was expected."""
        left = [*self._unexpected(Command), *self._unexpected(Event)]
        if left:
            self._fail(f"expected nothing more to go out, but there is {', '.join(map(repr, left))}")
        if activities := self._activities()[self._activities_expected :]:
            self._fail(f"expected nothing more to run, but there is {', '.join(a.step for a in activities)}")
        if children := self.children[self._children_expected :]:
            self._fail(f"expected no more children to start, but there is {', '.join(c.step for c in children)}")
        if asked := children_asked_back(self.one)[self._child_undos_expected :]:
            self._fail(f"expected no more children to be asked back, but there is {', '.join(c.step for c in asked)}")
        return self

    def expect_status(self, status: str, *, reason: str | None = None) -> Self:
        """The saga has this status (`running`, `waiting`, `completed`, …), and this reason if one is given."""
        if self.status != status:
            self._fail(f"expected the saga to be {status}, but it is {self.status} (reason: {self.reason})")
        if reason is not None and self.reason != reason:
            self._fail(f"expected the reason {reason!r}, but it is {self.reason!r}")
        return self

    def expect_attention(self, *entries: str) -> Self:
        """Exactly these entries put the saga on the attention list; none: it is not there."""
        if sorted(self.attention) != sorted(entries):
            self._fail(f"expected attention for {list(entries) or 'nothing'}, but it is {list(self.attention)}")
        return self

    def expect_outcome(self, outcome: str) -> Self:
        """What became of the last message: `applied`, or a word with a reason code, such as `ignored: too_late`."""
        if self._outcome != outcome:
            self._fail(f"expected the last message to be {outcome}, but it is {self._outcome}")
        return self

    # -- inside ---------------------------------------------------------------------------------------------------

    def _answer(self, message: Message, sent: SendCommand, models: Any, what: str) -> Self:
        takes: dict[str, type[Message]] = models(type(self._model(sent)))
        if message.wire_type not in takes:
            self._fail(f"{message.wire_type} is no {what} to {sent.type}; that would be: {', '.join(takes)}")
        correlation_id = command_id(self.one.ref, sent.seq)
        said = f"{message!r} to {sent.type}"
        return self._deliver(Role.REPLY, message.wire_type, encode(message), said, correlation_id=correlation_id)

    def _child(self, of: ChildStep[S, Any] | None, item: int | None) -> Child:
        wanted = [c for c in self.children if (of is None or c.step == of.id) and item in (None, c.item)]
        if not wanted:
            self._fail("no such child was started")
        return wanted[-1]

    def _child_ends(self, child: Child, outcome: str, body: bytes, said: str) -> Self:
        return self._deliver(Role.CHILD, outcome, body, f"child of {child.step}: {said}", message_id=child.message_id,
                             source=f"{SAGA_SOURCE}{child.definition}")  # fmt: skip

    def _activities(self) -> list[RunActivity]:
        return [effect for effect in self.one.effects if isinstance(effect, RunActivity)]

    def _activity(self, of: ActivityStep[Any, Any] | None) -> RunActivity:
        found = next((a for a in reversed(self._activities()) if of is None or a.step == of.id), None)
        if found is None:
            self._fail(f"no activity {of.id if of is not None else ''} was run that could end")
        return found

    def _activity_step(self, effect: RunActivity) -> ActivityStep[Any, Any]:
        step = self._step(effect)
        assert isinstance(step, ActivityStep)
        return step

    def _waiting(self, effect: RunActivity, waits: WaitFor) -> bytes:
        step = self._activity_step(effect)
        resuming = step.resuming if isinstance(step, PlacedStep) else {}
        types = [wire_type for event in waits.events for wire_type in wire_types(event)]
        if unknown := [wire_type for wire_type in types if wire_type not in resuming]:
            self._fail(f"{effect.step} waits for {', '.join(unknown)}, which no resumes_on(…) of it takes")
        so_far = waits.so_far.model_dump(mode="json", by_alias=False) if waits.so_far is not None else None
        return to_json({"types": types, "timeout": waits.timeout.total_seconds(), "so_far": so_far})

    def _check_given(
        self, step: ActivityStep[Any, Any], effect: RunActivity, expected: dict[str, BaseModel | None]
    ) -> None:
        if not isinstance(step, PlacedStep):
            self._fail(f"{step.id} is no reusable activity: what it gets is the state")
        stored = from_json(effect.input)
        event = stored.get("event", {"body": None})["body"]
        found = {"input": stored["input"], "output": stored.get("output"), "event": event}
        for what, value in expected.items():
            wanted = value.model_dump(mode="json", by_alias=what == "event") if value is not None else None
            if wanted is not None and wanted != found[what]:
                self._fail(f"expected {step.id} to get the {what} {value!r}, but it is {found[what]}")

    def _end_activity(self, effect: RunActivity, outcome: str, body: bytes, said: str) -> Self:
        correlation_id = command_id(self.one.ref, effect.seq)
        return self._deliver(
            Role.ACTIVITY, outcome, body, f"{effect.step}: {said}", correlation_id=correlation_id
        )  # fmt: skip

    def _local_turn(self) -> tuple[int, int]:
        due = self.one.due_local()
        if due is None:
            self._fail("no local step has its turn")
        return due

    def _run_local(self, done: LocalDone | LocalFailed, said: str) -> Self:
        self.one.run_local(done)
        self.one.drain()
        self._note(f"the local step {said}")
        return self

    def _deliver(
        self, role: Role, type_: str, body: bytes, said: str, *, correlation_id: str | None = None,
        message_id: str | None = None, source: str | None = None,
    ) -> Self:  # fmt: skip
        self._last = (role, type_, body, correlation_id)
        message_id = message_id or f"message-{len(self.one.rows) + 1}"
        row = self.one.store(
            role, type_, body, message_id=message_id, correlation_id=correlation_id, source=source
        )  # fmt: skip
        assert row is not None
        self.one.drain()
        self._outcome = self._what_became_of(self.one.rows[row.id])
        self._note(f"{said}: {self._outcome}")
        if not self.tolerant and (error := self.one.errors.get(row.id)) is not None:
            self._fail(f"{type_}: {error}")
        return self

    def _what_became_of(self, row: InboxRow) -> str:
        if row.state in ASIDE:
            return f"{row.state.label}: {row.reason}"
        if row.state is RowState.DONE:
            return f"applied: {row.reason}" if row.reason is not None else "applied"
        return "waiting to be tried again"

    def _command(self, model: type[Command[Any, Any]] | None) -> SendCommand:
        """The last command that went out, or the last one of that class."""
        matching = (e for e in reversed(self.one.commands()) if model is None or isinstance(self._model(e), model))
        found = next(matching, None)
        if found is None:
            self._fail(f"no {model.__name__ if model is not None else 'command'} was sent that could be answered")
        return found

    def _unexpected(self, kind: type[Message]) -> Sequence[Message]:
        return (self.sent if kind is Command else self.published)[self._expected[kind] :]

    def _model(self, effect: SendCommand | PublishEvent) -> Message:
        step = self._step(effect)
        model: type[Message] | None
        match step:
            case CommandOf():
                is_undo = isinstance(effect, SendCommand) and effect.undoes is not None
                model = step.undo_model if is_undo else step.command_model
            case EmitStep():
                model = step.event_model
            case WaitStep():
                model = step.reminder.model if step.reminder is not None else None
            case _:
                model = None
        assert model is not None
        return decode(effect.body, model, effect.type)

    def _step(self, effect: SendCommand | PublishEvent | RunActivity) -> AnyStep:
        """By the version that has it: an upgrade may have given it another name meanwhile."""
        return next(saga.steps[effect.step] for saga in self.one.versions if effect.step in saga.steps)

    def _taken(self) -> list[str]:
        return sorted(dict(self.saga.entries()))

    def _note(self, line: str) -> None:
        where = self.status if self._one is not None else "absent"
        self._story.append(f"{line} → {where}")

    def _fail(self, sentence: str) -> NoReturn:
        """The sentence, and the story so far."""
        story = "".join(f"\n  {line}" for line in self._story)
        raise AssertionError(f"{sentence}.{chr(10) + 'So far:' + story if story else ''}")
