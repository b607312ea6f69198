"""The closed sets around `decide`: what comes in, what it is given, what comes out.

`Input` is everything that can move a saga, `Effect` everything a decision asks the shell to do, `Outcome` what
becomes of the input itself. Branch with `match` and end with `assert_never`. Structs, like everything that is made
for each event: a frozen dataclass takes five to twenty times as long to make.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from saga_worker.saga.instance import Instance
from saga_worker.saga.retry import Verdict
from saga_worker.saga.starters import Starter
from saga_worker.saga.trace import Trace


class EventArrived(Struct, frozen=True):
    """A published event: a start, an `on` or an arm of a wait; `decide` says which."""

    type: str
    key: str
    body: bytes
    source: str = ""
    trace: Trace | None = None
    starter: Starter | None = None  # who asks for an answer when the saga has ended


class ReplyArrived(Struct, frozen=True):
    """An answer to the command with number `seq`."""

    seq: int
    type: str
    body: bytes
    trace: Trace | None = None


class TimerFired(Struct, frozen=True):
    name: str
    epoch: int


class OperatorCommand(Struct, frozen=True):
    """`type` is one of decide.operator.COMMANDS; the body is JSON of its arguments."""

    type: str
    body: bytes


class ActivityResult(Struct, frozen=True):
    """What became of the activity with number `seq`; the body is its result, or what went wrong."""

    seq: int
    outcome: str  # one of OUTCOMES
    body: bytes


class ParentAsked(Struct, frozen=True):
    """Another saga starts this one as its child, with `body` as its first state, or wants it to be taken back.

    `parent` is the definition of that saga, `id` what the answer names.
    """

    type: str  # START or TAKE_BACK
    key: str
    parent: str
    id: str
    body: bytes
    trace: Trace | None = None


class ChildEnded(Struct, frozen=True):
    """What became of a child: of the step with number `seq`, or of the undo with that number.

    The body is the child's last state if it has completed, else JSON with the reason.
    """

    seq: int
    item: int | None  # its number, if it is one of many
    outcome: str  # COMPLETED | COMPENSATED | FAILED | REFUSED
    body: bytes


START: Final = "start"
TAKE_BACK: Final = "take_back"
COMPLETED: Final = "completed"
COMPENSATED: Final = "compensated"
FAILED: Final = "failed"
REFUSED: Final = "refused"


class LocalDone(Struct, frozen=True):
    """A local step has run in this very transaction; `state` is the author's model as the step left it."""

    seq: int
    epoch: int
    state: Any
    verdict: Verdict


class LocalFailed(Struct, frozen=True):
    """A local step raised, and its transaction was rolled back."""

    seq: int
    epoch: int
    error: str
    is_terminal: bool


ACTIVITY_DONE: Final = "activity_done"
ACTIVITY_FAILED: Final = "activity_failed"  # every attempt raised, or the last one said that it is no use
ACTIVITY_LOST: Final = "activity_lost"  # no attempt is left, and of one nobody knows how it ended
ACTIVITY_PARTIAL: Final = "activity_partial"  # it failed for good, and says what it has done before
ACTIVITY_WAITS: Final = "activity_waits"  # it wants to be entered again with an event
OUTCOMES: Final = (ACTIVITY_DONE, ACTIVITY_FAILED, ACTIVITY_LOST, ACTIVITY_PARTIAL, ACTIVITY_WAITS)

Input = (
    EventArrived
    | ReplyArrived
    | ActivityResult
    | ParentAsked
    | ChildEnded
    | LocalDone
    | LocalFailed
    | TimerFired
    | OperatorCommand
)


class Given(Struct, frozen=True):
    """What the world says: database time, a random number in [0, 1), commands whose row is still in the outbox."""

    now: datetime
    jitter: float
    saga_id: UUID  # the id a new saga takes
    unsent: frozenset[int] = frozenset()
    replies_are_in: bool = True  # False: queued replies may not be stored yet, so no reply time-out fires
    watch: timedelta = timedelta(days=14)  # how long an unknown fate is watched before somebody must look
    crashes: int = 3  # how many workers a timer or a local step may kill, alone, before somebody must look
    begins_traces: bool = False  # a saga whose start has no trace begins one


