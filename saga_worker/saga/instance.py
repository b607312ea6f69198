"""A saga as it is stored: its own state, and how far it has come.

Position is data by step id, so that a flow may later branch: `active` holds the steps that are open now,
`commands` every command that was committed, by its number. `dump` and `load` turn the progress into the JSON
that stands in the saga's row and back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json

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


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One committed command, activity or local step; the last two have no destination and no body.

    `body` is kept while a resend may need it; `undoes` names the seq it takes back.
    """

    seq: int
    step: str
    kind: CommandKind
    fate: Fate
    destination: str
    type: str
    body: str | None
    attempts: int = 1
    undoes: int | None = None
    undone: bool = False  # its undo was answered
    is_given_up: bool = False  # an activity without an attempt left: it waits for an operator


@dataclass(frozen=True, slots=True)
class Timer:
    """A due time in database time. A fired or cancelled timer is gone; arming again raises the epoch."""

    due_at: datetime
    epoch: int
    fired: int = 0  # how often it has fired (reminders)
    failures: int = 0  # how often its handler raised in a row


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a saga has come. Treated as immutable: every change makes a new one."""

    active: dict[str, int | None] = field(default_factory=dict)  # open step id -> seq of its command, if it has one
    commands: dict[int, CommandRecord] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    epoch: int = 0  # the last timer epoch given out
    undo_failures: dict[int, int] = field(default_factory=dict)  # forward seq -> undos refused so far
    pivoted: bool = False
    attention: tuple[str, ...] = ()  # why somebody should look, each reason once
    sequences: dict[str, int] = field(default_factory=dict)  # source -> the number of its next event


@dataclass(frozen=True, slots=True)
class Instance:
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
    def next_due(self) -> datetime | None:
        """The earliest armed timer, or None."""
        return min((timer.due_at for timer in self.progress.timers.values()), default=None)


def dump_progress(progress: Progress) -> bytes:
    """JSON for the row's `progress` column. Short keys: the value is rewritten at every step."""
    return to_json(
        {
            "active": progress.active,
            "commands": {
                str(c.seq): [c.step, c.kind, c.fate, c.destination, c.type, c.body, c.attempts, c.undoes, c.undone]
                + ([True] if c.is_given_up else [])
                for c in progress.commands.values()
            },
            "timers": {n: [t.due_at.isoformat(), t.epoch, t.fired, t.failures] for n, t in progress.timers.items()},
            "epoch": progress.epoch,
            "undo_failures": {str(seq): n for seq, n in progress.undo_failures.items()},
            "pivoted": progress.pivoted,
            "attention": progress.attention,
            "sequences": progress.sequences,
        }
    )


def load_progress(raw: bytes) -> Progress:
    """The inverse of `dump_progress`."""
    data: dict[str, Any] = from_json(raw)
    return Progress(
        active=data["active"],
        commands={int(seq): _command(int(seq), values) for seq, values in data["commands"].items()},
        timers={n: Timer(datetime.fromisoformat(v[0]), v[1], v[2], v[3]) for n, v in data["timers"].items()},
        epoch=data["epoch"],
        undo_failures={int(seq): n for seq, n in data["undo_failures"].items()},
        pivoted=data["pivoted"],
        attention=tuple(data["attention"]),
        sequences=data.get("sequences", {}),
    )


def _command(seq: int, values: list[Any]) -> CommandRecord:
    step, kind, fate, destination, type_, body, attempts, undoes, undone, *given_up = values
    return CommandRecord(
        seq=seq, step=step, kind=CommandKind(kind), fate=Fate(fate), destination=destination, type=type_, body=body,
        attempts=attempts, undoes=undoes, undone=undone, is_given_up=bool(given_up),
    )  # fmt: skip
