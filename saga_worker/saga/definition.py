"""A saga definition: its starts, its handlers, its steps and their order, gathered from the author's functions.

Takes decorated functions, guarantees (after `check`) that the saga can start, move and end, and hands everything
that `decide`, the routes and the operator's views need to know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel

from saga_worker.saga.activity import Activity, Bounds, I
from saga_worker.saga.checks import problems
from saga_worker.saga.children import C, ChildKey, ChildPolicy, EachStep, SubsagaDecorator
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.flow import Flow, flow_of
from saga_worker.saga.keys import KeyPath, record_key, record_sequence
from saga_worker.saga.messages import Event, wire_types
from saga_worker.saga.own_work import (
    LOCAL_RETRY,
    ActivityDecorator,
    ActivityPolicy,
    ActivityStep,
    AnyStep,
    LocalStep,
    O,
)
from saga_worker.saga.placed import Outputs, PlacedStep, place
from saga_worker.saga.queries import A, Query
from saga_worker.saga.results import R, Result
from saga_worker.saga.retry import OnExhausted, OnTimeout, OnUndoFailed, Retry, Undo, Verdict
from saga_worker.saga.routing import KeyKind
from saga_worker.saga.second_start import SecondStart
from saga_worker.saga.source import check_handler, checked_name, step_name, where, where_called
from saga_worker.saga.steps import (
    TOO_LATE,
    UNDO_RETRY,
    Arm,
    CommandDecorator,
    CommandPolicy,
    E,
    EmitStep,
    Repeats,
    S,
    SavepointStep,
    SleepStep,
    Step,
    WaitStep,
    checked_bound,
    checked_event,
)
from saga_worker.saga.terminal import ErrorMapper
from saga_worker.saga.upgrade import Upgrade, declare

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

Old = TypeVar("Old", bound=BaseModel)


P = TypeVar("P", bound=BaseModel)  # the output of an earlier step


@dataclass(frozen=True, slots=True, eq=False)
class Start(Generic[S, E, R]):
    """An event that starts a saga; the handler makes its first state. Called, it is its handler."""

    saga: Saga[S, R]
    model: type[E]
    key: Callable[[E], str | int | UUID]
    pointer: str
    key_kind: KeyKind
    handler: Callable[[E], S]
    source: str

    def __call__(self, event: E) -> S:
        return self.handler(event)


@dataclass(frozen=True, slots=True)
class On:
    """An event that an open saga takes at any time."""

    model: type[Event]
    key: Callable[[Any], str | int | UUID]
    pointer: str
    key_kind: KeyKind
    handler: Callable[[Any, Any], Verdict]
    source: str


Entry: TypeAlias = "Start[Any, Any, Any] | On | Arm"


class Saga(Generic[S, R]):
    """A saga over state `S`, a pydantic model that survives JSON.

    `name` and `version` stand in every stored saga. `deadline` bounds a whole run: then the saga compensates, past the
    pivot it asks for attention. `key_kind` is read off the key fields unless given. Whatever is wrong raises
    `DefinitionError` with file, line and remedy, where it is declared or, of the whole, in `check`.
    """

    lives_on: ClassVar[bool] = False  # an entity: after its last step it waits for its next event

    def __init__(
        self,
        name: str,
        *,
        state: type[S],
        version: int = 1,
        deadline: timedelta | None = None,
        key_kind: KeyKind | None = None,
        compensate: bool = True,
        on_undo_failed: OnUndoFailed = OnUndoFailed.GO_ON,
        second_start: SecondStart = SecondStart.REJECT,
        internal: bool = False,
        lifecycle: bool = False,
        result: Callable[[S], R] | None = None,
    ) -> None:
        """With `compensate=False` a saga that cannot go on ends failed, keeps what it has done, and can be retried.

        `on_undo_failed` says whether older effects are undone beside an undo that has no try left. With
        `lifecycle=True` the saga publishes events when it has begun or ended, and when it needs attention.
        """
        self.compensate: Final = compensate
        self.lifecycle: Final = lifecycle
        self.on_undo_failed: Final = on_undo_failed
        self.source: Final = where_called()
        self.name: Final = checked_name(name, "saga", source=self.source)
        if not (isinstance(state, type) and issubclass(state, BaseModel)):
            raise DefinitionError(f"{self.source}: saga {name}: state is {state!r}; give a pydantic BaseModel class.")
        if version < 1:
            raise DefinitionError(f"{self.source}: saga {name}: version is {version}; count from 1.")
        self.state_model: Final[type[S]] = state
        self.version: Final = version
        self.deadline: Final = checked_bound(deadline, f"saga {name}: deadline", source=self.source)
        self.starts: Final[dict[str, Start[S, Any, R]]] = {}
        self.handlers: Final[dict[str, On]] = {}
        self.sequences: Final[dict[str, str | None]] = {}  # wire type -> pointer to its number, if it is numbered
        self.arms: Final[dict[str, list[Arm]]] = {}
        self.steps: Final[dict[str, AnyStep]] = {}
        self.parents: Final[list[Saga[Any]]] = []  # those that start it as a child
        self.upgrades: Final[dict[int, Upgrade]] = {}  # by the version that they start from
        self.reads_outputs = False  # some input map takes all outputs
        self.queries: Final[dict[str, Query[S, Any]]] = {}
        self._is_checked = False
        if not isinstance(second_start, SecondStart):
            raise DefinitionError(f"{self.source}: saga {name}: second_start is {second_start!r}; give a SecondStart.")
        self.second_start: Final = second_start
        self.internal: Final = internal
        self.result: Final[Result[R] | None] = None if result is None else Result(result, saga=self.name)
        self._key_kind = key_kind
        self._flow: Flow[S] | None = None

    if not TYPE_CHECKING:  # to type checkers it would allow any attribute

        def __setattr__(self, name: str, value: object) -> None:
            self._refuse_when_checked(where_called())
            super().__setattr__(name, value)

    def _refuse_when_checked(self, source: str) -> None:
        if getattr(self, "_is_checked", False):
            raise DefinitionError(f"{source}: saga {self.name} cannot be changed; {TOO_LATE}.")

    @property
    def key_kind(self) -> KeyKind:
        """How this definition's keys are written."""
        return self._key_kind or next((entry.key_kind for _, entry in self.entries()), KeyKind.TEXT)

    @property
    def flow_root(self) -> Flow[S]:
        """The order of the steps; empty as long as `flow` was not called."""
        return self._flow if self._flow is not None else Flow((), self.source)

    def entries(self) -> tuple[tuple[str, Entry], ...]:
        """Everything that takes an event, with the wire type it takes."""
        arms = ((wire_type, arm) for wire_type, arms in self.arms.items() for arm in arms)
        return (*self.starts.items(), *self.handlers.items(), *arms)

    def starts_on(
        self, event: type[E], *, key: Callable[[E], str | int | UUID], sequence: Callable[[E], int] | None = None
    ) -> Callable[[Callable[[E], S]], Start[S, E, R]]:
        """An event that starts a saga for its key; the function makes the first state. Clients name it as the start.

        `sequence` names the field with which its producer numbers the events of a key, one by one: they are applied
        in that order. The first is 1, or the start's number; one that comes early is parked until its turn.
        """

        def register(handler: Callable[[E], S]) -> Start[S, E, R]:
            if isinstance(handler, Start):  # it starts another saga, or on another event, as well
                handler = handler.handler
            check_handler(handler, "event")
            _, path, source = self._taken(event, key, handler, sequence)
            start = Start(self, event, key, path.pointer, path.kind, handler, source)
            for wire_type in wire_types(event):
                self._refuse_twice(wire_type, self.starts, source, "starts it")
                self.starts[wire_type] = start
            return start

        return register

    def on(
        self, event: type[E], *, key: Callable[[E], str | int | UUID], sequence: Callable[[E], int] | None = None
    ) -> Callable[[Callable[[S, E], Verdict]], Callable[[S, E], Verdict]]:
        """An event that is taken at any time before the pivot; `sequence` as in `starts_on`."""

        def register(handler: Callable[[S, E], Verdict]) -> Callable[[S, E], Verdict]:
            check_handler(handler, "state", "event")
            model, path, source = self._taken(event, key, handler, sequence)
            for wire_type in wire_types(model):
                self._refuse_twice(wire_type, self.handlers, source, "is handled")
                self.handlers[wire_type] = On(model, key, path.pointer, path.kind, handler, source)
            return handler

        return register

    def command(
        self,
        to: str,
        *,
        timeout: timedelta,
        retry: Retry | None = None,
        undo: Undo = Undo.HYBRID,
        undo_timeout: timedelta | None = None,
        undo_retry: Retry | None = None,
        repeatable: bool = True,
        undo_repeatable: bool = True,
        name: str | None = None,
    ) -> CommandDecorator[S]:
        """A step that sends a command to the participant `to` and waits at most `timeout` for its reply.

        A time-out is retried by sending the same message again; without `retry` there is one try. With
        `repeatable=False` (of the undo: `undo_repeatable`) it is not sent again as long as it may have worked.
        """
        source = where_called()
        policy = CommandPolicy(
            to=checked_name(to, "destination", source=source),
            timeout=checked_bound(timeout, "timeout", source=source),
            retry=retry or Retry.none(),
            undo_mode=undo,
            undo_timeout=checked_bound(
                timeout if undo_timeout is None else undo_timeout, "undo_timeout", source=source
            ),
            undo_retry=undo_retry or UNDO_RETRY,
            repeats=Repeats(repeatable, undo_repeatable, (retry, undo_retry)),
        )
        return CommandDecorator(policy, name, self._add)

    def activity(
        self,
        *,
        timeout: timedelta,
        retry: Retry | None = None,
        undo: Undo = Undo.HYBRID,
        undo_timeout: timedelta | None = None,
        undo_retry: Retry | None = None,
        terminal: tuple[type[Exception], ...] = (),
        as_terminal: ErrorMapper | None = None,
        concurrency: int | None = None,
        repeatable: bool = True,
        undo_repeatable: bool = True,
        name: str | None = None,
    ) -> ActivityDecorator[S]:
        """A step that runs an async function in a worker, outside any transaction, and goes on with its result.

        `timeout` bounds one attempt. An attempt that raises is tried again by `retry`, unless it raises
        `TerminalError` or one of `terminal`, or `as_terminal` makes a `TerminalError` of it. `concurrency` bounds the
        attempts at a time in each worker. With `repeatable=False` (of the undo: `undo_repeatable`) there is one
        attempt, whatever becomes of it.
        """
        source = where_called()
        policy = ActivityPolicy(
            timeout=checked_bound(timeout, "timeout", source=source),
            retry=retry or Retry.none(),
            undo_mode=undo,
            undo_timeout=checked_bound(
                timeout if undo_timeout is None else undo_timeout, "undo_timeout", source=source
            ),
            undo_retry=undo_retry or UNDO_RETRY,
            terminal=terminal,
            as_terminal=as_terminal,
            concurrency=concurrency,
            repeats=Repeats(repeatable, undo_repeatable, (retry, undo_retry)),
        )
        if concurrency is not None and concurrency < 1:
            raise DefinitionError(f"{source}: concurrency is {concurrency}; give at least 1.")
        return ActivityDecorator(policy, name, self._add)

    @overload
    def step(
        self, work: Activity[I, O], /, *, input: Callable[[S], I | dict[str, Any]], timeout: timedelta | None = None,
        retry: Retry | None = None, undo: Undo | None = None, undo_timeout: timedelta | None = None,
        undo_retry: Retry | None = None, result: Callable[[S, O], Verdict] | None = None, name: str | None = None,
    ) -> PlacedStep[S, I, O]: ...  # fmt: skip

    @overload
    def step(
        self, work: Activity[I, O], /, *, input: Callable[[S, Outputs], I | dict[str, Any]],
        timeout: timedelta | None = None, retry: Retry | None = None, undo: Undo | None = None,
        undo_timeout: timedelta | None = None, undo_retry: Retry | None = None,
        result: Callable[[S, O], Verdict] | None = None, name: str | None = None,
    ) -> PlacedStep[S, I, O]: ...  # fmt: skip

    @overload
    def step(
        self, work: Activity[I, O], /, *, after: ActivityStep[S, P], input: Callable[[P], I | dict[str, Any]],
        timeout: timedelta | None = None, retry: Retry | None = None, undo: Undo | None = None,
        undo_timeout: timedelta | None = None, undo_retry: Retry | None = None,
        result: Callable[[S, O], Verdict] | None = None, name: str | None = None,
    ) -> PlacedStep[S, I, O]: ...  # fmt: skip

    def step(
        self, work: Activity[I, O], /, *, input: Callable[..., I | dict[str, Any]],
        after: ActivityStep[S, Any] | None = None, timeout: timedelta | None = None, retry: Retry | None = None,
        undo: Undo | None = None, undo_timeout: timedelta | None = None, undo_retry: Retry | None = None,
        result: Callable[[S, O], Verdict] | None = None, name: str | None = None,
    ) -> PlacedStep[S, I, O]:  # fmt: skip
        """A step that a reusable activity does: an object of an `Activity` class, or one that `activity` has made.

        `input` makes what goes in: of the state; of the state and the `Outputs` so far; or, with `after`, of what
        that earlier step has returned. It returns the activity's input model, or a dict of its fields, which has to
        fit: a misfit is final and fails the step before it runs. `result` says what the output means, as
        `@the_step.result` does. The other options are those of `activity`, by default what the activity says itself.
        """
        given = Bounds(timeout=timeout, retry=retry, undo=undo, undo_timeout=undo_timeout, undo_retry=undo_retry)
        step: PlacedStep[S, I, O] = place(
            work, input, given, state_model=self.state_model, name=name, after=after, source=where_called(),
            add_arm=self._add_arm, number=self._number,
        )  # fmt: skip
        self._add(step)
        self.reads_outputs = self.reads_outputs or step.takes_outputs
        if result is not None:
            step.result(result)
        return step

    @overload
    def local(self, work: Callable[[S, AsyncSession], Awaitable[Verdict]], /) -> LocalStep[S]: ...

    @overload
    def local(
        self, work: None = None, /, *, retry: Retry | None = None, undo: Undo = Undo.STRICT,
        as_terminal: ErrorMapper | None = None, name: str | None = None,
    ) -> Callable[[Callable[[S, AsyncSession], Awaitable[Verdict]]], LocalStep[S]]: ...  # fmt: skip

    def local(
        self,
        work: Callable[[S, AsyncSession], Awaitable[Verdict]] | None = None,
        /,
        *,
        retry: Retry | None = None,
        undo: Undo = Undo.STRICT,
        as_terminal: ErrorMapper | None = None,
        name: str | None = None,
    ) -> LocalStep[S] | Callable[[Callable[[S, AsyncSession], Awaitable[Verdict]]], LocalStep[S]]:
        """A step that changes tables of the user's own, in the transaction in which its saga moves on.

        When it raises, all of it is rolled back and tried again by `retry`. Its outcome is never unknown, so that
        strict and hybrid undo are the same here.
        """

        def build(function: Callable[[S, AsyncSession], Awaitable[Verdict]]) -> LocalStep[S]:
            step: LocalStep[S] = LocalStep(
                function, retry=retry or LOCAL_RETRY, undo_mode=undo, as_terminal=as_terminal, name=name
            )
            self._add(step)
            return step

        return build if work is None else build(work)

    def subsaga(
        self,
        child: Saga[C],
        *,
        key: ChildKey[C] | None = None,
        timeout: timedelta | None = None,
        undo: Undo = Undo.HYBRID,
        wait: bool = True,
        name: str | None = None,
    ) -> SubsagaDecorator[S, C]:
        """A step that is a saga of its own: the function makes the first state of `child`.

        It starts in this saga's transaction and goes on with the state in which the child completes. When this saga
        goes back, the child does, too, whether it has completed or not. `key` is the child's key, for events that are
        meant for it; without one it has the id of the message that starts it. With `wait=False` it goes its own way.
        """
        source = where_called()
        policy = ChildPolicy(
            timeout=checked_bound(timeout, "timeout", source=source),
            undo_mode=undo if wait else Undo.NONE,
            is_awaited=wait,
        )
        child.parents.append(self)
        return SubsagaDecorator(child, key, policy, name, self._add)

    def for_each(
        self,
        items: Callable[[S], Iterable[C]],
        child: Saga[C],
        *,
        max_in_flight: int,
        tolerate: int | None = 0,
        key: ChildKey[C] | None = None,
        timeout: timedelta | None = None,
        undo: Undo = Undo.HYBRID,
        name: str | None = None,
    ) -> EachStep[S, C]:
        """A step with a child for each of `items`, which are their first states: up to `max_in_flight` at a time.

        When more than `tolerate` of them fail (None: however many) this saga compensates: what is in flight and what
        has completed goes back. The children are rows of their own, so that this saga stays small.
        """
        source = where_called()
        policy = ChildPolicy(
            timeout=checked_bound(timeout, "timeout", source=source), undo_mode=undo, is_awaited=True
        )  # fmt: skip
        step: EachStep[S, C] = EachStep(
            step_name(items, name), source, items, child, key, policy, max_in_flight=max_in_flight, tolerate=tolerate
        )
        child.parents.append(self)
        self._add(step)
        return step

    def wait(
        self, name: str, *, timeout: timedelta | None = None, on_timeout: OnTimeout = OnTimeout.COMPENSATE
    ) -> WaitStep[S]:
        """A step that only an outside event ends; its arms are declared on what this returns."""
        step: WaitStep[S] = WaitStep(
            name,
            timeout=timeout,
            on_timeout=on_timeout,
            source=where_called(),
            add_arm=self._add_arm,
            number=self._number,
        )
        self._add(step)
        return step

    def sleep(self, name: str, duration: timedelta | Callable[[S], timedelta]) -> SleepStep[S]:
        """A step that only time ends: a duration, or a function of the state when the flow comes there."""
        step: SleepStep[S] = SleepStep(name, duration, source=where_called())
        self._add(step)
        return step

    def savepoint(
        self, name: str, *, times: int = 3, on_exhausted: OnExhausted = OnExhausted.COMPENSATE
    ) -> SavepointStep[S]:
        """A place that handlers go back to with `Rollback(name, reason)`; after `times` of that `on_exhausted` says how
        the saga ends, or pauses.

        Stands in the main line of the flow: not in a branch, an arm or a loop.
        """
        step: SavepointStep[S] = SavepointStep(name, times, on_exhausted, source=where_called())
        self._add(step)
        return step

    @overload
    def emit(self, make: Callable[[S], Event], /) -> EmitStep[S]: ...

    @overload
    def emit(self, make: None = None, /, *, name: str) -> Callable[[Callable[[S], Event]], EmitStep[S]]: ...

    def emit(
        self, make: Callable[[S], Event] | None = None, /, *, name: str | None = None
    ) -> EmitStep[S] | Callable[[Callable[[S], Event]], EmitStep[S]]:
        """A step that publishes an event."""

        def build(function: Callable[[S], Event]) -> EmitStep[S]:
            step = EmitStep(function, name=name)
            self._add(step)
            return step

        return build if make is None else build(make)

    @overload
    def query(self, answer: Callable[[S], A], /) -> Query[S, A]: ...

    @overload
    def query(self, answer: None = None, /, *, name: str) -> Callable[[Callable[[S], A]], Query[S, A]]: ...

    def query(
        self, answer: Callable[[S], A] | None = None, /, *, name: str | None = None
    ) -> Query[S, A] | Callable[[Callable[[S], A]], Query[S, A]]:
        """A question about a saga of this kind, answered from its state at any time: no lock, and nothing changes."""

        def build(function: Callable[[S], A]) -> Query[S, A]:
            query = Query(self, function, name=name)
            self._refuse_when_checked(query.source)
            self._refuse_twice(query.name, self.queries, query.source, "is asked", what="query")
            self.queries[query.name] = query
            return query

        return build if answer is None else build(answer)

    def flow(self, *steps: Step[S]) -> None:
        """The order of the steps; called once, after they are declared."""
        self._refuse_when_checked(where_called())
        if self._flow is not None:
            raise DefinitionError(f"{where_called()}: saga {self.name} has a flow already; call flow(…) once.")
        self._flow = self._flow_of(steps)

    @overload
    def upgrade_from(
        self, old: Saga[Old], /, *, steps: Mapping[str, str | None] | None = None
    ) -> Callable[[Callable[[Old], S]], Callable[[Old], S]]: ...

    @overload
    def upgrade_from(
        self, old: int, /, *, steps: Mapping[str, str | None] | None = None
    ) -> Callable[[Callable[[dict[str, Any]], S]], Callable[[dict[str, Any]], S]]: ...

    def upgrade_from(
        self, old: Saga[Any] | int, /, *, steps: Mapping[str, str | None] | None = None
    ) -> Callable[[Callable[[Any], S]], Callable[[Any], S]]:
        """Sagas of an older version go on under this one from their next input; the function makes the new state.

        `steps` names what is called otherwise now, steps and loops (`{"old": "new"}`); `None` says that a step is gone
        and what it did stands. Where a saga stands at something that has no place here, it stays as it is. By its
        number, for a version that is not in the code any more, the function gets the stored state as a plain dict.
        """
        if not isinstance(old, Saga | int):
            raise DefinitionError(
                f"{where_called()}: saga {self.name}: upgrade_from takes the older saga, or the number of its version."
            )

        def register(make: Callable[[Any], S]) -> Callable[[Any], S]:
            self._refuse_when_checked(where(make))
            declare(self, old, make, steps)
            return make

        return register

    def _flow_of(self, steps: tuple[Step[S], ...]) -> Flow[S]:
        return flow_of(steps)

    def check(self) -> None:
        """Raises `DefinitionError` with one line for every problem that shows without running anything.

        A definition that has passed is frozen: whatever is declared or assigned later raises, too.
        """
        if self._is_checked:
            return
        found = tuple(problems(self))
        if found:
            raise DefinitionError("\n".join(found))
        for step in self.steps.values():
            step.is_frozen = True
        self._is_checked = True

    def _taken(
        self, event: type[Event], key: Callable[[Any], object], handler: Callable[..., Any],
        sequence: Callable[[Any], int] | None,
    ) -> tuple[type[Event], KeyPath, str]:  # fmt: skip
        source = where(handler)
        self._refuse_when_checked(source)
        model = checked_event(event, source=source)
        path = record_key(model, key, source=source)
        self._number(model, sequence, source)
        return model, path, source

    def _number(self, model: type[Event], sequence: Callable[[Any], int] | None, source: str) -> None:
        """Note where the number of an event stands, or that it has none: the same for all that take it."""
        pointer = None if sequence is None else record_sequence(model, sequence, source=source)
        for wire_type in wire_types(model):
            if self.sequences.setdefault(wire_type, pointer) != pointer:
                raise DefinitionError(
                    f"{source}: saga {self.name} takes {wire_type} with another sequence elsewhere; give the same"
                    " sequence=… wherever it is taken."
                )

    def _refuse_twice(self, name: str, present: dict[str, Any], source: str, fact: str, *, what: str = "event") -> None:
        if name in present:
            raise DefinitionError(
                f"{source}: saga {self.name}: the {what} {name} {fact} at {present[name].source} already; "
                "keep one of the two."
            )

    def _add_arm(self, wire_type: str, arm: Arm) -> None:
        self._refuse_when_checked(arm.source)
        arms = self.arms.setdefault(wire_type, [])
        if any(other.step_id == arm.step_id for other in arms):
            raise DefinitionError(
                f"{arm.source}: saga {self.name}: wait {arm.step_id} has an arm for {wire_type} already; keep one."
            )
        arms.append(arm)

    def _add(self, step: AnyStep) -> None:
        self._refuse_when_checked(step.source)
        if step.id in self.steps:
            raise DefinitionError(
                f"{step.source}: saga {self.name} has a step {step.id} at {self.steps[step.id].source} already; "
                "give one of them another name=…."
            )
        self.steps[step.id] = step
