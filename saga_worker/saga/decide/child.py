"""Sagas talk to sagas: a parent starts this one or wants it taken back, or a child of this one has ended."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError
from pydantic_core import from_json

from saga_worker.saga import family
from saga_worker.saga.children import ChildFailed, EachStep, SubsagaStep, Tally
from saga_worker.saga.commands import Answer
from saga_worker.saga.decide import answered
from saga_worker.saga.decide.answered import LATE, Said
from saga_worker.saga.decide.next import BACK, Next, Stay, Undo, by_verdict
from saga_worker.saga.definition import Saga
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import COMPENSATED, COMPLETED, REFUSED, START, TAKE_BACK, ChildEnded, Ignored, ParentAsked
from saga_worker.saga.instance import CommandRecord, Fate, Parent
from saga_worker.saga.names import CANNOT_COMPENSATE, ITEMS_FAILED
from saga_worker.saga.second_start import EARLIER_RUN
from saga_worker.saga.transitions import Status
from saga_worker.saga.upcast import upcasted


def first_state(saga: Saga[Any], asked: ParentAsked) -> Any:
    """The state that the parent gave; raises PoisonMessage when this release cannot read it."""
    return _read_state(saga, asked.body)


def parent_of(asked: ParentAsked) -> Parent | None:
    """Who waits for the end of a saga that begins like this; None: nobody does."""
    return Parent(asked.parent, asked.id) if asked.parent else None


def apply_asked(draft: Draft, asked: ParentAsked) -> Next:
    """What a parent's word does to a saga that exists."""
    match asked.type:
        case "start":
            return _start_again(draft, asked)
        case "take_back":
            return _take_back(draft, asked)
        case _:
            raise PoisonMessage("unknown_child_command", f"{asked.type!r} is neither {START} nor {TAKE_BACK}.")


def apply_ended(draft: Draft, ended: ChildEnded) -> Next:
    """What the end of a child does; raises PoisonMessage when there is no such child."""
    record = draft.commands.get(ended.seq)
    step = draft.step(record) if record is not None else None
    match step:
        case SubsagaStep() if record is not None:
            return answered.apply(draft, record, _said(draft, record, step, ended))
        case EachStep() if record is not None:
            if family.is_undo(record):
                return _item_undone(draft, record, step, ended)
            return _item_ended(draft, record, step, ended)
        case _ if draft.is_of_earlier_run(ended.seq):
            return Ignored(EARLIER_RUN)
        case _:
            raise PoisonMessage("unknown_child", f"Number {ended.seq} of this saga has no children.")


def joined(draft: Draft, seq: int) -> Next:
    """All items of a `for_each` have ended. Where there were none, nothing has to be taken back either."""
    items, record = draft.items[seq], draft.commands[seq]
    if items.total == 0:
        draft.mark_undone(seq)
    return answered.apply(draft, draft.commands[record.seq], Said(Answer.SUCCESS, Tally(items.done, items.failed)))


def _start_again(draft: Draft, asked: ParentAsked) -> Next:
    """There is a saga of this key already, which is not the parent's: it cannot have this one."""
    if draft.parent is not None and draft.parent.id == asked.id:
        return Ignored("duplicate_start")
    if not asked.parent:
        return Ignored("duplicate_start")
    reason = f"there is a saga {draft.saga.name} with the key {draft.instance.key} already"
    family.tell(draft, asked.parent, asked.id, REFUSED, reason)
    return Stay("duplicate_start")


