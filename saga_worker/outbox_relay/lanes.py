"""The committed messages in memory, in lanes: one per saga and destination, one message of a lane at a time.

Takes outbox rows; guarantees that a message is given out for sending only when every earlier one of its lane is
confirmed here and nobody else has an earlier one. No I/O and no clock: `now` comes in. Used by `relay`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from uuid import UUID

from saga_worker.outbox import Key, OutboxRow

LaneKey: TypeAlias = tuple[UUID, str]
NOT_YET_ASKED: Final = -1  # any number is above it: the lane waits until the database was asked


@dataclass(slots=True, eq=False)
class Message:
    """One row; `not_before` is when it may be sent, on the clock of the caller."""

    row: OutboxRow
    attempts: int
    not_before: float = 0.0
    unknowns: int = 0
    is_reported: bool = False  # as undeliverable

    def __lt__(self, other: Message) -> bool:
        return self.row.seq < other.row.seq


@dataclass(slots=True, eq=False)
class _Lane:
    key: LaneKey
    messages: list[Message] = field(default_factory=list)  # by seq; a handful at most
    foreign_seq: int | None = None  # the lowest number that another worker has here

    def may_go(self, now: float) -> bool:
        head = self.messages[0]
        return head.not_before <= now and (self.foreign_seq is None or head.row.seq < self.foreign_seq)


class Lanes:
    """Every lane that has a message. A lane is ready (to be looked at), waiting, or has its head on the way."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, _Lane] = {}
        self._known: set[Key] = set()
        self._sending: dict[str, tuple[_Lane, Message]] = {}  # by message id
        self._ready: dict[LaneKey, _Lane] = {}
        self._waiting: dict[LaneKey, _Lane] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    @property
    def sending(self) -> int:
        return len(self._sending)

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(self._known)

    def add(self, rows: Iterable[OutboxRow], held: AbstractSet[LaneKey], now: float) -> None:
        """Take rows up; those in lanes of `held` wait for the answer to `asked`. Known rows are passed over."""
        for row in rows:
            if row.key in self._known:
                continue
            self._known.add(row.key)
            key = (row.ref, row.destination)
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = self._ready[key] = _Lane(key)
            if key in held:
                lane.foreign_seq = NOT_YET_ASKED
            insort(lane.messages, Message(row, row.attempts, now + row.delay_seconds if row.delay_seconds else 0.0))

    def take_ready(self, now: float, limit: int) -> list[OutboxRow]:
        """Heads that may be sent now; they count as on their way until `confirmed` or `refused`."""
        rows: list[OutboxRow] = []
        while self._ready and len(rows) < limit:
            key, lane = next(iter(self._ready.items()))
            del self._ready[key]
            if not lane.may_go(now):
                self._waiting[key] = lane
                continue
            message = lane.messages[0]
            self._sending[message.row.message_id] = (lane, message)
            rows.append(message.row)
        return rows

    def wake(self, now: float) -> None:
        """Make those waiting lanes ready whose time has come."""
        for key, lane in list(self._waiting.items()):
            if lane.may_go(now):
                del self._waiting[key]
                self._ready[key] = lane

    def confirmed(self, message_id: str) -> Message | None:
        """It is out: its lane goes on. None: it was dropped meanwhile."""
        found = self._sending.pop(message_id, None)
        if found is None:
            return None
        lane, message = found
        self._remove(lane, message)
        if lane.messages:
            self._ready[lane.key] = lane
        return message

    def refused(self, message_id: str) -> Message | None:
        """It is not out; it stays the head of its lane until its `not_before`, which the caller sets."""
        found = self._sending.pop(message_id, None)
        if found is None:
            return None
        lane, message = found
        self._waiting[lane.key] = lane
        return message

    def behind_others(self) -> set[UUID]:
        """Refs of lanes that wait because another worker has, or may have, an earlier message."""
        return {lane.key[0] for lane in self._waiting.values() if lane.foreign_seq is not None}

    def asked(self, refs: AbstractSet[UUID], oldest: Mapping[LaneKey, int]) -> None:
        """The database's answer for `refs`."""
        for lane in self._waiting.values():
            if lane.foreign_seq is not None and lane.key[0] in refs:
                lane.foreign_seq = oldest.get(lane.key)

    def reschedule(self, rows: Sequence[OutboxRow], now: float) -> None:
        """Rows as they stand in the table: an operator may have made a postponed one due."""
        delays = {row.key: row.delay_seconds for row in rows}
        for lane in self._waiting.values():
            message = lane.messages[0]
            if message.row.key in delays:
                message.not_before = min(message.not_before, now + delays[message.row.key])

    def drop(self, keys: AbstractSet[Key]) -> None:
        """Rows that are no longer ours; what is on its way is left alone."""
        for lanes in (self._ready, self._waiting):
            for lane in list(lanes.values()):
                for message in [each for each in lane.messages if each.row.key in keys]:
                    self._remove(lane, message)

    def clear(self) -> None:
        self._lanes.clear()
        self._known.clear()
        self._sending.clear()
        self._ready.clear()
        self._waiting.clear()

    def can_move(self, now: float) -> bool:
        """Whether anything is on its way or could be sent at once."""
        return bool(self._sending or self._ready) or any(lane.may_go(now) for lane in self._waiting.values())

    def _remove(self, lane: _Lane, message: Message) -> None:
        lane.messages.remove(message)
        self._known.discard(message.row.key)
        if not lane.messages:
            for lanes in (self._ready, self._waiting, self._lanes):
                lanes.pop(lane.key, None)
