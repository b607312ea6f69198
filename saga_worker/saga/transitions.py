"""The statuses of a saga and every legal change between them.

The table is the single place that knows: `decide` asks `move`, the CHECK constraints of the database repeat
the statuses, and `docs/state_machine.md` is printed from `TRANSITIONS`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from saga_worker.saga.errors import IllegalTransition


class Status(IntEnum):
    """Where a saga stands; the numbers are what the database stores."""

    RUNNING = 0  # something of ours is in flight
    WAITING = 1  # only an outside event or a timer moves it
    COMPENSATING = 2  # undoing, newest first
    COMPLETED = 3
    COMPENSATED = 4
    FAILED = 5  # ended with effects left, by an operator or by the definition only
    PAUSED = 6

    @property
    def label(self) -> str:
        """The word used in views, logs and documents."""
        return self.name.lower()

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL: Final = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.FAILED})

# (from, to) -> what causes it. None: the saga does not exist yet.
TRANSITIONS: Final[dict[tuple[Status | None, Status], str]] = {
    (None, Status.RUNNING): "a start whose first step sends a command",
    (None, Status.WAITING): "a start whose first step waits",
    (None, Status.COMPLETED): "a start whose flow has nothing to wait for",
    (None, Status.COMPENSATING): "a start whose first loop uses up its rounds at once, beside a branch that was begun",
    (None, Status.COMPENSATED): "a start whose first loop uses up its rounds at once",
    (Status.RUNNING, Status.RUNNING): "an answer, and the next step sends a command",
    (Status.RUNNING, Status.WAITING): "an answer, and the next step waits",
    (Status.RUNNING, Status.COMPENSATING): "a rejection, time-out, verdict, deadline or operator, with effects to undo",
    (Status.RUNNING, Status.COMPLETED): "the flow ends, or the verdict Complete",
    (Status.RUNNING, Status.COMPENSATED): "a rejection, time-out, verdict or operator, with nothing to undo",
    (Status.WAITING, Status.WAITING): "an event that changes the state, or a reminder",
    (Status.WAITING, Status.RUNNING): "an arm of the wait, or its time-out, and the next step sends a command",
    (Status.WAITING, Status.COMPENSATING): "a verdict, time-out, deadline or operator, with effects to undo",
    (Status.WAITING, Status.COMPLETED): "the flow ends, or the verdict Complete",
    (Status.WAITING, Status.COMPENSATED): "a verdict, time-out, deadline or operator, with nothing to undo",
    (Status.COMPENSATING, Status.COMPENSATING): "an undo is answered, fails or is sent again",
    (Status.COMPENSATING, Status.COMPENSATED): "the last undo is done",
    (Status.COMPLETED, Status.COMPENSATING): "its parent takes it back, with effects to undo",
    (Status.COMPLETED, Status.COMPENSATED): "its parent takes it back, with nothing to undo",
    (Status.COMPLETED, Status.COMPLETED): "a late answer, recorded or undone",
    (Status.COMPENSATED, Status.COMPENSATED): "a late answer, recorded or undone",
    (Status.FAILED, Status.FAILED): "a late answer, recorded or undone",
    (Status.PAUSED, Status.PAUSED): "an operator tries something again, or a destination is gone or back",
    (Status.PAUSED, Status.RUNNING): "resumed while a command is in flight",
    (Status.PAUSED, Status.WAITING): "resumed while waiting",
    (Status.PAUSED, Status.COMPENSATING): "resumed while undoing, or taken back by an operator",
    (Status.PAUSED, Status.COMPENSATED): "taken back by an operator, or resumed, with nothing (left) to undo",
    (Status.RUNNING, Status.PAUSED): "paused by an operator or by the definition",
    (Status.WAITING, Status.PAUSED): "paused by an operator or by the definition",
    (Status.COMPENSATING, Status.PAUSED): "paused by an operator",
    (Status.RUNNING, Status.FAILED): "ended by an operator or by the definition",
    (Status.WAITING, Status.FAILED): "ended by an operator or by the definition",
    (Status.COMPENSATING, Status.FAILED): "ended by an operator",
    (Status.PAUSED, Status.FAILED): "ended by an operator",
    (Status.FAILED, Status.RUNNING): "retried by an operator, in a saga without compensation",
    (Status.FAILED, Status.WAITING): "retried by an operator, in a saga without compensation",
}


def move(current: Status | None, target: Status) -> Status:
    """`target`, if the table allows it; raises `IllegalTransition` otherwise."""
    if (current, target) not in TRANSITIONS:
        raise IllegalTransition(current.label if current is not None else "absent", target.label)
    return target
