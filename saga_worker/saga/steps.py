"""The steps of a saga: a command to a participant, a wait for events, an event to publish.

Takes the author's functions, guarantees that each step knows its message classes, bounds and retries, and hands
them to the flow (their place) and to `decide` (their meaning).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.keys import record_key
from saga_worker.saga.messages import (
    MAX_TYPE_BYTES,
    Command,
    Event,
    Message,
    UndoOf,
    rejection_models,
    reply_models,
    undone_model,
    wire_types,
)
from saga_worker.saga.retry import OnExhausted, OnTimeout, Retry, Undo, Verdict
from saga_worker.saga.routing import KeyKind
from saga_worker.saga.source import check_handler, checked_name, returned_class, step_name, where_called
from saga_worker.saga.source import where as place_of

S = TypeVar("S", bound=BaseModel)
E = TypeVar("E", bound=Event)
K = TypeVar("K", bound=Command[Message, Message])
Kc = TypeVar("Kc", bound=Command[Message, Message], covariant=True)
R1 = TypeVar("R1", bound=Message)
X1 = TypeVar("X1", bound=Message)
B = TypeVar("B", timedelta, timedelta | None)

UNDO_RETRY: Final = Retry.exponential(5)
TOO_LATE: Final = "sagas may run by it since it was checked: declare everything before, and changes as a new version"


class Step(Generic[S]):
    """Something that has a place in a flow over state `S`: a step, or a form such as `when` around steps.

    Frozen when its definition has been checked.
    """

    is_frozen = False

    if not TYPE_CHECKING:  # to type checkers it would allow any attribute

        def __setattr__(self, name: str, value: object) -> None:
            if self.is_frozen:
                raise DefinitionError(f"{where_called()}: step {self.id} cannot be changed; {TOO_LATE}.")
            super().__setattr__(name, value)

    def _state(self, state: S) -> S:
        """Makes `S` invariant for type checkers: a step of another saga's state does not fit."""
        return state


@dataclass(frozen=True, slots=True)
class Arm:
    """One kind of event that ends a wait; without a handler an activity is entered again with it."""

    step_id: str
    model: type[Event]
    key: Callable[[Any], str | int | UUID]
    pointer: str
    key_kind: KeyKind
    handler: Callable[[Any, Any], Verdict] | None
    source: str
    where: Callable[[Any, Any], bool] | None = None  # a further condition, besides type and key


@dataclass(frozen=True, slots=True)
class Reminder:
    """An event that a wait publishes every `period`, at most `times` times."""

    period: timedelta
    times: int
    model: type[Event]
    make: Callable[[Any], Event]
    source: str


@dataclass(frozen=True, slots=True)
class Repeats:
    """Whether a step, and its undo, may be repeated when it may have worked; `declared` are the retries given."""

    step: bool = True
    undo: bool = True
    declared: tuple[Retry | None, Retry | None] = (None, None)

    def of(self, *, is_undo: bool) -> bool:
        return self.undo if is_undo else self.step

    @property
    def idle_retries(self) -> tuple[str, ...]:
        """The arguments that say how to repeat what must not be."""
        names = (("retry", self.step), ("undo_retry", self.undo))
        given = zip(names, self.declared, strict=True)
        return tuple(name for (name, may), retry in given if not may and retry is not None and retry.attempts != 1)


REPEATABLE: Final = Repeats()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPolicy:
    """Bounds of a command and of its undo."""

    to: str
    timeout: timedelta
    retry: Retry
    undo_mode: Undo
    undo_timeout: timedelta
    undo_retry: Retry
    repeats: Repeats = REPEATABLE


