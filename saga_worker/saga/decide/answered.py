"""What an answer leads to, whoever gave it: a participant's reply, the result of an activity, a local step.

The first definite answer wins; after that it is a duplicate, a contradiction or late.
"""

from __future__ import annotations

from typing import Any, assert_never

from msgspec import Struct

from saga_worker.saga import recording
from saga_worker.saga.commands import Answer, Then
from saga_worker.saga.decide.next import BACK, Leave, Next, Proceed, Stay, Undo, by_verdict
from saga_worker.saga.draft import Draft
from saga_worker.saga.inputs import Ignored
from saga_worker.saga.instance import Awaited, CommandKind, CommandRecord, Fate
from saga_worker.saga.names import (
    CANNOT_COMPENSATE,
    NO_ANSWER,
    REJECTED_AFTER_PIVOT,
    STEP_AGAIN,
    UNDO_AGAIN,
    UNDO_FAILED,
    UNSETTLED_EXPIRED,
    WATCH,
)
from saga_worker.saga.own_work import LocalStep
from saga_worker.saga.retry import Compensate
from saga_worker.saga.steps import CommandOf

LATE = "late_reply"


class Said(Struct, frozen=True):
    """An answer, what came with it for the step's handler, and why the saga compensates if that has no say."""

    answer: Answer
    content: Any
    why: str = ""


def apply(draft: Draft, record: CommandRecord, said: Said) -> Next:
    """Enter the answer, and say what follows."""
    match then := draft.answer(record, said.answer):
        case Then.ADVANCE:
            return _succeeded(draft, record, said)
        case Then.REJECT:
            return _rejected(draft, record, said)
        case Then.TAKE_BACK:
            return _late_success(draft, record, said)
        case Then.RECORD:
            return _late_rejection(draft, record)
        case Then.UNDONE:
            return _undone(draft, record)
        case Then.UNDO_AGAIN:
            return _undo_refused(draft, record)
        case Then.GIVE_UP:
            return _given_up(draft, record, said)
        case Then.ATTEND:
            return _nothing_more(draft, record)
        case Then.DUPLICATE:
            return Ignored("duplicate_reply")
        case Then.CONTRADICTION:
            return Ignored("contradictory_reply")
        case Then.RESEND:
            raise AssertionError(f"an answer cannot lead to {then}")
        case _:
            assert_never(then)


def _succeeded(draft: Draft, record: CommandRecord, said: Said) -> Next:
    if not draft.is_awaited(record):  # the saga ended by Complete while this was in flight
        return Stay(LATE)
    if isinstance(said.content, Awaited):
        recording.wait_for(draft, record, said.content)
        return Stay()
    following = by_verdict(_verdict(draft, record, said), Leave(record.step))
    if isinstance(following, BACK) and (draft.pivoted or record.step in draft.saga.flow_root.pivots):
        draft.attend(CANNOT_COMPENSATE, record.step)  # the pivot is behind us: only forward
        return Leave(record.step)
    return following


def _verdict(draft: Draft, record: CommandRecord, said: Said) -> Any:
    """What the author says to a success (or to a part of one): the handler of the step, or a local step itself."""
    step = draft.step(record)
    if isinstance(step, LocalStep):
        state, verdict = said.content
        draft.keep(state)
    else:
        handler = step.on_rejected if said.answer is Answer.PARTIAL else step.on_reply
        verdict = draft.handle(handler, said.content) if handler is not None else None
    return verdict


def _rejected(draft: Draft, record: CommandRecord, said: Said) -> Next:
    if not draft.is_awaited(record):
        return Stay(LATE)
    step = draft.step(record)
    if not isinstance(step, LocalStep) and step.on_rejected is not None:
        verdict = draft.handle(step.on_rejected, said.content)
    else:
        verdict = Compensate(said.why)
    following = by_verdict(verdict, Leave(record.step))
    if isinstance(following, BACK) and draft.pivoted:
        return _only_forward(draft, record)
    return following


def _only_forward(draft: Draft, record: CommandRecord) -> Next:
    """Past the pivot a rejected command is tried again, under a new id; out of tries it asks for attention.

    Own work that fails for good has been tried enough, or has said that it is no use.
    """
    step = draft.step(record)
    failures = sum(c.step == record.step and c.fate is Fate.REJECTED for c in draft.commands.values())
    delay = draft.rest(record, failures) if isinstance(step, CommandOf) else None
    if delay is None:
        draft.attend(REJECTED_AFTER_PIVOT, record.step)
    else:
        draft.arm(f"{STEP_AGAIN}:{record.step}", delay)
    return Stay()


def _late_success(draft: Draft, record: CommandRecord, said: Said) -> Next:
    """The step did work. If its undo is out already this is only recorded, else it goes out when its turn comes."""
    if record.undone:
        return Stay(LATE)
    if not isinstance(said.content, Awaited):
        _verdict(draft, record, said)  # for what the undo needs to know; the verdict has no say any more
    return Proceed(LATE)


def _late_rejection(draft: Draft, record: CommandRecord) -> Next:
    """The step did not work, so an undo of it has nothing to take back, however it goes."""
    draft.forget_undo(record.seq)
    return Proceed(LATE)


def _undone(draft: Draft, record: CommandRecord) -> Next:
    assert record.undoes is not None
    is_wanted = draft.must_be_undone(draft.commands[record.undoes])
    if is_wanted or draft.has_failed_for_good:
        draft.mark_undone(record.undoes)
    return Proceed() if is_wanted else Stay(LATE)


def _undo_refused(draft: Draft, record: CommandRecord) -> Next:
    assert record.undoes is not None
    if not draft.must_be_undone(draft.commands[record.undoes]):
        return Stay(LATE)
    failures = draft.undo_failures.get(record.undoes, 0) + 1
    draft.undo_failures[record.undoes] = failures
    delay = draft.rest(record, failures)
    if delay is None:
        draft.attend(UNDO_FAILED, record.step)
        return Proceed()
    draft.arm(f"{UNDO_AGAIN}:{record.undoes}", delay)
    return Stay()


def _given_up(draft: Draft, record: CommandRecord, said: Said) -> Next:
    """An activity has no attempt left, and it may have worked."""
    if not draft.is_awaited(record):
        return Stay(LATE)
    if not draft.past_pivot and draft.saga.compensate:
        return Undo(said.why)
    draft.give_up(record)
    if not draft.past_pivot:
        return Undo(said.why)
    draft.attend(NO_ANSWER, record.step)
    return Stay()


def _nothing_more(draft: Draft, record: CommandRecord) -> Next:
    """Nobody is left who could answer: an undo, or a strict step that the saga has given up."""
    draft.give_up(record)
    if draft.has_failed_for_good:
        return Stay(LATE)
    if record.kind is CommandKind.UNDO:
        if record.undoes is None or not draft.must_be_undone(draft.commands[record.undoes]):
            return Stay(LATE)
        draft.attend(UNDO_FAILED, record.step)
        return Proceed()
    draft.disarm(f"{WATCH}:{record.seq}")
    if record.undone or draft.must_be_undone(record):
        return Stay(LATE)  # what it may have done is taken back, or is about to be
    draft.attend(UNSETTLED_EXPIRED, record.step)
    return Stay()
