"""A local step has run, or has failed. It counts only while its turn, the timer `local:<seq>`, is armed."""

from __future__ import annotations

from saga_worker.saga.commands import Answer
from saga_worker.saga.decide import answered
from saga_worker.saga.decide.answered import Said
from saga_worker.saga.decide.next import Next, Proceed, Stay, Undo
from saga_worker.saga.draft import Draft
from saga_worker.saga.inputs import Ignored, LocalDone, LocalFailed
from saga_worker.saga.instance import CommandKind
from saga_worker.saga.names import LOCAL, LOCAL_FAILED, UNDO_FAILED
from saga_worker.saga.own_work import LocalStep


def apply(draft: Draft, done: LocalDone | LocalFailed) -> Next:
    """What the outcome of a local step does."""
    name = f"{LOCAL}:{done.seq}"
    timer = draft.timers.get(name)
    if timer is None or timer.epoch != done.epoch:
        return Ignored("timer_not_armed")
    draft.disarm(name)
    record = draft.commands[done.seq]
    step = draft.step(record)
    assert isinstance(step, LocalStep)
    if isinstance(done, LocalDone):
        return answered.apply(draft, record, Said(Answer.SUCCESS, (done.state, done.verdict)))
    is_undo = record.kind is CommandKind.UNDO
    if done.is_terminal and not is_undo:
        return answered.apply(draft, record, Said(Answer.REJECTION, None, f"{step.id} failed: {done.error}"))
    failures = timer.failures + 1
    delay = None if done.is_terminal else draft.rest(record, failures)
    if delay is not None:
        draft.arm(name, delay, failures=failures)
        return Stay()
    if not (is_undo or draft.saga.compensate):
        return Undo(f"{step.id} failed: {done.error}")  # which ends the saga, to be retried from here
    draft.attend(UNDO_FAILED if is_undo else LOCAL_FAILED, step.id)
    return Proceed() if is_undo else Stay()