class CommandOf(Step[S], Generic[S, Kc]):
    """A step that sends one command and goes on with its reply."""

    def __init__(self, make: Callable[[S], Kc], policy: CommandPolicy, *, name: str | None = None) -> None:
        check_handler(make, "state")
        self.id: Final = step_name(make, name)
        self.source: Final = place_of(make)
        self.make: Final = make
        self.command_model: Final[type[Command[Any, Any]]] = returned_class(make, Command, step=self.id)
        self.to: Final = policy.to
        self.timeout: Final = policy.timeout
        self.retry: Final = policy.retry
        self.undo_mode: Final = policy.undo_mode
        self.undo_timeout: Final = policy.undo_timeout
        self.undo_retry: Final = policy.undo_retry
        self.repeats: Final = policy.repeats
        self.replies: Final = reply_models(self.command_model)
        self.rejections: Final = rejection_models(self.command_model)
        self.on_reply: Callable[[S, Any], Verdict] | None = None
        self.on_rejected: Callable[[S, Any], Verdict] | None = None
        self.make_undo: Callable[[S], Command[Any, Any]] | None = None
        self.undo_model: type[UndoOf[Any, Any, Any]] | None = None
        self._check_wire()

    @property
    def has_undo(self) -> bool:
        return self.make_undo is not None

    # The self-type reads reply and rejection off the command class, so that a wrong handler is a type error.
    def reply(
        self: CommandOf[S, Command[R1, X1]], handler: Callable[[S, R1], Verdict], /
    ) -> Callable[[S, R1], Verdict]:
        """What a reply means; several replies come to one handler of their union."""
        check_handler(handler, "state", "reply")
        refuse_second(self.on_reply, handler, f"step {self.id} has a reply handler already; match on the reply in it")
        self.on_reply = handler
        return handler

    def rejected(
        self: CommandOf[S, Command[R1, X1]], handler: Callable[[S, X1], Verdict], /
    ) -> Callable[[S, X1], Verdict]:
        """What a rejection means; without a handler the saga compensates, with one None goes on to the next step."""
        check_handler(handler, "state", "rejection")
        refuse_second(self.on_rejected, handler, f"step {self.id} has a rejection handler already; match in it")
        self.on_rejected = handler
        return handler

    def undo(self, make: Callable[[S], UndoOf[Kc, Message, Message]], /) -> Callable[[S], UndoOf[Kc, Message, Message]]:
        """The command that takes this one back; sent to the same participant."""
        check_handler(make, "state")
        refuse_second(self.make_undo, make, f"step {self.id} has an undo already; keep one")
        if self.undo_mode is Undo.NONE:
            raise DefinitionError(
                f"{place_of(make)}: step {self.id} is declared undo=Undo.NONE; drop that or this undo."
            )
        model: type[UndoOf[Any, Any, Any]] = returned_class(make, UndoOf, step=self.id)
        if undone_model(model) is not self.command_model:
            raise DefinitionError(
                f"{place_of(make)}: step {self.id} sends {self.command_model.__name__}, but {model.__name__} undoes "
                f"{undone_model(model).__name__}; derive it from UndoOf[{self.command_model.__name__}]."
            )
        self.make_undo, self.undo_model = make, model
        self._check_wire()
        return make

    def _check_wire(self) -> None:
        for model in (self.command_model, self.undo_model):
            routing_key = f"{self.to}.{wire_types(model)[0]}" if model is not None else ""
            if len(routing_key.encode()) > MAX_TYPE_BYTES:
                raise DefinitionError(
                    f"{self.source}: step {self.id}: the routing key {routing_key[:40]}… has more than "
                    f"{MAX_TYPE_BYTES} bytes; shorten the destination or the type."
                )


@dataclass(frozen=True, slots=True)
class CommandDecorator(Generic[S]):
    """What `saga.command(…)` returns: turns the function that makes the command into its step."""

    policy: CommandPolicy
    name: str | None
    add: Callable[[CommandOf[Any, Any]], None]

    def __call__(self, make: Callable[[S], K], /) -> CommandOf[S, K]:
        step = CommandOf(make, self.policy, name=self.name)
        self.add(step)
        return step


