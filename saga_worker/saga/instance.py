"""A saga as it is stored: its own state, and how far it has come.

Position is data by step id, so that a flow may later branch: `active` holds the steps that are open now,
`commands` every command that was committed, by its number. `records` turns the progress into the JSON that stands in
the saga's row, and back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from msgspec import UNSET, Raw, Struct, UnsetType, field

from saga_worker.saga.starters import Starter
from saga_worker.saga.trace import Trace
from saga_worker.saga.transitions import Status


class Fate(StrEnum):
    """What became of a command, as far as its saga knows."""

    SENT = "sent"
    DONE = "done"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class CommandKind(StrEnum):
    FORWARD = "forward"
    UNDO = "undo"


class CommandRecord(Struct, frozen=True, array_like=True):
    """One committed command, activity or local step; the last two have no destination and no body.

    `body` is kept while a resend may need it; `undoes` names the seq it takes back. Stored as an array in this order,
    which SQL reads by place.
    """

    step: str
    kind: CommandKind
    fate: Fate
    destination: str
    type: str
    body: str | None
    attempts: int = 1
    undoes: int | None = None
    undone: bool = False  # its undo was answered, or a later entry of its step stands for what it did
    is_given_up: bool = False  # an activity without an attempt left: it waits for an operator
    seq: int = 0  # from 1 on


NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)  # when a timer is due that waits for an operator


class Timer(Struct, frozen=True, array_like=True):
    """A due time in database time. A fired or cancelled timer is gone; arming again raises the epoch."""

    due_at: datetime
    epoch: int
    fired: int = 0  # how often it has fired (reminders)
    failures: int = 0  # how often its handler raised in a row
    deaths: int = 0  # of workers that had it in hand: after the first it runs alone, and only then more are counted

    @property
    def has_killed(self) -> bool:
        """Whether it fires no more by itself because workers died of it."""
        return self.due_at == NEVER and self.deaths > 0


class Round(Struct, frozen=True, array_like=True):
    """Where a loop is: the number of the round, from 1, and the last message number before it began."""

    number: int
    seq: int = 0


class Mark(Struct, frozen=True, array_like=True):
    """A savepoint that was passed: the last message number before it, and how often the saga was rolled back to it."""

    seq: int
    used: int = 0


class Parent(Struct, frozen=True, array_like=True):
    """Who has started this saga as a child, and what it waits for: the ids to answer to."""

    definition: str
    id: str  # of the message that started it
    asked: str | None = None  # of the one that wants it to be taken back


class Items(Struct, frozen=True, array_like=True):
    """How far the children of one `for_each` are: those that were started, and of them those that have ended.

    With `undo`, the number of the undo, also how many were asked to go back and have answered.
    """

    total: int
    started: int
    done: int = 0
    failed: int = 0
    undo: int = 0
    asked: int = 0
    undone: int = 0
    refused: int = 0


class Taken(Struct, frozen=True):
    """The event that an activity was entered again with."""

    type: str
    body: Raw


class Awaited(Struct, frozen=True):
    """What an activity waits for: the types of events, and for how many seconds."""

    types: tuple[str, ...]
    timeout: float


class Recorded(Struct, frozen=True, omit_defaults=True):
    """One entry of a reusable activity: what went in, and what came out of it, as JSON of its models."""

    input: Raw
    output: Raw | UnsetType = UNSET
    is_part: bool = False  # not what came out, but what was done when it failed or began to wait
    event: Taken | None = None  # with which it was entered again
    after: int = 0  # the seq of the entry that waited for that
    waits: Awaited | None = None  # it has ended by waiting


class Progress(Struct, frozen=True):
    """How far a saga has come. Treated as immutable: every change makes a new one."""

    active: dict[str, int | None] = field(default_factory=dict)  # open step id -> seq of its command, if it has one
    commands: dict[int, CommandRecord] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    epoch: int = 0  # the last timer epoch given out
    undo_failures: dict[int, int] = field(default_factory=dict)  # forward seq -> undos refused so far
    pivoted: bool = False
    attention: tuple[str, ...] = ()  # why somebody should look, each reason once
    sequences: dict[str, int] = field(default_factory=dict)  # source -> the number of its next event
    rounds: dict[str, Round] = field(default_factory=dict)  # of loops that are past their first
    withdrawn: tuple[int, ...] = ()  # commands that are taken back while the saga goes on
    savepoints: dict[str, Mark] = field(default_factory=dict)  # those that were passed
    # Not even names in the row of a saga that has none of these.
    packed: Raw | UnsetType = UNSET  # in the row only: the settled ones of `commands`, see `records`
    recorded: dict[int, Recorded] | UnsetType = UNSET  # by seq, as long as somebody may ask for it
    items: dict[int, Items] | UnsetType = UNSET  # seq of a `for_each` -> its children
    parent: Parent | UnsetType = UNSET
    trace: Trace | UnsetType = UNSET
    starters: tuple[Starter, ...] | UnsetType = UNSET  # who waits for an answer
    result: Raw | UnsetType = UNSET  # of a completed saga whose definition declares one
    before: Raw | UnsetType = UNSET  # the state of an entity before the event whose round is under way
    # When the first try began of what is retried for some time only: "step:<id>", and "undo:<seq>" of what is undone.
    begun: dict[str, datetime] | UnsetType = UNSET
    since: int | UnsetType = UNSET  # the last number of the runs of this key before this one

    def was_undone(self, step: str) -> bool:
        """Whether the step has done something, and all of that is taken back."""
        done = [c for c in self.commands.values() if c.step == step and c.kind is CommandKind.FORWARD]
        done = [c for c in done if c.undone or c.fate in (Fate.DONE, Fate.UNKNOWN)]
        return bool(done) and all(c.undone for c in done)


class Instance(Struct, frozen=True):
    """One saga row. `state` is the author's model as JSON bytes; `revision` counts applied inputs."""

    saga_id: UUID
    ref: UUID
    definition: str
    definition_version: int
    key: str
    status: Status
    revision: int
    seq: int
    unsettled: int
    attention: str | None
    reason: str | None
    state: bytes
    progress: Progress
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None

    @property
    def stands_still(self) -> bool:
        """Paused, or failed where it can be retried: messages are held and no timer fires until an operator acts."""
        return self.status is Status.PAUSED or (self.status is Status.FAILED and bool(self.progress.active))

    @property
    def next_due(self) -> datetime | None:
        """The earliest armed timer, or None."""
        return min((timer.due_at for timer in self.progress.timers.values()), default=None)


def is_over_for_good(instance: Instance) -> bool:
    """Ended, settled, and of no parent: whatever comes for it can only be too late, or begin the next run of its key.

    So any version of its definition may judge it, also when its own is not loaded any more.
    """
    return instance.status.is_final and instance.unsettled == 0 and instance.progress.parent is UNSET
