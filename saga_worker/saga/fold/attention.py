"""The entries of a saga's attention list that only `fold` can write; all others come with a decision.

Rules kept here: a dead row that blocks its saga is listed as long as it does, a timer whose code keeps raising until
it is gone, armed anew or to be tried afresh, a gap in a line once an event behind it was given up.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace
from pydantic_core import from_json

from saga_worker.saga.decide.event import is_over
from saga_worker.saga.draft import gap_subject
from saga_worker.saga.fold.backlog import NO_UPGRADE
from saga_worker.saga.fold.working_copy import WorkingCopy
from saga_worker.saga.instance import NEVER, Timer
from saga_worker.saga.names import SEQUENCE_GAP, TIMER_FAILED
from saga_worker.saga.rows import InboxRow

DEAD_LETTER: Final = "dead_letter"


def note_gap(copy: WorkingCopy, row: InboxRow) -> None:
    """One of a line is given up: somebody has to look where the number is that it waited for."""
    if row.sequence is None or copy.instance is None or is_over(copy.instance.status):
        return
    reason = SEQUENCE_GAP
    _list(copy, [*copy.instance.progress.attention, f"{reason}: {gap_subject(row.source)}"])


def note_failed_timer(copy: WorkingCopy, name: str, error: str) -> None:
    """Its tries are used up."""
    assert copy.instance is not None
    about = f"{TIMER_FAILED}: {name}: "
    others = [entry for entry in copy.instance.progress.attention if not entry.startswith(about)]
    _list(copy, [*others, f"{about}{error[:200].replace('; ', ', ')}"])


def stop_timer(copy: WorkingCopy, row: InboxRow) -> None:
    """Workers died of the word that one died of this timer: it is the upgrade before it. The timer fires no more."""
    arguments = from_json(row.body)
    name, _, epoch = str(arguments.get("timer") if isinstance(arguments, dict) else None).rpartition(":")
    timer = copy.instance.progress.timers.get(name) if copy.instance is not None else None
    if copy.instance is None or timer is None or str(timer.epoch) != epoch:
        return
    timers = {**copy.instance.progress.timers, name: replace(timer, due_at=NEVER, deaths=max(1, timer.deaths))}
    copy.instance = replace(copy.instance, progress=replace(copy.instance.progress, timers=timers))
    note_failed_timer(copy, name, "workers died of the upgrade before it, alone")


def judge(copy: WorkingCopy) -> None:
    """At the end: list the dead row that blocks the saga, and strike out what is over."""
    if copy.instance is None:
        return
    if not (copy.is_behind_dead or copy.instance.progress.attention):
        return
    timers = copy.instance.progress.timers
    listed = [e for e in copy.instance.progress.attention if e != DEAD_LETTER and not _is_over(e, timers)]
    if copy.is_behind_dead:
        listed.append(DEAD_LETTER)
    _list(copy, listed)


def _is_over(entry: str, timers: dict[str, Timer]) -> bool:
    """Whether this entry is about a timer that is gone, was armed anew, or is to be tried afresh; or about a version
    that was missing, since somebody has it now."""
    if entry.startswith(f"{NO_UPGRADE}: "):
        return True
    name = entry.removeprefix(f"{TIMER_FAILED}: ")
    failing = (n for n, timer in timers.items() if timer.failures or timer.has_killed)
    return name != entry and not any(name.startswith(f"{n}: ") for n in failing)


def _list(copy: WorkingCopy, listed: list[str]) -> None:
    """Make this the saga's attention list."""
    assert copy.instance is not None
    if set(listed) != set(copy.instance.progress.attention):
        listed = list(dict.fromkeys(listed))
        progress = replace(copy.instance.progress, attention=tuple(listed))
        copy.instance = replace(copy.instance, attention="; ".join(listed) or None, progress=progress)
