"""What one transaction has to write, gathered per saga by `fold`; each table module writes its own part."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from saga_worker.saga.inputs import Effect
from saga_worker.saga.instance import Instance
from saga_worker.saga.rows import RowChange
from saga_worker.saga.transitions import Status


class JournalRow(Struct, frozen=True):
    """One applied input."""

    revision: int
    definition_version: int
    input_kind: str  # event | reply | activity | local | timer | operator | upgrade
    consumer: str
    source: str
    message_id: str
    inbox_id: int | None  # None: a timer or a local step
    decided_at: datetime
    from_status: Status | None
    to_status: Status
    sent: tuple[int, ...]  # seqs put into the outbox by this input
    timers: tuple[str, ...]  # "name:epoch" armed by this input


@dataclass(slots=True)
class SagaChange:
    """Everything that becomes of one locked saga in one transaction.

    When `after` has another id than `before`, the run that was locked has ended before, and the next one has begun.
    """

    ref: UUID
    before: Instance | None
    after: Instance | None
    journal: list[JournalRow] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    rows: list[RowChange] = field(default_factory=list)
    wake_at: datetime | None = None  # when the saga's wake row is due, if it has a timer that may fire
    lower_wake: bool = False  # the stored wake row may be later than that, or missing
    clear_wake: bool = False  # the saga has no timer that may fire: delete its wake row
    again: bool = False  # rows of this saga can run at once: look again
    local: bool = False  # a local step is due: it needs a transaction of its own
    suspect: int | None = None  # this row must run alone, in a transaction of its own
    suspect_timer: bool = False  # so must the timer that is due

    @property
    def has_begun(self) -> bool:
        """Whether the saga was made in this transaction."""
        if self.after is None or self.before is None:
            return self.after is not None
        one, other = self.before.saga_id, self.after.saga_id
        return one is not other and one != other  # comparing UUIDs is slow, and of one run they are one object

    @property
    def has_ended(self) -> bool:
        """Whether the saga came to its end in this transaction."""
        was_final = self.before is not None and self.before.status.is_final and not self.has_begun
        return self.after is not None and self.after.status.is_final and not was_final
