"""The result of an activity arrives; `answered` says what follows.

A failure is definite when the activity said so, or when every attempt raised and there is nothing that could be
taken back at once. In all other cases the activity may have worked.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from saga_worker.saga import recording
from saga_worker.saga.commands import Answer
from saga_worker.saga.decide import answered
from saga_worker.saga.decide.answered import Said
from saga_worker.saga.decide.next import Next
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import (
    ACTIVITY_DONE,
    ACTIVITY_FAILED,
    ACTIVITY_PARTIAL,
    ACTIVITY_WAITS,
    OUTCOMES,
    ActivityResult,
    Ignored,
)
from saga_worker.saga.instance import Awaited, CommandKind, CommandRecord
from saga_worker.saga.own_work import ActivityFailed, ActivityStep, is_undone_at_once
from saga_worker.saga.second_start import EARLIER_RUN
from saga_worker.saga.upcast import upcasted


def apply(draft: Draft, result: ActivityResult) -> Next:
    """What `result` does; raises PoisonMessage when it cannot be that of an activity of this saga."""
    record = draft.commands.get(result.seq)
    if record is None and draft.is_of_earlier_run(result.seq):
        return Ignored(EARLIER_RUN)
    step = draft.step(record) if record is not None else None
    if record is None or not isinstance(step, ActivityStep) or result.outcome not in OUTCOMES:
        raise PoisonMessage("unknown_activity", f"Number {result.seq} of this saga is no activity.")
    return answered.apply(draft, record, _read(draft, record, step, result))


def _read(draft: Draft, record: CommandRecord, step: ActivityStep[Any, Any], result: ActivityResult) -> Said:
    is_undo = record.kind is CommandKind.UNDO
    if result.outcome == ACTIVITY_DONE:
        value = None if is_undo else _value(step, result.body)
        recording.record(draft, record, result.body)
        return Said(Answer.SUCCESS, value)
    details = from_json(result.body)
    if result.outcome == ACTIVITY_WAITS:
        waits = Awaited(tuple(details["types"]), details["timeout"])
        recording.record(draft, record, to_json(details["so_far"]) if details["so_far"] is not None else None, waits)
        return Said(Answer.SUCCESS, waits)
    why = ActivityFailed(details["error"], details["attempts"], details["is_terminal"], details.get("partial"))
    if result.outcome == ACTIVITY_PARTIAL:
        recording.record(draft, record, to_json(why.partial), is_part=True)
        return Said(Answer.PARTIAL, why, f"{step.id} failed: {why.error}")
    if result.outcome == ACTIVITY_FAILED and (why.is_terminal or _is_definite(draft, step, is_undo)):
        return Said(Answer.REJECTION, why, f"{step.id} failed: {why.error}")
    return Said(Answer.EXHAUSTED, why, f"{step.id} may have worked, but nobody knows: {why.error}")


def _is_definite(draft: Draft, step: ActivityStep[Any, Any], is_undo: bool) -> bool:
    """Whether attempts that all raised mean that nothing was done."""
    if is_undo or (step.has_undo and is_undone_at_once(step)):
        return False
    return not draft.past_pivot or step.on_rejected is not None


def _value(step: ActivityStep[Any, Any], body: bytes) -> Any:
    try:
        stored = upcasted(step.result_model, body)
        return step.result_model.__pydantic_validator__.validate_json(stored, by_name=True, by_alias=False)
    except ValidationError as error:
        raise PoisonMessage(
            "schema_mismatch", f"The stored result of {step.id} is no {step.result_model.__name__} of this release."
        ) from error
