"""Going on: open steps, send their commands, end the saga when nothing is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from saga_worker.saga import flow
from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.decide.next import Fail, Next, Undo
from saga_worker.saga.draft import Draft
from saga_worker.saga.instance import CommandKind, Mark, Taken
from saga_worker.saga.names import DEADLINE, EVERY, ROUNDS_EXHAUSTED, SLEEP, WAIT, WAIT_EXPIRED
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.placed import PlacedStep
from saga_worker.saga.second_start import BEGINS_AGAIN
from saga_worker.saga.steps import CommandOf, EmitStep, SavepointStep, SleepStep, WaitStep
from saga_worker.saga.transitions import Status


def begin(draft: Draft) -> Next | None:
    """Open the first steps of a new saga; returns what the saga does instead of going on, if anything."""
    if draft.saga.deadline is not None:
        draft.arm(DEADLINE, draft.saga.deadline)
    return _open(draft, flow.enter(draft.saga.flow_root, draft.state))


def leave(draft: Draft, step_id: str) -> Next | None:
    """Step `step_id` is over: open what comes after it. Returns as `begin`."""
    draft.close(step_id)
    return _open(draft, (), over=[step_id])


def rest(draft: Draft) -> Next | None:
    """What followed from an event of an entity is over, or taken back: its next event may come. Returns as `begin`."""
    for step_id in list(draft.active):
        draft.close(step_id)
    draft.end_round()
    return _open(draft, flow.enter(draft.saga.flow_root, draft.state))


def open_again(draft: Draft, step_id: str) -> Next | None:
    """Send the command of an open step under a new id: its last one was definitely refused."""
    seq = draft.active.pop(step_id)
    if seq is not None and (recorded := draft.recorded.get(seq)) is not None and recorded.event is not None:
        enter_again(draft, step_id, recorded.event)
        return None
    return _open(draft, (step_id,))


def enter_again(draft: Draft, step_id: str, event: Taken) -> None:
    """Run an activity once more, with the event that it has waited for."""
    step = draft.saga.steps[step_id]
    assert isinstance(step, PlacedStep)
    draft.disarm(f"{WAIT}:{step_id}")
    draft.lift(step_id, WAIT_EXPIRED)
    draft.active[step_id] = draft.work(step, event=event)
    draft.go_on()


def complete(draft: Draft, reason: str | None) -> None:
    """The end, keeping what was done. Commands in flight are left alone: their answers are recorded as late."""
    draft.leave_flow()
    draft.become(Status.COMPLETED, reason=reason)


def stand_failed(draft: Draft, reason: str) -> None:
    """The saga ends where it stands. Its steps stay open: an operator may have it try again from there.

    Not where somebody goes on without it: a parent, or a new run of its key.
    """
    if draft.parent is not None or draft.saga.second_start in BEGINS_AGAIN:
        fail(draft, reason)
    else:
        draft.become(Status.FAILED, reason=reason)


def fail(draft: Draft, reason: str) -> None:
    """The end, leaving what was done: nothing more is sent, run, undone or watched. Late answers are recorded."""
    draft.leave_flow()
    draft.let_go()
    draft.become(Status.FAILED, reason=reason)


def _open(draft: Draft, step_ids: Sequence[str], *, over: Sequence[str] = ()) -> Next | None:
    """Open these steps, and what follows those that are `over`, or over as soon as they are opened."""
    pending, ended = list(step_ids), list(over)
    while pending or ended:
        if not ended:
            step_id = pending.pop(0)
            ended += [step_id] if _open_one(draft, step_id) else []
            continue
        moved = _after(draft, ended.pop(0), pending)
        if moved.exhausted is not None:
            if not draft.past_pivot:
                reason = f"the loop {moved.exhausted} has gone through all its rounds"
                return Undo(reason) if draft.saga.compensate else Fail(reason)  # no step is left that could try again
            draft.attend(ROUNDS_EXHAUSTED, moved.exhausted)
        for branch in moved.lost:
            draft.withdraw(branch.since, branch.steps)
            pending = [step_id for step_id in pending if step_id not in branch.steps]
        pending += moved.opened
    if not draft.active and draft.saga.lives_on:
        return rest(draft)
    if not draft.active:
        complete(draft, None)
    else:
        draft.go_on()
    return None


def _after(draft: Draft, step_id: str, pending: Sequence[str]) -> flow.Moved:
    """Where the end of a step leads; the pivot is passed when it is."""
    root = draft.saga.flow_root
    if step_id in root.pivots:
        draft.pivoted = True
    moved = flow.after(root, step_id, draft.state, draft.active.keys() | set(pending), draft.rounds, draft.seq)
    draft.rounds = moved.rounds
    return moved


def _open_one(draft: Draft, step_id: str) -> bool:
    """Open one step; whether it is over at once."""
    step = draft.saga.steps[step_id]
    draft.near = step.source
    match step:
        case CommandOf():
            message = step.make(draft.state)
            draft.active[step_id] = draft.send(step, message, kind=CommandKind.FORWARD, timeout=step.timeout)
        case ActivityStep() | LocalStep():
            draft.active[step_id] = draft.work(step)
        case SubsagaStep() | EachStep():
            seq = draft.work(step)
            if not step.is_awaited:
                draft.commands.pop(seq)
                return True
            draft.active[step_id] = seq
        case WaitStep():
            draft.active[step_id] = None
            if step.timeout is not None:
                draft.arm(f"{WAIT}:{step_id}", step.timeout)
            if step.reminder is not None:
                draft.arm(f"{EVERY}:{step_id}", step.reminder.period)
        case SleepStep():
            draft.active[step_id] = None
            draft.arm(f"{SLEEP}:{step_id}", step.duration(draft.state))
        case SavepointStep():
            draft.savepoints = {**draft.savepoints, step_id: Mark(draft.seq)}
            return True
        case EmitStep():
            draft.publish(step_id, step.make(draft.state), step.event_model)
            return True
        case _:
            assert_never(step)
    return False
