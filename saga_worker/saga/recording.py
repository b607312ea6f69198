"""What reusable activities have taken and returned, as long as an undo, a later step or a later entry may ask for it.

Takes the working copy of a saga whose steps are classes or plain functions with an input and an output of their own;
keeps both beside the commands, under the same numbers. Other sagas have nothing of this in their rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from saga_worker.saga.instance import Awaited, CommandRecord, Fate, Recorded, Taken
from saga_worker.saga.names import WAIT
from saga_worker.saga.own_work import is_undone_at_once
from saga_worker.saga.placed import Outputs, PlacedStep
from saga_worker.saga.transitions import Status

if TYPE_CHECKING:
    from saga_worker.saga.draft import Draft

NOT_OPEN: Final = 0  # in place of the seq of an open step


def entry(draft: Draft, step: PlacedStep[Any, Any, Any], event: Taken | None) -> Recorded:
    """What goes in: made by the author, or what went in before that waited, with the event."""
    if event is None:
        taken = [r.event for _, r in sorted(draft.recorded.items()) if r.event is not None]
        return Recorded(step.make_input(draft.state, Outputs(_outputs(draft), taken)))
    before = last_entry(draft, step.id)
    assert before is not None
    last = draft.recorded[before]
    return Recorded(last.input, last.output, last.is_part, event, before)


def record(
    draft: Draft, record: CommandRecord, output: bytes | None, waits: Awaited | None = None, *, is_part: bool = False
) -> None:
    """What came out of a reusable activity, unless that is known already."""
    recorded = draft.recorded.get(record.seq)
    if recorded is None or record.fate not in (Fate.SENT, Fate.UNKNOWN):
        return
    stored = Raw(output) if output is not None else recorded.output
    is_part = is_part or (waits is not None and stored is not UNSET)
    draft.recorded[record.seq] = replace(recorded, output=stored, is_part=is_part, waits=waits)


def wait_for(draft: Draft, record: CommandRecord, awaited: Awaited) -> None:
    """The activity has ended by waiting: its step stays open."""
    draft.active[record.step] = None
    draft.arm(f"{WAIT}:{record.step}", timedelta(seconds=awaited.timeout))
    draft.go_on()


def is_waiting_for(draft: Draft, step_id: str, event_type: str) -> bool:
    """Whether an activity is to be entered again with such an event."""
    if draft.active.get(step_id, NOT_OPEN) is not None:
        return False
    last = last_entry(draft, step_id)
    waits = draft.recorded[last].waits if last is not None else None
    return waits is not None and event_type in waits.types


def wait_of(draft: Draft, step_id: str) -> timedelta | None:
    """How long an activity that waits may do so."""
    last = last_entry(draft, step_id)
    waits = draft.recorded[last].waits if last is not None else None
    return timedelta(seconds=waits.timeout) if waits is not None else None


def last_entry(draft: Draft, step_id: str) -> int | None:
    return max((seq for seq in draft.recorded if draft.commands[seq].step == step_id), default=None)


def follow_entry(draft: Draft, record: CommandRecord, fate: Fate) -> None:
    """Of all entries of a step, the last that was done, or may have been, stands for what has to be taken back."""
    recorded, is_at_once = draft.recorded[record.seq], is_undone_at_once(draft.step(record))
    is_last = fate is Fate.DONE or (fate is Fate.UNKNOWN and is_at_once)
    if is_last and recorded.after in draft.commands:  # an entity may have forgotten it
        draft.commands[recorded.after] = replace(draft.commands[recorded.after], undone=True)
    if recorded.waits is not None and recorded.output is UNSET and not is_at_once:
        draft.commands[record.seq] = replace(draft.commands[record.seq], undone=True)  # it has nothing to take back


def _outputs(draft: Draft) -> dict[str, Raw]:
    """What stands of what was returned, by step: of several the last."""
    return {
        draft.commands[seq].step: recorded.output
        for seq, recorded in sorted(draft.recorded.items())
        if recorded.output is not UNSET and not recorded.is_part
        if draft.commands[seq].fate is Fate.DONE and not draft.commands[seq].undone
    }


def still_recorded(draft: Draft) -> dict[int, Recorded] | UnsetType:
    """What an undo, a later step or a later entry may still ask for."""
    if not draft.recorded:
        return UNSET
    last: dict[str, int] = {}
    for seq in sorted(draft.recorded):
        record = draft.commands[seq]
        if not record.undone and record.fate is Fate.DONE and not draft.recorded[seq].is_part:
            last[record.step] = seq
    return {seq: r for seq, r in draft.recorded.items() if _is_asked_for(draft, draft.commands[seq], last)} or UNSET


def _is_asked_for(draft: Draft, record: CommandRecord, last: Mapping[str, int]) -> bool:
    step = draft.step(record)
    assert isinstance(step, PlacedStep) and draft.status is not None
    open_seq = draft.active.get(record.step, NOT_OPEN)
    if open_seq == record.seq or (open_seq is None and last_entry(draft, record.step) == record.seq):
        return True
    is_over = draft.status is Status.COMPENSATING or (draft.status.is_final and not draft.stands_still)
    if draft.saga.reads_outputs and draft.recorded[record.seq].event is not None and not is_over:
        return True
    if record.undone or record.fate is Fate.REJECTED:
        return False
    if step.has_undo and (draft.status is not Status.COMPLETED or record.seq in draft.withdrawn):
        return not draft.has_failed_for_good
    if is_over:
        return False
    return (step.keeps_output or draft.saga.reads_outputs) and last.get(record.step) == record.seq
