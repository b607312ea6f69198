"""Timers that are due, after all rows.

Rules kept here: the oldest first, and none while a row is left that could still win against it; after one that moved
the saga early rows have their turn before the next; one that a worker may have died of runs alone; one whose code
raises is due again after the back-off, and asks for attention once its tries are used up.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final, assert_never

from msgspec.structs import replace

from saga_worker.saga.decide.timer import is_local, is_reply_timeout
from saga_worker.saga.fold import early
from saga_worker.saga.fold.attention import note_failed_timer
from saga_worker.saga.fold.working_copy import WorkingCopy
from saga_worker.saga.inputs import Applied, Decision, Ignored, Parked, Postponed, Raised, Refused, TimerFired
from saga_worker.saga.instance import Instance

AT_ONCE: Final = 50
HOPELESS: Final = timedelta(hours=1)  # between tries of a timer whose handler keeps raising


def fire(copy: WorkingCopy) -> None:
    """Due timers, oldest first, once no row is left that could still win against them."""
    if copy.is_stopped() or (copy.alone and copy.applied):
        return
    if copy.upgrade is not None and not _move_on(copy):
        return
    for _ in range(AT_ONCE):
        before = copy.instance
        names = due(before, copy.given.now, copy.given.replies_are_in)
        if before is None or not names:
            return
        name = names[0]
        if before.progress.timers[name].deaths and not copy.alone:
            copy.change.suspect_timer = True
            return
        _settle(copy, name, copy.decide(TimerFired(name, before.progress.timers[name].epoch)))
        if copy.has_moved(before) and early.put_all_behind(copy):
            # In a transaction of their own, which announces them: of those that this one takes up nobody would know
            # if the author's code killed the worker, and the timer would do it again for ever.
            copy.rows_wait = True
        if copy.alone or copy.is_stopped():
            return


def _move_on(copy: WorkingCopy) -> bool:
    """Bring a saga with a due timer, or a local step whose turn it is, to its version; whether timers may fire.

    Before that is known which timer fires, since an upgrade gives them other names.
    """
    assert copy.instance is not None
    names = _due_before_a_move(copy.instance, copy.given.now, copy.given.replies_are_in)
    if not names:
        return False
    if copy.instance.progress.timers[names[0]].deaths and not copy.alone:
        copy.change.suspect_timer = True
        return False
    if (error := copy.move_on()) is not None:
        _fail(copy, names[0], error)
        return False
    return True


def due(instance: Instance | None, now: datetime, replies_are_in: bool) -> list[str]:
    """Names of the timers that may fire, oldest first."""
    if instance is None:
        return []
    found = [
        (timer.due_at, timer.epoch, name)
        for name, timer in instance.progress.timers.items()
        if timer.due_at <= now and not is_local(name) and (replies_are_in or not is_reply_timeout(name))
    ]
    return [name for _, _, name in sorted(found)]


def _due_before_a_move(instance: Instance, now: datetime, replies_are_in: bool) -> list[str]:
    """The same, and local steps whose turn it is: what they are is only known after the upgrade."""
    timers = instance.progress.timers.items()
    return due(instance, now, replies_are_in) + [n for n, timer in timers if is_local(n) and timer.due_at <= now]


def in_hand(
    instance: Instance, now: datetime, replies_are_in: bool, *, alone: bool, is_to_move: bool = False
) -> list[str]:
    """Those that one transaction may run, as "name:epoch": up to a suspect, which runs alone.

    Before an upgrade (`is_to_move`) also local steps: its code runs because of them.
    """
    timers = instance.progress.timers
    names = (_due_before_a_move if is_to_move else due)(instance, now, replies_are_in)
    names = names[:1] if alone else list(takewhile(lambda name: not timers[name].deaths, names))
    return [f"{name}:{timers[name].epoch}" for name in names]


def _settle(copy: WorkingCopy, name: str, decision: Decision) -> None:
    match decision.outcome:
        case Applied():
            assert copy.instance is not None
            message_id = f"timer:{copy.change.ref}:{name}:{copy.instance.progress.timers[name].epoch}"
            copy.record(decision, kind="timer", source="timer", message_id=message_id)
        case Postponed():
            copy.instance = decision.instance
        case Raised(error):
            _fail(copy, name, error)
        case Refused() | Parked() | Ignored():
            raise AssertionError(f"an armed timer cannot be {decision.outcome}")
        case _:
            assert_never(decision.outcome)


def _fail(copy: WorkingCopy, name: str, error: str) -> None:
    """The author's code raised."""
    assert copy.instance is not None
    progress = copy.instance.progress
    timer = progress.timers[name]
    failures = timer.failures + 1
    delay = copy.limits.attempts.delay(failures, copy.given.jitter)
    later = replace(timer, due_at=copy.given.now + (delay or HOPELESS), failures=failures, deaths=0)
    progress = replace(progress, timers={**progress.timers, name: later})
    copy.instance = replace(copy.instance, progress=progress)
    if delay is None:
        note_failed_timer(copy, name, error)
