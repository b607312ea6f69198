"""A start arrives for a key that has a saga: rejected, joined, queued, or the beginning of the next run.

The next run is another saga with the same ref. Its messages are numbered on from those of the last one, so that an
answer to an earlier run is known as such, and so are its timers. It begins when nothing of the last run can still
have to be taken back: the run has ended and is settled.
"""

from __future__ import annotations

from typing import Any

from saga_worker.saga import starters
from saga_worker.saga.decide.next import Next, StartOver, Stay
from saga_worker.saga.definition import Saga
from saga_worker.saga.draft import Draft
from saga_worker.saga.inputs import EventArrived, Ignored, Input, Parked
from saga_worker.saga.second_start import (
    BEGINS_AGAIN,
    DUPLICATE_START,
    JOINED,
    RUN_OPEN,
    RUN_UNSETTLED,
    SecondStart,
)


def apply(draft: Draft, event: EventArrived, newest: Saga[Any]) -> Next | None:
    """What this start does, by the policy of the newest version; None: a saga that is open takes it as an event."""
    has_ended = draft.instance.status.is_final
    if not has_ended and (event.type in draft.saga.arms or event.type in draft.saga.handlers):
        return None
    policy = newest.second_start
    if policy in BEGINS_AGAIN and draft.parent is not None:
        return None  # its parent may still want it to be taken back, so that it stays in its place
    if policy is SecondStart.JOIN:
        return Stay(JOINED) if starters.join(draft, event.starter) else Ignored(JOINED)
    if has_ended and policy in BEGINS_AGAIN:
        return StartOver(newest, event) if draft.instance.unsettled == 0 else Parked(RUN_UNSETTLED)
    return Parked(RUN_OPEN) if policy is SecondStart.QUEUE else Ignored(DUPLICATE_START)


def judge(draft: Draft, given_input: Input, newest: Saga[Any]) -> Next:
    """What comes for a saga that is over for good, by a version that is not its own: steps of it are not known here."""
    if isinstance(given_input, EventArrived) and given_input.type in newest.starts:
        return apply(draft, given_input, newest) or Ignored(DUPLICATE_START)
    return Ignored("saga_finished")
