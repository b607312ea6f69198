"""Going on: open steps, send their commands, end the saga when nothing is left to do."""

from __future__ import annotations

from typing import assert_never

from saga_worker.saga import flow
from saga_worker.saga.draft import (
    DEADLINE,
    EVERY,
    LOCAL_FAILED,
    NO_ANSWER,
    REJECTED_AFTER_PIVOT,
    WAIT,
    WAIT_EXPIRED,
    Draft,
)
from saga_worker.saga.instance import CommandKind
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.steps import CommandOf, EmitStep, WaitStep
from saga_worker.saga.transitions import Status


def begin(draft: Draft) -> None:
    """Open the first steps of a new saga."""
    if draft.saga.deadline is not None:
        draft.arm(DEADLINE, draft.saga.deadline)
    _open(draft, flow.enter(draft.saga.flow_root, draft.state))


def leave(draft: Draft, step_id: str) -> None:
    """Step `step_id` is over: open what comes after it."""
    del draft.active[step_id]
    draft.disarm(f"{WAIT}:{step_id}")
    draft.disarm(f"{EVERY}:{step_id}")
    draft.lift(step_id, NO_ANSWER, REJECTED_AFTER_PIVOT, LOCAL_FAILED, WAIT_EXPIRED)
    _open(draft, _after(draft, step_id))


def open_again(draft: Draft, step_id: str) -> None:
    """Send the command of an open step under a new id: its last one was definitely refused."""
    del draft.active[step_id]
    _open(draft, (step_id,))


def complete(draft: Draft, reason: str | None) -> None:
    """The end, keeping what was done. Commands in flight are left alone: their answers are recorded as late."""
    draft.leave_flow()
    draft.become(Status.COMPLETED, reason=reason)


def _after(draft: Draft, step_id: str) -> tuple[str, ...]:
    """The steps that open when `step_id` is over; the pivot is passed when it is."""
    if step_id in draft.saga.flow_root.pivots:
        draft.pivoted = True
    return flow.after(draft.saga.flow_root, step_id, draft.state)


def _open(draft: Draft, step_ids: tuple[str, ...]) -> None:
    pending = list(step_ids)
    while pending:
        pending += _open_one(draft, pending.pop(0))
    if not draft.active:
        complete(draft, None)
    else:
        has_command = any(seq is not None for seq in draft.active.values())
        draft.become(Status.RUNNING if has_command else Status.WAITING)


def _open_one(draft: Draft, step_id: str) -> tuple[str, ...]:
    """Open one step; returns the steps after it when it is over at once."""
    step = draft.saga.steps[step_id]
    match step:
        case CommandOf():
            message = step.make(draft.state)
            draft.active[step_id] = draft.send(step, message, kind=CommandKind.FORWARD, timeout=step.timeout)
            return ()
        case ActivityStep() | LocalStep():
            draft.active[step_id] = draft.work(step)
            return ()
        case WaitStep():
            draft.active[step_id] = None
            if step.timeout is not None:
                draft.arm(f"{WAIT}:{step_id}", step.timeout)
            if step.reminder is not None:
                draft.arm(f"{EVERY}:{step_id}", step.reminder.period)
            return ()
        case EmitStep():
            draft.publish(step_id, step.make(draft.state), step.event_model)
            return _after(draft, step_id)
        case _:
            assert_never(step)
