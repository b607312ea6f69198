"""An operator, or the worker itself, says something: try again, look again, this cannot be delivered."""

from __future__ import annotations

from typing import Final

from pydantic_core import from_json

from saga_worker.saga.decide.next import Next, OpenAgain, Stay, UndoAgain
from saga_worker.saga.draft import RESEND, TIMEOUT, UNDO_AGAIN, WATCH, Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.inputs import Ignored, OperatorCommand
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate
from saga_worker.saga.transitions import Status

COMMANDS: Final = {
    "retry": "try again whatever put the saga on the attention list",
    "recheck": "judge held and parked rows anew",
    "undeliverable": "a command found no queue; the relay keeps trying",
    "delivered": "the command that found no queue has found one",
}


def apply(draft: Draft, command: OperatorCommand) -> Next:
    """What the command does to this saga."""
    match command.type:
        case "retry":
            return _retry(draft)
        case "recheck":
            return Ignored("rechecked")
        case "undeliverable":
            draft.attend("undeliverable", _destination(command))
            return Stay()
        case "delivered":
            draft.lift(_destination(command))
            return Stay()
        case _:
            known = ", ".join(COMMANDS)
            raise PoisonMessage("unknown_operator_command", f"{command.type!r} is none of: {known}.")


def _destination(command: OperatorCommand) -> str:
    return str(from_json(command.body)["destination"])


def _retry(draft: Draft) -> Next:
    """Take up again whatever has run out of tries: a refused undo, silence, a rejection after the pivot."""
    for seq in sorted(draft.undo_failures, reverse=True):
        if f"{UNDO_AGAIN}:{seq}" not in draft.timers and not _has_undo_in_flight(draft, seq):
            draft.undo_failures[seq] = 0
            draft.lift(draft.commands[seq].step)
            return UndoAgain(seq)
    if (silent := _silent(draft)) is not None:
        draft.lift(silent.step)
        draft.resend(silent)
        return Stay()
    for step_id, command_seq in draft.active.items():
        if command_seq is not None and draft.commands[command_seq].fate is Fate.REJECTED:
            draft.lift(step_id)
            return OpenAgain(step_id)
    return _watch_again(draft) or Ignored("nothing_to_retry")


def _has_undo_in_flight(draft: Draft, seq: int) -> bool:
    return any(c.undoes == seq for c in draft.in_flight(CommandKind.UNDO))


def _silent(draft: Draft) -> CommandRecord | None:
    """A command in flight for which no timer is armed any more."""
    for record in draft.commands.values():
        if record.fate is Fate.SENT and not any(f"{kind}:{record.seq}" in draft.timers for kind in (TIMEOUT, RESEND)):
            if draft.status is Status.COMPLETED:
                continue  # left in flight by the verdict Complete
            return record
    return None


def _watch_again(draft: Draft) -> Next | None:
    expired = [
        c for c in draft.commands.values()
        if c.fate is Fate.UNKNOWN and any(e == f"unsettled_expired: {c.step}" for e in draft.attention)
    ]  # fmt: skip
    for record in expired:
        draft.lift(record.step)
        draft.arm(f"{WATCH}:{record.seq}", draft.given.watch)
    return Stay() if expired else None
