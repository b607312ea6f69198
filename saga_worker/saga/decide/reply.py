"""A reply arrives: accepted if its command is outstanding; `answered` says what follows."""

from __future__ import annotations

from saga_worker.saga.commands import Answer
from saga_worker.saga.decide import answered
from saga_worker.saga.decide.answered import Said
from saga_worker.saga.decide.next import Next
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import Ignored, ReplyArrived
from saga_worker.saga.instance import CommandKind, CommandRecord
from saga_worker.saga.messages import decode, rejection_models, reply_models
from saga_worker.saga.second_start import EARLIER_RUN
from saga_worker.saga.steps import CommandOf


def apply(draft: Draft, reply: ReplyArrived) -> Next:
    """What `reply` does; raises PoisonMessage when it cannot be an answer to its command."""
    if reply.seq < 1 or reply.seq > draft.seq:
        raise PoisonMessage("unknown_command", f"Command number {reply.seq} was never issued by this saga.")
    record = draft.commands.get(reply.seq)
    if record is None and draft.is_of_earlier_run(reply.seq):
        return Ignored(EARLIER_RUN)
    if record is None:
        raise PoisonMessage("unknown_command", f"Message number {reply.seq} of this saga is an event, not a command.")
    if not isinstance(draft.step(record), CommandOf):
        raise PoisonMessage("unknown_command", f"Number {reply.seq} of this saga is its own work, not a command.")
    return answered.apply(draft, record, _read(draft, record, reply))


def _read(draft: Draft, record: CommandRecord, reply: ReplyArrived) -> Said:
    step = draft.command_step(record)
    if record.kind is CommandKind.FORWARD:
        replies, rejections = step.replies, step.rejections
    else:
        assert step.undo_model is not None
        replies, rejections = reply_models(step.undo_model), rejection_models(step.undo_model)
    if reply.type in replies:
        return Said(Answer.SUCCESS, decode(reply.body, replies[reply.type], reply.type))
    if reply.type in rejections:
        message = decode(reply.body, rejections[reply.type], reply.type)
        return Said(Answer.REJECTION, message, f"{record.type} was rejected: {message.wire_type}")
    expected = ", ".join([*replies, *rejections])
    raise PoisonMessage("schema_mismatch", f"{reply.type} is no answer to {record.type}; expected one of: {expected}.")