def _take_back(draft: Draft, asked: ParentAsked) -> Next:
    """The parent goes back, so this saga does, too: also when it has completed, but not past its pivot."""
    parent = draft.parent
    if parent is None or parent.id.partition(".")[0] != asked.id.partition(".")[0]:
        raise PoisonMessage("unknown_parent", "The saga that wants this one to be taken back has not started it.")
    match draft.status:
        case Status.COMPENSATED:
            family.tell(draft, parent.definition, asked.id, COMPENSATED, draft.reason or "")
            return Stay()
        case Status.FAILED:
            family.tell(draft, parent.definition, asked.id, REFUSED, "it has ended as failed")
            return Stay()
        case Status.COMPENSATING:
            draft.parent = replace(parent, asked=asked.id)
            return Stay()
        case _ if not draft.saga.compensate:
            family.tell(draft, parent.definition, asked.id, REFUSED, "nothing of it is ever taken back")
            return Stay()
        case _ if draft.past_pivot:
            family.tell(draft, parent.definition, asked.id, REFUSED, "it is past its pivot")
            return Stay("after_pivot")
        case _:
            draft.parent = replace(parent, asked=asked.id)
            return Undo("its parent is taken back")


def _said(draft: Draft, record: CommandRecord, step: SubsagaStep[Any, Any], ended: ChildEnded) -> Said:
    if family.is_undo(record):
        is_back = ended.outcome == COMPENSATED
        return Said(Answer.SUCCESS if is_back else Answer.REJECTION, None)
    if ended.outcome == COMPLETED:
        return Said(Answer.SUCCESS, _read_state(step.child, ended.body))
    failed = _failed(ended)
    return Said(Answer.REJECTION, failed, f"the sub-saga {step.id} ended {failed.status}: {failed.reason}")


def _item_ended(draft: Draft, record: CommandRecord, step: EachStep[Any, Any], ended: ChildEnded) -> Next:
    items = draft.items[record.seq]
    has_worked = ended.outcome == COMPLETED
    items = replace(items, done=items.done + has_worked, failed=items.failed + (not has_worked))
    draft.items = {**draft.items, record.seq: items}
    if record.fate is not Fate.SENT or not draft.is_awaited(record):
        return Stay(LATE)
    verdict = None
    if has_worked and step.on_item is not None:
        verdict = draft.handle(step.on_item, _read_state(step.child, ended.body))
    elif not has_worked and step.on_rejected is not None:
        verdict = draft.handle(step.on_rejected, _failed(ended))
    following = by_verdict(verdict, Stay())
    if isinstance(following, BACK) and draft.past_pivot:
        draft.attend(CANNOT_COMPENSATE, step.id)
    elif not isinstance(following, Stay):
        return following
    if step.tolerate is not None and items.failed > step.tolerate:
        if not draft.past_pivot:
            return Undo(f"{items.failed} of the items of {step.id} failed, {step.tolerate} may")
        draft.attend(ITEMS_FAILED, step.id)
    if items.done + items.failed == items.total:
        return joined(draft, record.seq)
    family.start_next(draft, record, step)
    return Stay()


def _item_undone(draft: Draft, undo: CommandRecord, step: EachStep[Any, Any], ended: ChildEnded) -> Next:
    assert undo.undoes is not None
    items = draft.items[undo.undoes]
    if items.undo != undo.seq:
        return Stay(LATE)
    is_back = ended.outcome == COMPENSATED
    items = replace(items, undone=items.undone + is_back, refused=items.refused + (not is_back))
    draft.items = {**draft.items, undo.undoes: items}
    if items.undone + items.refused == items.started:
        return answered.apply(draft, undo, Said(Answer.REJECTION if items.refused else Answer.SUCCESS, None))
    family.take_back_next(draft, undo, step)
    return Stay()


def _failed(ended: ChildEnded) -> ChildFailed:
    details = from_json(ended.body)
    return ChildFailed(ended.outcome, str(details.get("reason", "")), ended.item)


def _read_state(saga: Saga[Any], body: bytes) -> Any:
    try:
        stored = upcasted(saga.state_model, body)
        return saga.state_model.__pydantic_validator__.validate_json(stored, by_name=True, by_alias=False)
    except ValidationError as error:
        raise PoisonMessage(
            "schema_mismatch", f"The stored state of a child is no {saga.state_model.__name__} of this release."
        ) from error
