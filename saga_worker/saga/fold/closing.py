"""What is to be done about a saga after this transaction: its attention list, its wake row, its local step.

Takes the working copy when nothing more is applied to it and hands out its `SagaChange`. Guarantees that a saga with
a timer that may fire has a wake row no later than that, and a blocked one has none.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from pydantic_core import to_json

from saga_worker.saga.changes import SagaChange
from saga_worker.saga.decide import decide
from saga_worker.saga.decide.timer import is_local
from saga_worker.saga.fold import attention
from saga_worker.saga.fold.working_copy import WorkingCopy
from saga_worker.saga.inputs import OperatorCommand
from saga_worker.saga.instance import Instance
from saga_worker.saga.lifecycle import is_of_rows

TOLD: Final = "attention_listed"
NOT_NOW: Final = timedelta(seconds=5)  # a due timer that may not fire is looked at again after this


def close(copy: WorkingCopy) -> SagaChange:
    attention.judge(copy)
    if copy.saga.lifecycle:
        _tell_of_rows(copy)
    _set_wake(copy)
    copy.change.after = copy.instance
    is_due = not copy.is_blocked() and due_local(copy.instance, copy.given.now) is not None
    copy.change.local = is_due and copy.upgrade is None  # else it is moved first, when its timer is looked at again
    return copy.change


def _tell_of_rows(copy: WorkingCopy) -> None:
    """What rows and timers have put on the attention list, no decision has told: it is a step of the saga by itself."""
    if copy.instance is None or copy.upgrade is not None:
        return
    before = copy.change.before
    known = before.progress.attention if before is not None and before.saga_id == copy.instance.saga_id else ()
    listed = [e for e in copy.instance.progress.attention if e not in known and is_of_rows(e)]
    if listed:
        said = decide(copy.saga, copy.instance, OperatorCommand(TOLD, to_json({"entries": listed})), copy.given)
        message_id = f"{TOLD}:{copy.instance.saga_id}:{copy.instance.revision + 1}"
        copy.record(said, kind="operator", source="worker", message_id=message_id)


def due_local(instance: Instance | None, now: datetime) -> tuple[int, int] | None:
    """Number and epoch of the local step whose turn it is."""
    if instance is None:
        return None
    timers = instance.progress.timers.items()
    due = [(timer.due_at, timer.epoch, name) for name, timer in timers if is_local(name) and timer.due_at <= now]
    if not due or instance.stands_still:
        return None
    _, epoch, name = min(due)
    return int(name.partition(":")[2]), epoch


def _set_wake(copy: WorkingCopy) -> None:
    """When the wake row is due: the earliest timer; later if a due one may not fire now; never while blocked."""
    if copy.instance is None:
        return
    due, now, change = copy.instance.next_due, copy.given.now, copy.change
    if due is None or copy.is_blocked():
        change.clear_wake = True
        return
    change.wake_at = due if due > now else now + NOT_NOW
    had = change.before.next_due if change.before is not None else None
    # One that was due before may have been put off: a time-out that waits for replies, a local step in other hands.
    change.lower_wake = had is None or _was_blocked(change.before) or due < had or had <= now


def _was_blocked(before: Instance | None) -> bool:
    return before is not None and (
        before.stands_still or attention.DEAD_LETTER in before.progress.attention
    )  # fmt: skip