class WaitStep(Step[S], Generic[S]):
    """A step that only an outside event, or its time-out, ends."""

    def __init__(
        self,
        name: str,
        *,
        timeout: timedelta | None,
        on_timeout: OnTimeout,
        source: str,
        add_arm: Callable[[str, Arm], None],
        number: Callable[[type[Event], Callable[[Any], int] | None, str], None],
    ) -> None:
        self.id: Final = checked_name(name, "wait", source=source)
        self.source: Final = source
        self.timeout: Final = checked_bound(timeout, f"step {name}: timeout", source=source)
        self.on_timeout: Final = on_timeout
        self.reminder: Reminder | None = None
        self._add_arm: Final = add_arm
        self._number: Final = number

    def on(
        self, event: type[E], *, key: Callable[[E], str | int | UUID], sequence: Callable[[E], int] | None = None,
        where: Callable[[S, E], bool] | None = None,
    ) -> Callable[[Callable[[S, E], Verdict]], Callable[[S, E], Verdict]]:  # fmt: skip
        """An event that ends this wait; it may arrive before the wait is reached. `sequence` as in `Saga.starts_on`.

        One that `where` says no to leaves the wait open, and is taken as if the wait was not there.
        """

        def register(handler: Callable[[S, E], Verdict]) -> Callable[[S, E], Verdict]:
            check_handler(handler, "state", "event")
            if where is not None:
                check_handler(where, "state", "event")
            source = place_of(handler)
            model = checked_event(event, source=source)
            path = record_key(model, key, source=source)
            self._number(model, sequence, source)
            for wire_type in wire_types(model):
                self._add_arm(wire_type, Arm(self.id, model, key, path.pointer, path.kind, handler, source, where))
            return handler

        return register

    def every(self, period: timedelta, *, times: int) -> Callable[[Callable[[S], E]], Callable[[S], E]]:
        """Publishes a reminder while the wait is open."""

        def register(make: Callable[[S], E]) -> Callable[[S], E]:
            check_handler(make, "state")
            source = place_of(make)
            refuse_second(self.reminder, make, f"step {self.id} has a reminder already; keep one")
            model = returned_class(make, Event, step=self.id)
            checked_bound(period, f"step {self.id}: period", source=source)
            if times < 1:
                raise DefinitionError(f"{source}: step {self.id}: times is {times}; give at least 1.")
            self.reminder = Reminder(period, times, model, make, source)
            return make

        return register


class SleepStep(Step[S], Generic[S]):
    """A step that only time ends."""

    def __init__(self, name: str, duration: timedelta | Callable[[S], timedelta], *, source: str) -> None:
        self.id: Final = checked_name(name, "sleep", source=source)
        self.source: Final = source
        if isinstance(duration, timedelta):
            checked_bound(duration, f"step {name}: duration", source=source)
        self._duration: Final = duration

    def duration(self, state: S) -> timedelta:
        """How long, for this state; no time at all is allowed, less is not."""
        duration = self._duration if isinstance(self._duration, timedelta) else self._duration(state)
        if duration < timedelta(0):
            raise ValueError(f"step {self.id} would sleep for {duration}; return zero or more")
        return duration


class SavepointStep(Step[S], Generic[S]):
    """A place in the flow that a saga may be rolled back to, `times` times."""

    def __init__(
        self, name: str, times: int, on_exhausted: OnExhausted = OnExhausted.COMPENSATE, *, source: str
    ) -> None:
        self.id: Final = checked_name(name, "savepoint", source=source)
        self.source: Final = source
        if times < 1:
            raise DefinitionError(f"{source}: savepoint {name}: times is {times}; give at least 1.")
        self.times: Final = times
        self.on_exhausted: Final = on_exhausted


class EmitStep(Step[S], Generic[S]):
    """A step that publishes one event and is over with it."""

    def __init__(self, make: Callable[[S], Event], *, name: str | None = None) -> None:
        check_handler(make, "state")
        self.id: Final = step_name(make, name)
        self.source: Final = place_of(make)
        self.make: Final = make
        self.event_model: Final = returned_class(make, Event, step=self.id)


def checked_event(event: type[E], *, source: str) -> type[E]:
    """`event`, if it is a class that can arrive as a published event."""
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise DefinitionError(f"{source}: {event!r} is no Event; derive the class from Event.")
    return event


def checked_bound(bound: B, what: str, *, source: str) -> B:
    """`bound`, if it is a time that can pass, or None."""
    if bound is not None and not isinstance(bound, timedelta):
        raise DefinitionError(f"{source}: {what} is {bound!r}; give a timedelta, such as seconds(30).")
    if bound is not None and bound <= timedelta(0):
        raise DefinitionError(f"{source}: {what} is {bound}; give a duration above zero.")
    return bound


def refuse_second(present: object, function: Callable[..., Any], problem: str) -> None:
    if present is not None:
        raise DefinitionError(f"{place_of(function)}: {problem}.")
