"""The closed sets around `decide`: what comes in, what it is given, what comes out.

`Input` is everything that can move a saga, `Effect` everything a decision asks the shell to do, `Outcome` what
becomes of the input itself. Branch with `match` and end with `assert_never`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from saga_worker.saga.instance import Instance


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


Input = EventArrived | ReplyArrived | TimerFired | OperatorCommand


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


Effect = SendCommand | PublishEvent


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
