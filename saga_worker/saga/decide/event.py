"""An event arrives: a start, an arm of an open wait, an `on` handler; or it is early, late or a repetition."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw
from pydantic_core import from_json

from saga_worker.saga import flow, recording
from saga_worker.saga.decide import again
from saga_worker.saga.decide.next import BACK, EnterAgain, Leave, Next, Stay, by_verdict
from saga_worker.saga.definition import Entry, On, Saga
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import EventArrived, Ignored, Parked
from saga_worker.saga.instance import Taken
from saga_worker.saga.lines import FIRST
from saga_worker.saga.messages import Message, decode, encode
from saga_worker.saga.names import CANNOT_COMPENSATE
from saga_worker.saga.routing import canonical_key, resolve_pointer
from saga_worker.saga.second_start import DUPLICATE_START, SecondStart
from saga_worker.saga.steps import Arm
from saga_worker.saga.transitions import Status

MAX_NUMBER: Final = 2**63 - 1


def apply(draft: Draft, event: EventArrived, newest: Saga[Any]) -> Next:
    """What `event` does to an existing saga. A numbered one waits for its turn, and has none twice."""
    if (number := number_of(draft.saga, event)) is None or is_over(draft.status):
        return _apply(draft, event, newest)
    expected = draft.sequences.get(event.source, FIRST)
    if number < expected:
        return Ignored("already_passed")
    if number > expected:
        return Parked("out_of_sequence", number)
    before = draft.state_bytes
    following = _apply(draft, event, newest)
    if isinstance(following, Parked):
        return Parked(following.reason, number)
    draft.pass_number(event.source, number)
    if isinstance(following, Ignored):  # recorded all the same: its turn is over
        draft.take_back_state(before)
        return Stay(following.reason)
    return following


def number_of(saga: Saga[Any], event: EventArrived) -> int | None:
    """The number that its producer gave it; None for a type that is not numbered."""
    pointer = saga.sequences.get(event.type)
    if pointer is None:
        return None
    try:
        number = resolve_pointer(from_json(event.body), pointer)
    except (PoisonMessage, ValueError):
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MAX_NUMBER:
        raise PoisonMessage("bad_sequence", f"There is no whole number at {pointer}, where its place in line stands.")
    return number


def _apply(draft: Draft, event: EventArrived, newest: Saga[Any]) -> Next:
    saga = draft.saga
    assert draft.status is not None
    if newest.second_start is not SecondStart.REJECT and event.type in newest.starts:
        following = again.apply(draft, event, newest)
        if following is not None:
            return following
    if (arms := saga.arms.get(event.type)) is not None:
        return _apply_arm(draft, event, arms)
    if (handler := saga.handlers.get(event.type)) is not None:
        return _apply_handler(draft, event, handler)
    if event.type in saga.starts:
        return Ignored(DUPLICATE_START)
    return Ignored("not_handled")


def read(entry: Entry, event: EventArrived, saga: Saga[Any]) -> Message:
    """The event as its model; refuses it when the key in the model is not the key it was routed by."""
    message = decode(event.body, entry.model, event.type)
    if canonical_key(entry.key(message), saga.key_kind) != event.key:
        raise PoisonMessage("key_mismatch", f"The key in the {event.type} model is not the key it was routed by.")
    return message


def _apply_arm(draft: Draft, event: EventArrived, arms: list[Arm]) -> Next:
    if is_over(draft.status):
        return _over(draft)
    turned_away: set[str] = set()  # waits that are open, but not for this event
    for arm in arms:
        is_open = arm.step_id in draft.active
        if not (is_open if arm.handler is not None else recording.is_waiting_for(draft, arm.step_id, event.type)):
            continue
        message = read(arm, event, draft.saga)
        if arm.where is not None and not draft.test(arm.where, message):
            turned_away.add(arm.step_id)
            continue
        if arm.handler is None:
            return EnterAgain(arm.step_id, Taken(event.type, Raw(encode(message))))
        if draft.saga.lives_on and arm.step_id == flow.IDLE:
            draft.before = draft.state_bytes
        verdict = draft.handle(arm.handler, message)
        following = by_verdict(verdict, Leave(arm.step_id))
        if isinstance(following, BACK) and draft.past_pivot:
            draft.attend(CANNOT_COMPENSATE, arm.step_id)  # the wait is over, but there is no way back
            return Leave(arm.step_id)
        return following
    reachable = flow.ahead(draft.saga.flow_root, draft.active, turned_away)
    if any(arm.step_id in reachable for arm in arms):
        return Parked("not_expected_yet")
    return Ignored("filtered" if turned_away else "too_late")


def _apply_handler(draft: Draft, event: EventArrived, handler: On) -> Next:
    if is_over(draft.status):
        return _over(draft)
    verdict = draft.handle(handler.handler, read(handler, event, draft.saga))
    following = by_verdict(verdict, Stay())
    if isinstance(following, BACK) and draft.past_pivot:
        return Ignored("after_pivot")  # with what it did to the state: nobody waited for it
    return following


def is_over(status: Status | None) -> bool:
    """Whether a saga of this status takes events no more."""
    return status is Status.COMPENSATING or (status is not None and status.is_final)


def _over(draft: Draft) -> Ignored:
    return Ignored("compensating" if draft.status is Status.COMPENSATING else "saga_finished")
