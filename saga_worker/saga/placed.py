"""A reusable activity in its place in one saga: what goes in is made of the state, or of what came out before.

Takes an activity and a map, guarantees that the map fits both sides as far as annotations say, and that what went in
and came out is recorded for as long as an undo or a later step may ask for it. Hands `decide` a step like any other.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, NoReturn, Self, TypeAlias, get_origin
from uuid import UUID

from msgspec import UNSET, Raw
from msgspec.json import decode, encode
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from saga_worker.saga.activity import CTX, OF_THE_EVENT, Activity, Bounds, FunctionActivity, I, Shape, WaitFor
from saga_worker.saga.errors import DefinitionError, TerminalError
from saga_worker.saga.instance import Recorded, Taken
from saga_worker.saga.keys import record_key
from saga_worker.saga.messages import Event, wire_types
from saga_worker.saga.messages import decode as decode_message
from saga_worker.saga.own_work import ActivityContext, ActivityPolicy, ActivityStep, O
from saga_worker.saga.retry import Retry, Undo
from saga_worker.saga.source import check_callable, check_handler, checked_name, local_names, takes, where_called
from saga_worker.saga.source import where as place_of
from saga_worker.saga.steps import UNDO_RETRY, Arm, E, Repeats, S, checked_bound, checked_event
from saga_worker.saga.upcast import upcasted

InputMap: TypeAlias = Callable[..., "BaseModel | dict[str, Any]"]
AddArm: TypeAlias = Callable[[str, Arm], None]
Number: TypeAlias = Callable[[type[Event], Callable[[Any], int] | None, str], None]


class EventTaken(NamedTuple):
    """An event that a reusable activity waited for and was entered again with."""

    type: str
    payload: dict[str, Any]


class Outputs:
    """What the reusable activities of one saga have returned so far and nobody has taken back; of a loop the last.

    Also, in their order, the events that they were entered again with.
    """

    def __init__(self, stored: Mapping[str, Raw], events: Sequence[Taken] = ()) -> None:
        self._stored = stored
        self._events = events

    @property
    def events(self) -> tuple[EventTaken, ...]:
        """The oldest first; the payload is JSON, as `event_payload` has it."""
        return tuple(EventTaken(taken.type, from_json(bytes(taken.body))) for taken in self._events)

    def __getitem__(self, step: ActivityStep[Any, O]) -> O:
        """What this step has returned, as its model; raises `LookupError` if there is nothing of it."""
        stored = self._stored.get(step.id)
        if stored is None:
            raise LookupError(f"step {step.id} has returned nothing yet; ask `in` first, or place it before this one")
        model: Any = step.result_model
        current = upcasted(model, bytes(stored))
        found: O = model.__pydantic_validator__.validate_json(current, by_name=True, by_alias=False)
        return found

    def __contains__(self, step: ActivityStep[Any, Any]) -> bool:
        return step.id in self._stored

    def by_id(self) -> dict[str, dict[str, Any]]:
        """All of them as JSON objects, by the id of the step."""
        return {step_id: from_json(bytes(stored)) for step_id, stored in self._stored.items()}


class PlacedStep(ActivityStep[S, O], Generic[S, I, O]):
    """A step that a reusable activity does; what `Saga.step` returns."""

    def __init__(
        self, activity: Activity[I, O], make: InputMap, policy: ActivityPolicy, *,
        after: ActivityStep[Any, Any] | None, takes_outputs: bool, step_id: str, source: str, add_arm: AddArm,
        number: Number,
    ) -> None:  # fmt: skip
        work: Any = activity.execute  # called by `call` only
        super().__init__(work, activity.output_model, policy, step_id=step_id, source=source)
        self.resuming: Final[dict[str, type[Event]]] = {}  # by wire type
        self._add_arm: Final = add_arm
        self._number: Final = number
        self.activity: Final = activity
        self.input_model: Final = activity.input_model
        self.after: Final = after
        self.takes_outputs: Final = takes_outputs
        self.keeps_output: bool = False  # a later step may take what comes out
        self._make: Final = make
        if activity.has_compensation and policy.undo_mode is not Undo.NONE:
            self.undo_work = activity.compensate  # type: ignore[assignment]  # called by `call` only

    def resumes_on(
        self, event: type[E], *, key: Callable[[E], str | int | UUID], sequence: Callable[[E], int] | None = None,
        where: Callable[[S, E], bool] | None = None,
    ) -> Self:  # fmt: skip
        """An event that this activity may wait for. It may come early, also while an entry runs.

        The options are those of an arm of a wait.
        """
        source = where_called()
        if where is not None:
            check_handler(where, "state", "event")
        if not self.activity.execute_shape.may_wait:
            raise DefinitionError(
                f"{source}: step {self.id} never waits; let its execute return {self.result_model.__name__} | WaitFor."
            )
        model = checked_event(event, source=source)
        path = record_key(model, key, source=source)
        self._number(model, sequence, source)
        for wire_type in wire_types(model):
            self._add_arm(wire_type, Arm(self.id, model, key, path.pointer, path.kind, None, source, where))
            self.resuming[wire_type] = model
        return self

    def make_input(self, state: Any, outputs: Outputs) -> Raw:
        """What goes in, as JSON by names. A dict that does not fit stays as it is: the attempt will say so."""
        if self.after is not None:
            made = self._make(outputs[self.after])
        else:
            made = self._make(state, outputs) if self.takes_outputs else self._make(state)
        if isinstance(made, dict):
            try:
                made = self.input_model.__pydantic_validator__.validate_python(made, by_name=True, by_alias=True)
            except ValidationError:
                return Raw(to_json(made))
        if not isinstance(made, self.input_model):
            expected = self.input_model.__name__
            raise TypeError(
                f"the input map of step {self.id} returned {type(made).__name__}; return {expected} or a dict of its"
                " fields"
            )
        return Raw(_dumped(made))

    def call(
        self, stored: bytes, state_model: type[BaseModel], ctx: ActivityContext, *, is_undo: bool
    ) -> Awaitable[BaseModel | WaitFor | None]:
        """An attempt, to be awaited; raises `TerminalError`, before anything was done, if what was stored misfits."""
        recorded = decode(stored, type=Recorded)
        inp = self._read(recorded.input, self.input_model, "input")
        if not is_undo:
            return self.activity.execute(inp, **self._given(self.activity.execute_shape, ctx, recorded.event))
        out = None if recorded.output is UNSET else self._read(recorded.output, self.result_model, "output")
        shape = self.activity.compensate_shape
        assert shape is not None
        return self.activity.compensate(inp, out, **self._given(shape, ctx, None))  # type: ignore[arg-type]  # None: it bears it

    def undo(self, work: Callable[..., Awaitable[None]], /) -> NoReturn:
        """Refused: what takes a reusable activity back belongs to it."""
        raise DefinitionError(
            f"{place_of(work)}: step {self.id} is a reusable activity; take it back in its compensate, or in a function"
            " marked @the_activity.undo."
        )

    def _given(self, shape: Shape, ctx: ActivityContext, event: Taken | None) -> dict[str, Any]:
        """The optional parameters that this function takes."""
        given: dict[str, Any] = {CTX: ctx}
        if event is not None:
            body = bytes(event.body)
            given |= {"event_type": event.type, "event_payload": from_json(body)}
            if "event" in shape.takes:
                given["event"] = decode_message(body, self.resuming[event.type], event.type)
        elif not shape.takes.isdisjoint(OF_THE_EVENT):
            given |= dict.fromkeys(OF_THE_EVENT)
        return {name: value for name, value in given.items() if name in shape.takes}

    def _read(self, stored: Raw, model: type[BaseModel], what: str) -> Any:
        try:
            current = upcasted(model, bytes(stored))
            return model.__pydantic_validator__.validate_json(current, by_name=True, by_alias=False)
        except ValidationError as error:
            misfits = error.errors(include_url=False, include_context=False, include_input=False)
            fields = ", ".join(f"{'.'.join(map(str, each['loc'])) or 'all'}: {each['type']}" for each in misfits[:10])
            raise TerminalError(f"its {what} does not fit {model.__name__}: {fields}") from None


def stored_for_call(recorded: Recorded) -> bytes:
    """What `PlacedStep.call` reads."""
    return encode(recorded)


def place(
    activity: Activity[I, O], make: InputMap, given: Bounds, *, state_model: type[BaseModel], name: str | None,
    after: ActivityStep[Any, Any] | None, source: str, add_arm: AddArm, number: Number,
) -> PlacedStep[Any, I, O]:  # fmt: skip
    """The step for this activity; raises `DefinitionError` for what cannot work."""
    if not isinstance(activity, Activity):
        raise DefinitionError(
            f"{source}: {activity!r} is no activity; give an object of a class derived from Activity, or activity(the"
            " function)."
        )
    if isinstance(activity, FunctionActivity):
        activity.is_placed = True
    step_id = checked_name(name if name is not None else activity.step_name, "step", source=source)
    takes_outputs = _check_map(make, activity.input_model, state_model, after, step_id, source)
    policy = _policy(activity, given.over(activity.bounds), step_id, source)
    if after is not None:
        if not isinstance(after, PlacedStep):
            raise DefinitionError(
                f"{source}: step {step_id}: after={after!r} records no output; name what an earlier step(…) of this"
                " saga has returned."
            )
        after.keeps_output = True
    return PlacedStep(
        activity, make, policy, after=after, takes_outputs=takes_outputs, step_id=step_id, source=source,
        add_arm=add_arm, number=number,
    )  # fmt: skip


def _policy(activity: Activity[Any, Any], bounds: Bounds, step_id: str, source: str) -> ActivityPolicy:
    if bounds.timeout is None:
        raise DefinitionError(
            f"{source}: step {step_id} has no time-out; give timeout=… here, or where the activity is declared."
        )
    timeout = checked_bound(bounds.timeout, f"step {step_id}: timeout", source=source)
    undo_timeout = checked_bound(bounds.undo_timeout or timeout, f"step {step_id}: undo_timeout", source=source)
    if bounds.concurrency is not None and bounds.concurrency < 1:
        raise DefinitionError(f"{source}: step {step_id}: concurrency is {bounds.concurrency}; give at least 1.")
    return ActivityPolicy(
        timeout=timeout,
        retry=bounds.retry or Retry.none(),
        undo_mode=_undo_mode(activity, bounds.undo, step_id, source),
        undo_timeout=undo_timeout,
        undo_retry=bounds.undo_retry or UNDO_RETRY,
        terminal=bounds.terminal or (),
        as_terminal=bounds.as_terminal,
        concurrency=bounds.concurrency,
        repeats=Repeats(
            bounds.repeatable is not False, bounds.undo_repeatable is not False, (bounds.retry, bounds.undo_retry)
        ),
    )


def _undo_mode(activity: Activity[Any, Any], given: Undo | None, step_id: str, source: str) -> Undo:
    """Who bears an output of None can be undone when the outcome is unknown; who does not only what was done."""
    shape = activity.compensate_shape
    if shape is None:
        return given or Undo.HYBRID
    if given is Undo.HYBRID and not shape.bears_unknown:
        raise DefinitionError(
            f"{source}: step {step_id} is undone also when nobody knows what came out (undo=Undo.HYBRID); let its"
            f" compensate take {activity.output_model.__name__} | None, or say undo=Undo.STRICT."
        )
    return given or (Undo.HYBRID if shape.bears_unknown else Undo.STRICT)


def _check_map(
    make: Callable[..., Any], input_model: type[BaseModel], state_model: type[BaseModel],
    after: ActivityStep[Any, Any] | None, step_id: str, source: str,
) -> bool:  # fmt: skip
    """Whether the map wants all outputs beside the state; refuses one whose annotations say something else."""

    def refuse(problem: str) -> NoReturn:
        raise DefinitionError(f"{source}: step {step_id}: {problem}.")

    check_callable(make)
    if inspect.iscoroutinefunction(make) or inspect.isgeneratorfunction(make):
        refuse("its input map is called inside a transaction; make it a plain function")
    takes_outputs = after is None and not takes(make, 1)
    if not takes(make, 2 if takes_outputs else 1):
        called = "(output)" if after is not None else "(state) or (state, outputs)"
        refuse(f"its input map is called as {called}; take exactly these")
    try:
        hints = typing.get_type_hints(make, localns=local_names(make))
    except Exception as error:
        refuse(f"the annotations of its input map cannot be read ({type(error).__name__}: {error})")
    returned = hints.pop("return", input_model)
    expected = [state_model if after is None else after.result_model, Outputs]
    names = list(inspect.signature(make).parameters) if hints else []
    for name, model in zip(names, expected[: 1 + takes_outputs], strict=False):
        hint = hints.get(name, model)
        if hint is not Any and not (isinstance(hint, type) and issubclass(model, hint)):
            refuse(f"its input map takes {_shown(hint)} as {name}, but it gets {model.__name__}")
    if returned not in (input_model, dict, Any) and get_origin(returned) is not dict:
        refuse(f"its input map returns {_shown(returned)}; return {input_model.__name__} or dict[str, Any]")
    return takes_outputs


def _dumped(model: BaseModel) -> bytes:
    return model.__pydantic_serializer__.to_json(model, by_alias=False, round_trip=True, warnings=False)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
