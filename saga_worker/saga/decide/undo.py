"""Going back: take back what was done or may have been done, newest first, each undo answered before the next.

Steps of different branches did not depend on each other, and their undos do not wait for each other. Also while the
saga goes on: branches that lost a join. Also after the end: a late success of a step whose saga is over is taken back
without leaving the final status. An undo that has run out of tries stays on the attention list; the older ones go on
without it, or wait for it, as the definition says.
"""

from __future__ import annotations

from saga_worker.saga import flow
from saga_worker.saga.decide.next import Fail, Next, Undo
from saga_worker.saga.draft import Draft
from saga_worker.saga.finishing import AFRESH
from saga_worker.saga.instance import CommandKind, CommandRecord, Mark
from saga_worker.saga.names import ROLLBACKS_EXHAUSTED, UNDO_AGAIN
from saga_worker.saga.retry import OnExhausted, OnUndoFailed
from saga_worker.saga.steps import CommandOf, SavepointStep
from saga_worker.saga.transitions import Status


def begin(draft: Draft, reason: str) -> None:
    """Leave the flow. Whatever is in flight becomes unknown; strict steps go on watch."""
    draft.leave_flow()
    for record in draft.in_flight(CommandKind.FORWARD):
        draft.abandon(record)
    draft.reason = reason
    draft.become(Status.COMPENSATING)
    proceed(draft)


def roll_back(draft: Draft, to: str, reason: str) -> Next | None:
    """Leave the open steps and stand at the savepoint; returns what happens instead, if it was used up.

    To pause there is to stand at it with all tries ahead, and to take nothing back before an operator resumes.
    """
    mark, step = draft.savepoints.get(to), draft.saga.steps.get(to)
    if mark is None or not isinstance(step, SavepointStep):
        raise ValueError(f"the saga has passed no savepoint {to}; roll back to one that stands before this step")
    is_exhausted = mark.used == step.times
    if is_exhausted:
        reason = f"rolled back to {to} {step.times} times already; now: {reason}"
        if step.on_exhausted is not OnExhausted.PAUSE:
            return Undo(reason) if step.on_exhausted is OnExhausted.COMPENSATE else Fail(reason)
    draft.withdraw(mark.seq)
    draft.rounds = {}
    draft.active.clear()
    draft.active[to] = None
    draft.savepoints = {**draft.savepoints, to: Mark(mark.seq, 0 if is_exhausted else mark.used + 1)}
    if is_exhausted:
        draft.attend(ROLLBACKS_EXHAUSTED, to)
        draft.become(Status.PAUSED, reason=reason)
    else:
        draft.go_on()
    return None


def is_back_at(draft: Draft) -> str | None:
    """The savepoint that the saga stands at with everything taken back, so that it may go on."""
    to = next((step_id for step_id in draft.active if isinstance(draft.saga.steps[step_id], SavepointStep)), None)
    if (
        to is None
        or draft.status is Status.PAUSED
        or any(record.seq > draft.savepoints[to].seq for record in _pending(draft))
    ):
        return None
    return to


def proceed(draft: Draft) -> None:
    """Send the undos whose turn it is, and end when everything is taken back. A paused saga sends none."""
    if draft.status is Status.PAUSED:
        return
    pending = _pending(draft)
    if draft.status is Status.COMPENSATING and not pending:
        draft.become(Status.COMPENSATED)
    tried = {c.undoes for c in draft.commands.values()}
    before = _trying(draft)  # what has to be taken back before those that follow
    for record in pending:
        is_fresh = record.seq not in tried or draft.undo_failures.get(record.seq) == AFRESH
        if not is_fresh:  # under way, or out of tries: then it waits for an operator
            if draft.saga.on_undo_failed is OnUndoFailed.STOP:
                before.append(record)
            continue
        if not any(_are_ordered(draft, record, other) for other in before):
            take_back(draft, record)
        before.append(record)


def take_back(draft: Draft, record: CommandRecord) -> None:
    """Send an undo of `record` under a new id."""
    step = draft.step(record)
    draft.near = step.source
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
    """The commands that have to be taken back and are not yet, newest first.

    While a saga goes on, and when it has completed, only what lost a join goes back.
    """
    is_going_back = draft.status in (Status.COMPENSATING, Status.COMPENSATED)
    newest_first = sorted(draft.commands.items(), reverse=True)
    return [
        record
        for seq, record in newest_first
        if (is_going_back or seq in draft.withdrawn) and draft.must_be_undone(record)
    ]


def _are_ordered(draft: Draft, one: CommandRecord, other: CommandRecord) -> bool:
    """Whether the undo of one has to wait for that of the other."""
    return not flow.are_concurrent(draft.saga.flow_root, one.step, other.step)


def _trying(draft: Draft) -> list[CommandRecord]:
    """The commands whose undo waits for its answer or for its next try, and not for an operator."""
    later = {int(name.partition(":")[2]) for name in draft.timers if name.startswith(f"{UNDO_AGAIN}:")}
    undos = [c for c in draft.in_flight(CommandKind.UNDO) if draft.is_under_way(c)]
    under_way = {c.undoes for c in undos if draft.is_awaited(c)}  # not of what turned out to have done nothing
    return [draft.commands[seq] for seq in later | under_way if seq is not None]