class SendCommand(Struct, frozen=True):
    """A command or an undo, also when it is sent again: then `seq` and `body` are those of the first time."""

    seq: int
    step: str
    destination: str
    type: str
    body: bytes
    deadline: datetime | None
    undoes: int | None = None
    trace: Trace | None = None


class PublishEvent(Struct, frozen=True):
    seq: int
    step: str
    type: str
    body: bytes
    trace: Trace | None = None


class RunActivity(Struct, frozen=True):
    """Run an activity, or its undo. `run` counts the times that somebody asked for it, each with all its attempts.

    `input` is what its step reads: the state of the saga, or what was recorded for an activity with its own input.
    """

    seq: int
    step: str
    input: bytes
    run: int
    timeout: timedelta
    undoes: int | None = None
    trace: Trace | None = None


class CancelActivity(Struct, frozen=True):
    """No further attempt of this one."""

    seq: int


class MoveActivity(Struct, frozen=True):
    """Further attempts of this activity, or undo, are made by another version of the definition, on this input."""

    seq: int
    step: str
    version: int
    input: bytes
    timeout: timedelta


class StartChildren(Struct, frozen=True):
    """Note these children (key, or None, and first state of each), and start the first `started` of them.

    `is_many`: they are numbered items, else it is the only one. Without `is_awaited` nobody waits for them.
    """

    seq: int
    step: str
    definition: str
    children: tuple[tuple[str | None, bytes], ...]
    started: int
    is_many: bool
    is_awaited: bool = True


class MoreChildren(Struct, frozen=True):
    """Start these items of the step with number `seq`."""

    seq: int
    first: int
    count: int


class UndoChildren(Struct, frozen=True):
    """Ask these children of the step with number `seq` to go back; they answer to `undo`."""

    seq: int
    undo: int
    first: int
    count: int
    is_many: bool


class TellParent(Struct, frozen=True):
    """Answer to the saga that has asked: `id` names what it asked."""

    definition: str
    id: str
    outcome: str
    body: bytes


class ReplyToStarter(Struct, frozen=True):
    """An answer to somebody who has started this saga: straight to the queue `reply_to`."""

    seq: int
    reply_to: str
    correlation_id: str
    type: str
    body: bytes
    trace: Trace | None = None


MESSAGES: Final = (SendCommand, PublishEvent, ReplyToStarter)  # the effects that go through the outbox
OF_ACTIVITIES: Final = (RunActivity, CancelActivity, MoveActivity)
OF_CHILDREN: Final = (StartChildren, MoreChildren, UndoChildren, TellParent)
Effect = (
    SendCommand
    | PublishEvent
    | ReplyToStarter
    | RunActivity
    | CancelActivity
    | MoveActivity
    | StartChildren
    | MoreChildren
    | UndoChildren
    | TellParent
)


class Applied(Struct, frozen=True):
    """The input changed the saga (or was recorded by it)."""

    reason: str | None = None


class Ignored(Struct, frozen=True):
    """The input has no effect, for a reason that is recorded."""

    reason: str


class Parked(Struct, frozen=True):
    """The input is early. `sequence`: its number, when it waits for those before it."""

    reason: str
    sequence: int | None = None


class Refused(Struct, frozen=True):
    """The input is wrong and stays wrong: a dead letter that does not block its saga."""

    reason: str
    error: str


class Raised(Struct, frozen=True):
    """The author's code raised; retried with back-off, then a dead letter that blocks its saga."""

    error: str


class Postponed(Struct, frozen=True):
    """A time-out whose command has not left yet: armed again, nothing else happened, nothing is journalled."""


Outcome = Applied | Ignored | Parked | Refused | Raised | Postponed


class Decision(Struct, frozen=True):
    """`instance` is the saga afterwards; the one that came in (perhaps None) when the outcome is not `Applied`."""

    instance: Instance | None
    effects: tuple[Effect, ...]
    outcome: Outcome
