"""An event arrives: a start, an arm of an open wait, an `on` handler; or it is early, late or a repetition."""

from __future__ import annotations

from typing import Any

from saga_worker.saga import flow
from saga_worker.saga.decide.next import Leave, Next, Stay, Undo, by_verdict
from saga_worker.saga.definition import Entry, On, Saga
from saga_worker.saga.draft import CANNOT_COMPENSATE, Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import EventArrived, Ignored, Parked
from saga_worker.saga.messages import Message, decode
from saga_worker.saga.routing import canonical_key
from saga_worker.saga.steps import Arm
from saga_worker.saga.transitions import Status


def apply(draft: Draft, event: EventArrived) -> Next:
    """What `event` does to an existing saga."""
    saga = draft.saga
    assert draft.status is not None
    if (arms := saga.arms.get(event.type)) is not None:
        return _apply_arm(draft, event, arms)
    if (handler := saga.handlers.get(event.type)) is not None:
        return _apply_handler(draft, event, handler)
    if event.type in saga.starts:
        return Ignored("duplicate_start")
    return Ignored("not_handled")


def read(entry: Entry, event: EventArrived, saga: Saga[Any]) -> Message:
    """The event as its model; refuses it when the key in the model is not the key it was routed by."""
    message = decode(event.body, entry.model, event.type)
    if canonical_key(entry.key(message), saga.key_kind) != event.key:
        raise PoisonMessage("key_mismatch", f"The key in the {event.type} model is not the key it was routed by.")
    return message


def _apply_arm(draft: Draft, event: EventArrived, arms: list[Arm]) -> Next:
    if _is_over(draft):
        return _over(draft)
    for arm in arms:
        if arm.step_id in draft.active:
            verdict = draft.handle(arm.handler, read(arm, event, draft.saga))
            following = by_verdict(verdict, Leave(arm.step_id))
            if isinstance(following, Undo) and draft.past_pivot:
                draft.attend(CANNOT_COMPENSATE, arm.step_id)  # the wait is over, but there is no way back
                return Leave(arm.step_id)
            return following
    reachable = flow.ahead(draft.saga.flow_root, draft.active)
    if any(arm.step_id in reachable for arm in arms):
        return Parked("not_expected_yet")
    return Ignored("too_late")


def _apply_handler(draft: Draft, event: EventArrived, handler: On) -> Next:
    if _is_over(draft):
        return _over(draft)
    verdict = draft.handle(handler.handler, read(handler, event, draft.saga))
    following = by_verdict(verdict, Stay())
    if isinstance(following, Undo) and draft.past_pivot:
        return Ignored("after_pivot")  # with what it did to the state: nobody waited for it
    return following


def _is_over(draft: Draft) -> bool:
    return draft.status is Status.COMPENSATING or (draft.status is not None and draft.status.is_final)


def _over(draft: Draft) -> Ignored:
    return Ignored("compensating" if draft.status is Status.COMPENSATING else "saga_finished")
