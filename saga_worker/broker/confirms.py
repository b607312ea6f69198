"""One channel in confirm mode: what is on the wire, and what the broker says to it.

Takes entries and hands them down as one batch; matches confirms by delivery tag, with no future per message, and
returns by message id. Hands outcomes to `publisher`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from saga_worker.broker.hot_path import Outbound
from saga_worker.broker.outgoing import Confirmed, Invalid, OnOutcome, Outcome, Outgoing, Unknown, Unroutable
from saga_worker.broker.session import Closure, Session

WINDOW_BYTES: Final = 16 * 1024 * 1024
_CONFIRMED: Final = Confirmed()
_REFUSED: Final = Unknown("the broker refused it for now (nack)")


@dataclass(slots=True, eq=False)
class Entry:
    """A message on its way. `deadline`: until when it may wait for its next turn or answer."""

    message: Outgoing
    message_id: str
    on_outcome: OnOutcome
    properties: bytes
    deadline: float
    returned: Unroutable | None = None
    kills: int = 0


class ConfirmUser(Protocol):
    """Who is told."""

    def settled(self, entry: Entry, outcome: Outcome) -> None: ...

    def answered(self) -> None: ...

    def channel_closed(self, channel: ConfirmingChannel, closure: Closure) -> None: ...


class ConfirmingChannel:
    """One publishing channel; the user of its outbound end. Its count of delivery tags is its own."""

    def __init__(self, user: ConfirmUser, session: Session, *, is_quarantine: bool) -> None:
        self.session = session
        self.is_quarantine = is_quarantine
        self.in_flight: dict[int, Entry] = {}  # by tag, in the order of publishing
        self._by_id: dict[str, Entry] = {}
        self._user = user
        self._outbound: Outbound | None = None
        self._last_tag = 0
        self._bytes = 0

    @classmethod
    async def open(cls, user: ConfirmUser, session: Session, *, is_quarantine: bool) -> ConfirmingChannel:
        self = cls(user, session, is_quarantine=is_quarantine)
        self._outbound = await session.hot_path.outbound(session, self)
        return self

    def has_room(self, window: int) -> bool:
        return len(self.in_flight) < window and self._bytes < WINDOW_BYTES

    def is_overdue(self, now: float) -> bool:
        """Whether the oldest message waits longer for its answer than it may."""
        return bool(self.in_flight) and next(iter(self.in_flight.values())).deadline <= now

    def send(self, entries: list[Entry]) -> None:
        """Put `entries` on the wire in this order."""
        assert self._outbound is not None
        for entry in entries:
            self._last_tag += 1
            self.in_flight[self._last_tag] = entry
            self._by_id[entry.message_id] = entry
            self._bytes += len(entry.message.body)
        self._outbound.publish(entries)

    def take_all(self) -> list[Entry]:
        """Everything without an answer, when no answer can come any more."""
        entries = list(self.in_flight.values())
        self.in_flight.clear()
        self._by_id.clear()
        for entry in entries:
            entry.returned = None
        return entries

    def confirmed(self, tag: int, multiple: bool, is_ack: bool) -> None:
        outcome = _CONFIRMED if is_ack else _REFUSED
        tags = [tag]
        if multiple:
            tags = []
            for known in self.in_flight:
                if known > tag:
                    break
                tags.append(known)
        for known in tags:
            self._settle(known, outcome)
        self._user.answered()

    def _settle(self, tag: int, outcome: Outcome) -> None:
        entry = self.in_flight.pop(tag, None)
        if entry is None:
            return
        del self._by_id[entry.message_id]
        self._bytes -= len(entry.message.body)
        self._user.settled(entry, entry.returned or outcome if outcome is _CONFIRMED else outcome)

    def returned(self, message_id: str, text: str) -> None:
        entry = self._by_id.get(message_id)
        if entry is not None:  # its confirm follows
            message = entry.message
            entry.returned = Unroutable(f"{text}: no queue is bound to {message.exchange} for {message.routing_key}")

    def refused(self, tag: int, text: str) -> None:
        self._settle(tag, Invalid(text))
        self._user.answered()

    def channel_closed(self, code: int, text: str) -> None:
        self._user.channel_closed(self, Closure(text, code))
