"""Going back: take back what was done or may have been done, newest first, each undo answered before the next.

Also after the end: a late success of a step whose saga is over is taken back without leaving the final status.
An undo that has run out of tries stays on the attention list; the older ones go on without it.
"""

from __future__ import annotations

from saga_worker.saga.draft import AFRESH, UNDO_AGAIN, Draft
from saga_worker.saga.instance import CommandKind, CommandRecord
from saga_worker.saga.steps import CommandOf
from saga_worker.saga.transitions import Status


def begin(draft: Draft, reason: str) -> None:
    """Leave the flow. Whatever is in flight becomes unknown; strict steps go on watch."""
    draft.leave_flow()
    for record in draft.in_flight(CommandKind.FORWARD):
        draft.abandon(record)
    draft.reason = reason
    proceed(draft)


def proceed(draft: Draft) -> None:
    """Send the next undo if it is time, and end when everything is taken back."""
    assert draft.status is not None
    pending = _pending(draft)
    if not draft.status.is_final:
        draft.become(Status.COMPENSATING if pending else Status.COMPENSATED)
    elif draft.status is not Status.COMPENSATED:
        return  # completed, or ended by an operator: what was done is kept
    if not _is_trying(draft):
        tried = {c.undoes for c in draft.commands.values()}
        following = next((r for r in pending if r.seq not in tried or draft.undo_failures.get(r.seq) == AFRESH), None)
        if following is not None:
            take_back(draft, following)


def take_back(draft: Draft, record: CommandRecord) -> None:
    """Send an undo of `record` under a new id."""
    step = draft.step(record)
    draft.disarm(f"{UNDO_AGAIN}:{record.seq}")
    if draft.undo_failures.get(record.seq) == AFRESH:
        del draft.undo_failures[record.seq]
    if not isinstance(step, CommandOf):
        draft.work(step, undoes=record.seq)
        return
    assert step.make_undo is not None
    message = step.make_undo(draft.state)
    draft.send(step, message, kind=CommandKind.UNDO, timeout=step.undo_timeout, undoes=record.seq)


def _pending(draft: Draft) -> list[CommandRecord]:
    """The commands that have to be taken back and are not yet, newest first."""
    return [record for _, record in sorted(draft.commands.items(), reverse=True) if draft.must_be_undone(record)]


def _is_trying(draft: Draft) -> bool:
    """An undo waits for its answer or for its next try. One that waits for an operator does not count."""
    if any(name.startswith(f"{UNDO_AGAIN}:") for name in draft.timers):
        return True
    return any(draft.is_under_way(record) for record in draft.in_flight(CommandKind.UNDO))
