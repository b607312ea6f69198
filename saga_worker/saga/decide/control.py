"""An operator takes the course of a saga in hand: pauses it, ends a wait of it, has it taken back, ends it, says what
was undone outside.

Where the saga does not allow it, the reason says why, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from saga_worker.saga.decide.next import Fail, Leave, Next, Proceed, Stay, Undo
from saga_worker.saga.draft import Draft
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.flow import IDLE
from saga_worker.saga.inputs import CancelActivity, Ignored
from saga_worker.saga.instance import CommandKind, Fate
from saga_worker.saga.names import ROLLBACKS_EXHAUSTED, UNSETTLED_EXPIRED
from saga_worker.saga.own_work import ActivityStep
from saga_worker.saga.steps import SleepStep, WaitStep
from saga_worker.saga.transitions import Status

COMMANDS: Final = {
    "compensate": "take back what was done, newest first, and end compensated",
    "pause": "hold what comes in and let no timer fire",
    "resume": "end a pause",
    "wake": "end a wait or a sleep without its event, or before its time",
    "cancel": "end as failed, with what was done left where it is",
    "mark_undone": "a step was taken back outside, so its undo is not sent",
}


def apply(draft: Draft, command: str, arguments: Mapping[str, object]) -> Next:
    """What `command`, one of COMMANDS, does to this saga."""
    if command == "mark_undone":
        return _mark_undone(draft, arguments)
    assert draft.status is not None
    if draft.status.is_final and not (command == "cancel" and draft.stands_still):
        return Ignored("saga_finished")
    match command:
        case "compensate":
            return _compensate(draft, _why(arguments))
        case "pause":
            return _pause(draft)
        case "resume":
            return _resume(draft)
        case "wake":
            return _wake(draft, arguments)
        case "cancel":
            return Fail(f"cancelled by an operator: {_why(arguments)}")
        case _:
            raise AssertionError(f"no operator's command is called {command}")


def _why(arguments: Mapping[str, object]) -> str:
    return str(arguments.get("why") or "no reason given")


def _compensate(draft: Draft, why: str) -> Next:
    """Also out of a pause: whoever has it taken back does not want it to stand still."""
    if not draft.active:
        return Ignored("compensating")
    if draft.past_pivot:
        return Ignored("after_pivot")
    if not draft.saga.compensate:
        return Ignored("no_compensation")
    return Undo(f"taken back by an operator: {why}")


def _pause(draft: Draft) -> Next:
    """What is in flight is answered or not, as ever; the answer is held."""
    if draft.status is Status.PAUSED:
        return Ignored("paused")
    draft.become(Status.PAUSED)
    return Stay()


def _resume(draft: Draft) -> Next:
    """A saga without an open step was going back when it was paused."""
    if draft.status is not Status.PAUSED:
        return Ignored("not_paused")
    if draft.active:
        for step_id in draft.active:
            draft.lift(step_id, ROLLBACKS_EXHAUSTED)
        draft.reason = None
        draft.go_on()
    else:
        draft.become(Status.COMPENSATING)
    return Proceed()


def _wake(draft: Draft, arguments: Mapping[str, object]) -> Next:
    """The step is over as if its time was: no handler runs, and the flow goes on after it."""
    step_id = arguments.get("step")
    if not isinstance(step_id, str):
        raise PoisonMessage("bad_operator_command", "wake needs the name of a wait or a sleep in its arguments.")
    if draft.status is Status.PAUSED:
        return Ignored("paused")
    is_at_rest = draft.saga.lives_on and step_id == IDLE
    if step_id not in draft.active or is_at_rest or not isinstance(draft.saga.steps[step_id], WaitStep | SleepStep):
        return Ignored("not_waiting")
    return Leave(step_id)


def _mark_undone(draft: Draft, arguments: Mapping[str, object]) -> Next:
    """All that this step did, or may have done, up to now; of a step in a loop every round."""
    step = arguments.get("step")
    if not isinstance(step, str):
        raise PoisonMessage("bad_operator_command", "mark_undone needs the name of a step in its arguments.")
    standing = [
        record.seq
        for record in draft.commands.values()
        if record.step == step and record.kind is CommandKind.FORWARD and not record.undone
        if record.fate in (Fate.DONE, Fate.UNKNOWN)
    ]
    for undo in draft.in_flight(CommandKind.UNDO):
        if undo.undoes in standing and isinstance(draft.step(undo), ActivityStep):
            draft.effects.append(CancelActivity(undo.seq))
    for seq in standing:
        draft.mark_undone(seq)
    draft.lift(step, UNSETTLED_EXPIRED)
    return Proceed() if standing else Ignored("nothing_to_mark")
