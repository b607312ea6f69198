"""Inbox rows as the core sees them: what it reads, and what it says of them.

The states are the database's; `fold` decides which row gets which, and nobody else.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

from msgspec import Struct

from saga_worker.saga.trace import Trace


class RowState(IntEnum):
    """States of an inbox row; the numbers are what the database stores."""

    READY = 0  # may be applied now, or from `next_at`
    PARKED = 1  # early: its saga or its wait is not there yet
    HELD = 2  # something else must be lifted first; `reason` says what
    DONE = 3
    IGNORED = 4  # settled without effect; `reason` says why
    DEAD = 5  # waits for an operator; `reason` and `error` say why

    @property
    def label(self) -> str:
        return self.name.lower()


class Role(IntEnum):
    """What kind of input a row carries."""

    EVENT = 0
    REPLY = 1
    OPERATOR = 2
    CHILD = 3
    ACTIVITY = 4  # what became of an activity


class InboxRow(Struct, frozen=True):
    """One stored message for one definition. Held and dead rows are read without body and properties (empty)."""

    id: int
    dedup: UUID
    consumer: str
    source: str
    message_id: str
    type: str
    role: Role
    ref: UUID | None
    saga_key: str | None
    correlation_id: str | None
    state: RowState
    reason: str | None
    suspect: bool
    attempts: int
    crashes: int
    first_failed_at: datetime | None
    next_at: datetime | None
    expires_at: datetime | None
    received_at: datetime
    body: bytes
    sequence: int | None = None  # of a numbered event that was parked
    trace: Trace | None = None
    reply_to: str | None = None  # the queue that waits for an answer; of events only


class RowChange(Struct, frozen=True):
    """The new values of one inbox row; written as they are by `inbox.settle`."""

    id: int
    state: RowState
    reason: str | None = None
    error: str | None = None
    suspect: bool = False
    attempts: int = 0
    crashes: int = 0
    next_at: datetime | None = None
    expires_at: datetime | None = None
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    settled_at: datetime | None = None
    sequence: int | None = None
