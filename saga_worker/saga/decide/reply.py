"""A reply arrives: accepted if its command is outstanding; after that it is a duplicate, a contradiction or late."""

from __future__ import annotations

from typing import assert_never

from saga_worker.saga.commands import Answer, Then
from saga_worker.saga.decide.next import Leave, Next, Proceed, Stay, Undo, by_verdict
from saga_worker.saga.draft import (
    CANNOT_COMPENSATE,
    REJECTED_AFTER_PIVOT,
    STEP_AGAIN,
    UNDO_AGAIN,
    UNDO_FAILED,
    Draft,
)
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import Ignored, ReplyArrived
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate
from saga_worker.saga.messages import Message, decode, rejection_models, reply_models
from saga_worker.saga.retry import Compensate

LATE = "late_reply"


def apply(draft: Draft, reply: ReplyArrived) -> Next:
    """What `reply` does; raises PoisonMessage when it cannot be an answer to its command."""
    if reply.seq < 1 or reply.seq > draft.seq:
        raise PoisonMessage("unknown_command", f"Command number {reply.seq} was never issued by this saga.")
    record = draft.commands.get(reply.seq)
    if record is None:
        raise PoisonMessage("unknown_command", f"Message number {reply.seq} of this saga is an event, not a command.")
    answer, message = _read(draft, record, reply)
    match then := draft.answer(record, answer):
        case Then.ADVANCE:
            return _answered(draft, record, message)
        case Then.REJECT:
            return _rejected(draft, record, message)
        case Then.TAKE_BACK:
            return _late_success(draft, record, message)
        case Then.RECORD:
            return _late_rejection(draft, record)
        case Then.UNDONE:
            return _undone(draft, record)
        case Then.UNDO_AGAIN:
            return _undo_refused(draft, record)
        case Then.DUPLICATE:
            return Ignored("duplicate_reply")
        case Then.CONTRADICTION:
            return Ignored("contradictory_reply")
        case Then.RESEND | Then.GIVE_UP | Then.ATTEND:
            raise AssertionError(f"an answer cannot lead to {then}")
        case _:
            assert_never(then)


def _read(draft: Draft, record: CommandRecord, reply: ReplyArrived) -> tuple[Answer, Message]:
    step = draft.step(record)
    if record.kind is CommandKind.FORWARD:
        replies, rejections = step.replies, step.rejections
    else:
        assert step.undo_model is not None
        replies, rejections = reply_models(step.undo_model), rejection_models(step.undo_model)
    if reply.type in replies:
        return Answer.SUCCESS, decode(reply.body, replies[reply.type], reply.type)
    if reply.type in rejections:
        return Answer.REJECTION, decode(reply.body, rejections[reply.type], reply.type)
    expected = ", ".join([*replies, *rejections])
    raise PoisonMessage("schema_mismatch", f"{reply.type} is no answer to {record.type}; expected one of: {expected}.")


def _answered(draft: Draft, record: CommandRecord, message: Message) -> Next:
    if not draft.is_awaited(record):  # the saga ended by Complete while this was in flight
        return Stay(LATE)
    step = draft.step(record)
    verdict = draft.handle(step.on_reply, message) if step.on_reply is not None else None
    following = by_verdict(verdict, Leave(record.step))
    if isinstance(following, Undo) and (draft.pivoted or record.step in draft.saga.flow_root.pivots):
        draft.attend(CANNOT_COMPENSATE, record.step)  # the pivot is behind us: only forward
        return Leave(record.step)
    return following


def _rejected(draft: Draft, record: CommandRecord, message: Message) -> Next:
    if not draft.is_awaited(record):
        return Stay(LATE)
    step = draft.step(record)
    if step.on_rejected is not None:
        verdict = draft.handle(step.on_rejected, message)
    else:
        verdict = Compensate(f"{record.type} was rejected: {message.wire_type}")
    following = by_verdict(verdict, Leave(record.step))
    if isinstance(following, Undo) and draft.pivoted:
        return _only_forward(draft, record)
    return following


def _only_forward(draft: Draft, record: CommandRecord) -> Next:
    """Past the pivot a rejected step is tried again, under a new id; out of tries it asks for attention."""
    failures = sum(c.step == record.step and c.fate is Fate.REJECTED for c in draft.commands.values())
    delay = draft.step(record).retry.delay(failures, draft.given.jitter)
    if delay is None:
        draft.attend(REJECTED_AFTER_PIVOT, record.step)
    else:
        draft.arm(f"{STEP_AGAIN}:{record.step}", delay)
    return Stay()


def _late_success(draft: Draft, record: CommandRecord, message: Message) -> Next:
    """The step did work. If its undo is out already this is only recorded, else it goes out when its turn comes."""
    if record.undone:
        return Stay(LATE)
    step = draft.step(record)
    if step.on_reply is not None:
        draft.handle(step.on_reply, message)  # for what the undo needs to know; its verdict has no say any more
    return Proceed(LATE)


def _late_rejection(draft: Draft, record: CommandRecord) -> Next:
    """The step did not work, so an undo of it has nothing to take back, however it goes."""
    draft.forget_undo(record.seq)
    return Proceed(LATE)


def _undone(draft: Draft, record: CommandRecord) -> Next:
    assert record.undoes is not None
    if not draft.must_be_undone(draft.commands[record.undoes]):
        return Stay(LATE)
    draft.mark_undone(record.undoes)
    return Proceed()


def _undo_refused(draft: Draft, record: CommandRecord) -> Next:
    assert record.undoes is not None
    if not draft.must_be_undone(draft.commands[record.undoes]):
        return Stay(LATE)
    failures = draft.undo_failures.get(record.undoes, 0) + 1
    draft.undo_failures[record.undoes] = failures
    delay = draft.step(record).undo_retry.delay(failures, draft.given.jitter)
    if delay is None:
        draft.attend(UNDO_FAILED, record.step)
        return Proceed()
    draft.arm(f"{UNDO_AGAIN}:{record.undoes}", delay)
    return Stay()
