"""What the transactions of a worker are given, and what each hands back to the stages around them.

Data only, but for `Slots`, the one thing that they ask of a stage above. Used by all modules of this package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from saga_worker import inbox, outbox
from saga_worker.activity_rows import Written
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.fold import Limits
from saga_worker.saga.registry import Registry
from saga_worker.saga.rows import RowChange
from saga_worker.workers import Intent

Announce = Callable[[Intent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all transactions of a worker have in common."""

    registry: Registry
    limits: Limits
    namespace: str
    watch: timedelta
    partitions: int = 1
    begins_traces: bool = False


@dataclass(slots=True)
class Advanced:
    """What one transaction did, for the pool and the relay."""

    busy: frozenset[UUID] = frozenset()  # locked by others: try again soon
    outgoing: list[outbox.OutboxRow] = field(default_factory=list)
    held_back: set[tuple[UUID, str]] = field(default_factory=set)  # (ref, destination) with older rows elsewhere
    again: set[UUID] = field(default_factory=set)  # more to do at once
    suspects: set[UUID] = field(default_factory=set)  # the next row or timer must run alone
    unknown: set[UUID] = field(default_factory=set)  # definition or version not loaded here
    stranded: dict[UUID, str] = field(default_factory=dict)  # of the unknown: why they have no place in a newer one
    changes: list[SagaChange] = field(default_factory=list)
    left: list[RowChange] = field(default_factory=list)  # new rows that nobody looked at
    local: set[UUID] = field(default_factory=set)  # a local step is due
    activities: Written = field(default_factory=Written)
    slots: list[tuple[str, str]] = field(default_factory=list)  # taken from the runner of activities

    @property
    def applied(self) -> int:
        return sum(len(change.journal) for change in self.changes)

    def add(self, change: SagaChange) -> None:
        """A saga that was folded, and what is to be done about it after the commit."""
        self.changes.append(change)
        if change.suspect is not None or change.suspect_timer:
            self.suspects.add(change.ref)
        if change.again:
            self.again.add(change.ref)
        if change.local:
            self.local.add(change.ref)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a consumer's batch. `later`: refs whose new rows stand ready for the pool."""

    inserted: inbox.Inserted
    advanced: Advanced
    later: frozenset[UUID]


class Slots(Protocol):
    """Room for activities in this process: who takes a slot starts an activity in it, or gives it back."""

    def take(self, ref: UUID, definition: str, step: str) -> bool: ...

    def give_back(self, slots: Sequence[tuple[str, str]]) -> None: ...
