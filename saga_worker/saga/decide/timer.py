"""A timer fires. It has an effect only while its epoch is armed; firing takes it away."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from saga_worker.saga.commands import Answer, Then
from saga_worker.saga.decide import child
from saga_worker.saga.decide.next import Leave, Next, OpenAgain, Proceed, Stay, Undo, UndoAgain
from saga_worker.saga.draft import Draft
from saga_worker.saga.inputs import Ignored, Postponed, TimerFired
from saga_worker.saga.instance import Timer
from saga_worker.saga.names import (
    DEADLINE_PASSED,
    EVERY,
    LOCAL,
    NO_ANSWER,
    RESEND,
    TIMEOUT,
    UNDO_FAILED,
    UNSETTLED_EXPIRED,
    WAIT_EXPIRED,
)
from saga_worker.saga.retry import OnTimeout
from saga_worker.saga.steps import CommandOf, WaitStep


def apply(draft: Draft, fired: TimerFired) -> Next:
    """What the timer does; a timer that was cancelled or armed anew meanwhile is ignored."""
    timer = draft.timers.get(fired.name)
    if timer is None or timer.epoch != fired.epoch:
        return Ignored("timer_not_armed")
    draft.disarm(fired.name)
    kind, _, subject = fired.name.partition(":")
    match kind:
        case "timeout":
            return _no_answer(draft, int(subject), timer)
        case "resend":
            draft.resend(draft.commands[int(subject)])
            return Stay()
        case "undo":
            return UndoAgain(int(subject))
        case "again":
            return OpenAgain(subject)
        case "watch":
            return _watch_ended(draft, int(subject))
        case "wait":
            return _wait_expired(draft, subject)
        case "sleep":
            return Leave(subject)
        case "every":
            return _remind(draft, subject, timer)
        case "joined":
            return child.joined(draft, int(subject))
        case "deadline":
            return _deadline(draft)
        case _:
            raise AssertionError(f"no timer is called {fired.name}")


def is_reply_timeout(name: str) -> bool:
    """Whether this timer must wait until queued replies are stored."""
    return name.startswith(f"{TIMEOUT}:")


def is_local(name: str) -> bool:
    """Whether this timer is the turn of a local step, which only the shell can run."""
    return name.startswith(f"{LOCAL}:")


def _no_answer(draft: Draft, seq: int, timer: Timer) -> Next:
    record = draft.commands[seq]
    if seq in draft.given.unsent:
        # The same timer, only later: no step arms it, so it keeps the epoch that the journal knows.
        draft.timers[f"{TIMEOUT}:{seq}"] = replace(timer, due_at=draft.given.now + draft.timeout_of(record))
        return Postponed()
    delay = draft.rest(record, record.attempts) if draft.may_repeat(record) else None
    match then := draft.answer(record, Answer.EXHAUSTED if delay is None else Answer.SILENCE):
        case Then.RESEND:
            assert delay is not None
            draft.arm(f"{RESEND}:{seq}", delay)
            return Stay()
        case Then.GIVE_UP:
            if not draft.past_pivot:
                return Undo(f"no answer to {record.type} in time")
            if not isinstance(draft.step(record), CommandOf):
                draft.give_up(record)
            draft.attend(NO_ANSWER, record.step)
            return Stay()
        case Then.ATTEND:
            draft.attend(UNDO_FAILED, record.step)
            return Proceed()
        case _:
            raise AssertionError(f"silence cannot lead to {then}")


def _watch_ended(draft: Draft, seq: int) -> Next:
    record = draft.commands[seq]
    draft.answer(record, Answer.WATCH_ENDED)
    draft.attend(UNSETTLED_EXPIRED, record.step)
    return Stay()


def _wait_expired(draft: Draft, step_id: str) -> Next:
    step = draft.saga.steps[step_id]
    on_timeout = step.on_timeout if isinstance(step, WaitStep) else OnTimeout.COMPENSATE
    match on_timeout:
        case OnTimeout.CONTINUE:
            return Leave(step_id)
        case OnTimeout.COMPENSATE if not draft.past_pivot:
            return Undo(f"nothing came to end the wait {step_id}")
        case OnTimeout.COMPENSATE:
            draft.attend(WAIT_EXPIRED, step_id)
            return Stay()
        case _:
            assert_never(on_timeout)


def _remind(draft: Draft, step_id: str, timer: Timer) -> Next:
    step = draft.saga.steps[step_id]
    assert isinstance(step, WaitStep) and step.reminder is not None
    draft.publish(step_id, step.reminder.make(draft.state), step.reminder.model)
    if timer.fired + 1 < step.reminder.times:
        draft.arm(f"{EVERY}:{step_id}", step.reminder.period, fired=timer.fired + 1)
    return Stay()


def _deadline(draft: Draft) -> Next:
    if not draft.past_pivot:
        return Undo("the deadline of the saga has passed")
    draft.attend(DEADLINE_PASSED)
    return Stay()
