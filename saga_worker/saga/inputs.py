"""The closed sets around `decide`: what comes in, what it is given, what comes out.

`Input` is everything that can move a saga, `Effect` everything a decision asks the shell to do, `Outcome` what
becomes of the input itself. Branch with `match` and end with `assert_never`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from saga_worker.saga.instance import Instance
from saga_worker.saga.retry import Verdict


@dataclass(frozen=True, slots=True)
class EventArrived:
    """A published event: a start, an `on` or an arm of a wait; `decide` says which."""

    type: str
    key: str
    body: bytes
    source: str = ""


@dataclass(frozen=True, slots=True)
class ReplyArrived:
    """An answer to the command with number `seq`."""

    seq: int
    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class TimerFired:
    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """`type` is one of decide.operator.COMMANDS; the body is JSON of its arguments."""

    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ActivityResult:
    """What became of the activity with number `seq`; the body is its result, or what went wrong."""

    seq: int
    outcome: str  # one of OUTCOMES
    body: bytes


@dataclass(frozen=True, slots=True)
class LocalDone:
    """A local step has run in this very transaction; `state` is the author's model as the step left it."""

    seq: int
    epoch: int
    state: Any
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class LocalFailed:
    """A local step raised, and its transaction was rolled back."""

    seq: int
    epoch: int
    error: str
    is_terminal: bool


ACTIVITY_DONE: Final = "activity_done"
ACTIVITY_FAILED: Final = "activity_failed"  # every attempt raised, or the last one said that it is no use
ACTIVITY_LOST: Final = "activity_lost"  # no attempt is left, and of one nobody knows how it ended
OUTCOMES: Final = (ACTIVITY_DONE, ACTIVITY_FAILED, ACTIVITY_LOST)

Input = EventArrived | ReplyArrived | ActivityResult | LocalDone | LocalFailed | TimerFired | OperatorCommand


@dataclass(frozen=True, slots=True)
class Given:
    """What the world says: database time, a random number in [0, 1), commands whose row is still in the outbox."""

    now: datetime
    jitter: float
    saga_id: UUID  # the id a new saga takes
    unsent: frozenset[int] = frozenset()
    replies_are_in: bool = True  # False: queued replies may not be stored yet, so no reply time-out fires
    watch: timedelta = timedelta(days=14)  # how long an unknown fate is watched before somebody must look


@dataclass(frozen=True, slots=True)
class SendCommand:
    """A command or an undo, also when it is sent again: then `seq` and `body` are those of the first time."""

    seq: int
    step: str
    destination: str
    type: str
    body: bytes
    deadline: datetime | None
    undoes: int | None = None


@dataclass(frozen=True, slots=True)
class PublishEvent:
    seq: int
    step: str
    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class RunActivity:
    """Run an activity, or its undo. `run` counts the times that somebody asked for it, each with all its attempts."""

    seq: int
    step: str
    state: bytes
    run: int
    timeout: timedelta
    undoes: int | None = None


@dataclass(frozen=True, slots=True)
class CancelActivity:
    """No further attempt of this one."""

    seq: int


Effect = SendCommand | PublishEvent | RunActivity | CancelActivity


@dataclass(frozen=True, slots=True)
class Applied:
    """The input changed the saga (or was recorded by it)."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """The input has no effect, for a reason that is recorded."""

    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """The input is early. `sequence`: its number, when it waits for those before it."""

    reason: str
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The input is wrong and stays wrong: a dead letter that does not block its saga."""

    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Raised:
    """The author's code raised; retried with back-off, then a dead letter that blocks its saga."""

    error: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """A time-out whose command has not left yet: armed again, nothing else happened, nothing is journalled."""


Outcome = Applied | Ignored | Parked | Refused | Raised | Postponed


@dataclass(frozen=True, slots=True)
class Decision:
    """`instance` is the saga afterwards; the one that came in (perhaps None) when the outcome is not `Applied`."""

    instance: Instance | None
    effects: tuple[Effect, ...]
    outcome: Outcome
