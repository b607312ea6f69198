"""Parents and children, as one decision sees them: starting children, taking them back, answering to the parent.

Takes the working copy of a saga; adds effects and counts. Children are started in the parent's transaction, by rows of
their own; a parent is answered when its child comes to an end, or cannot do what was asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace
from pydantic import BaseModel
from pydantic_core import to_json

from saga_worker.saga.children import MAX_ITEMS, EachStep, SubsagaStep
from saga_worker.saga.inputs import (
    COMPENSATED,
    COMPLETED,
    FAILED,
    MoreChildren,
    StartChildren,
    TellParent,
    UndoChildren,
)
from saga_worker.saga.instance import CommandKind, CommandRecord, Items
from saga_worker.saga.messages import refuse_nul
from saga_worker.saga.transitions import Status

if TYPE_CHECKING:
    from saga_worker.saga.draft import Draft

_OUTCOMES: Final = {
    Status.COMPLETED: COMPLETED,
    Status.COMPENSATED: COMPENSATED,
    Status.FAILED: FAILED,
}


def start(draft: Draft, record: CommandRecord, step: SubsagaStep[Any, Any] | EachStep[Any, Any]) -> None:
    """Start the child of a step, or the first of its children. There may be none: see `decide.child.joined`."""
    if isinstance(step, SubsagaStep):
        states: list[BaseModel] = [step.make(draft.state)]
        started = 1
    else:
        states = _all_of(step, step.items(draft.state))
        started = min(step.max_in_flight, len(states))
        draft.items = {**draft.items, record.seq: Items(len(states), started)}
    if states:
        children = tuple((step.child_key(state), _first_state(step, state)) for state in states)
        is_many = isinstance(step, EachStep)
        draft.effects.append(
            StartChildren(record.seq, step.id, step.child.name, children, started, is_many, is_awaited=step.is_awaited)
        )


def start_next(draft: Draft, record: CommandRecord, step: EachStep[Any, Any]) -> None:
    """Start as many of the items that wait as there is room for."""
    items = draft.items[record.seq]
    room = step.max_in_flight - (items.started - items.done - items.failed)
    count = min(room, items.total - items.started)
    if count > 0:
        draft.effects.append(MoreChildren(record.seq, items.started + 1, count))
        draft.items = {**draft.items, record.seq: replace(items, started=items.started + count)}


def take_back(draft: Draft, undo: CommandRecord, step: SubsagaStep[Any, Any] | EachStep[Any, Any]) -> None:
    """Ask the children of `undo.undoes` to go back, those of a `for_each` in the reverse order of their start."""
    assert undo.undoes is not None
    if isinstance(step, SubsagaStep):
        draft.effects.append(UndoChildren(undo.undoes, undo.seq, 1, 1, is_many=False))
        return
    items = replace(draft.items[undo.undoes], undo=undo.seq, asked=0, undone=0, refused=0)
    draft.items = {**draft.items, undo.undoes: items}
    take_back_next(draft, undo, step)


def take_back_next(draft: Draft, undo: CommandRecord, step: EachStep[Any, Any]) -> None:
    """Ask as many more as there is room for."""
    assert undo.undoes is not None
    items = draft.items[undo.undoes]
    room = step.max_in_flight - (items.asked - items.undone - items.refused)
    count = min(room, items.started - items.asked)
    if count > 0:
        first = items.started - items.asked - count + 1
        draft.effects.append(UndoChildren(undo.undoes, undo.seq, first, count, is_many=True))
        draft.items = {**draft.items, undo.undoes: replace(items, asked=items.asked + count)}


def tell_end(draft: Draft, status: Status) -> None:
    """This saga has come to an end: its parent, if it has one, gets the answer it waits for."""
    if draft.parent is None:
        return
    body = draft.state_bytes if status is Status.COMPLETED else to_json({"reason": draft.reason or ""})
    draft.effects.append(
        TellParent(draft.parent.definition, draft.parent.asked or draft.parent.id, _OUTCOMES[status], body)
    )
    draft.parent = replace(draft.parent, asked=None)


def tell(draft: Draft, definition: str, id_: str, outcome: str, reason: str) -> None:
    """An answer that is not the end of this saga."""
    draft.effects.append(TellParent(definition, id_, outcome, to_json({"reason": reason})))


def is_undo(record: CommandRecord) -> bool:
    return record.kind is CommandKind.UNDO


def _all_of(step: EachStep[Any, Any], items: Iterable[BaseModel]) -> list[BaseModel]:
    states: list[BaseModel] = []
    for state in items:
        if len(states) == MAX_ITEMS:
            raise ValueError(f"step {step.id} has more than {MAX_ITEMS} items; divide them among several sagas")
        states.append(state)
    return states


def _first_state(step: SubsagaStep[Any, Any] | EachStep[Any, Any], state: BaseModel) -> bytes:
    model = step.child.state_model
    if not isinstance(state, model):
        raise TypeError(f"step {step.id} made {type(state).__name__}; return {model.__name__}, the state of its child")
    body: bytes = state.__pydantic_serializer__.to_json(state, by_alias=False, round_trip=True, warnings=False)
    refuse_nul(body, f"the first state that step {step.id} made for its child")
    # Read back at once: what cannot be stored (a NaN, say) is the error of who made it, not of a child never begun.
    model.__pydantic_validator__.validate_json(body, by_name=True, by_alias=False)
    return body
