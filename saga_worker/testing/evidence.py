"""What the checker looks at, indexed: events by outcome, rows by event, messages by the step that committed them.

Takes ledgers and views, guarantees that each index is built once and only when it is asked for. Hands `Evidence` to
`checker` and `compensation`, which turn it into a `Verdict` for each promise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from saga_worker.testing.ledgers import Delivery, Publication, Row, Views

EVENTS = "events"
FINAL_SAGAS = frozenset({"completed", "compensated", "failed"})
UNDOING = frozenset({"compensating", "compensated"})

Event = tuple[str, str]  # source, message id


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise: how many things were looked at, and every violation as a sentence."""

    invariant: str
    promise: str
    examined: int
    violations: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.violations


@dataclass(slots=True)
class Tally:
    """Violations of one promise while they are collected."""

    invariant: str
    promise: str
    examined: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, violations: Iterable[str]) -> None:
        self.violations.extend(violations)

    def verdict(self) -> Verdict:
        return Verdict(self.invariant, self.promise, self.examined, tuple(self.violations))


@dataclass(frozen=True)
class Evidence:
    """The inputs with the indexes that several promises need."""

    producer: Sequence[Publication]
    sink: Sequence[Delivery]
    views: Views
    undoable: frozenset[str] | None = None

    @cached_property
    def outcomes(self) -> dict[Event, list[str]]:
        found: dict[Event, list[str]] = defaultdict(list)
        for line in self.producer:
            found[line.source, line.id].append(line.outcome)
        return found

    @cached_property
    def acknowledged(self) -> list[Event]:
        return [event for event, outcomes in self.outcomes.items() if outcomes[-1] == "ok"]

    @cached_property
    def rows(self) -> dict[Event, list[Row]]:
        """Inbox rows by event, without those refused because they reuse an id for another body."""
        found: dict[Event, list[Row]] = defaultdict(list)
        for row in self.views.inbox:
            if row["reason"] != "id_reused":
                found[row["source"], row["message_id"]].append(row)
        return found

    @cached_property
    def journals(self) -> dict[str, list[Row]]:
        """Journal rows by saga, oldest first."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(self.views.journal, key=lambda row: int(row["revision"])):
            found[row["saga_id"]].append(row)
        return found

    @cached_property
    def committed(self) -> dict[str, list[tuple[str, int]]]:
        """Message id -> (saga, revision) of every journal row that put it into the outbox."""
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for row in self.views.journal:
            for message_id in row["sent_ids"] or ():
                found[message_id].append((row["saga_id"], row["revision"]))
        return found

    @cached_property
    def copies(self) -> dict[str, list[Delivery]]:
        found: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in self.sink:
            found[delivery.message_id].append(delivery)
        return found

    @cached_property
    def effects(self) -> Counter[str]:
        return Counter(delivery.message_id for delivery in self.sink if delivery.effect)

    @cached_property
    def undoable_types(self) -> frozenset[str]:
        """Command types that have an undo: as told, else those that were undone anywhere in this run."""
        if self.undoable is not None:
            return self.undoable
        undone = {delivery.undoes for delivery in self.sink if delivery.undoes is not None}
        return frozenset(delivery.type for delivery in self.sink if delivery.message_id in undone)
