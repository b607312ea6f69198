"""What differs between the two ways to the broker's hot frames, and nothing else.

The rules stand above, once: windows, quarantine, batches, byte budget, the contiguous prefix (`deliveries`,
`confirms`, `publisher`). Below are two thin ends of a channel: `lean` (frames of our own through the
tap) and `public` (calls of the client library).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel

    from saga_worker.broker.confirms import Entry
    from saga_worker.broker.session import Session
    from saga_worker.envelope.delivery import Delivery, Source


class InboundUser(Protocol):
    """Who takes the deliveries of one channel. Called from the reader: quick, and never raises."""

    def source_of(self, consumer_tag: str) -> Source: ...

    def delivered(self, delivery: Delivery) -> None: ...

    def channel_closed(self, code: int, text: str) -> None: ...

    def consumer_cancelled(self) -> None: ...


class Inbound(Protocol):
    """The consuming end of one channel. Consumers are begun on `channel`, with `callback`."""

    channel: Channel

    async def callback(self, message: DeliveredMessage) -> None: ...

    def ack_up_to(self, tag: int) -> None:
        """Acknowledge this delivery and all before it; a channel that is gone swallows that."""


class OutboundUser(Protocol):
    """Who is told what the broker says of the messages on one channel. Never raises."""

    def confirmed(self, tag: int, multiple: bool, is_ack: bool) -> None: ...

    def returned(self, message_id: str, text: str) -> None: ...

    def refused(self, tag: int, text: str) -> None:
        """It never went on the wire, and never can."""

    def channel_closed(self, code: int, text: str) -> None: ...


class Outbound(Protocol):
    """The publishing end of one channel in confirm mode, on which nobody else publishes."""

    channel: Channel

    def publish(self, batch: Sequence[Entry]) -> None:
        """Put `batch` on the wire in this order. Tags count from 1 over all batches of the channel."""


@dataclass(frozen=True, slots=True)
class HotPath:
    """One of the two ways: how to open each end on a session."""

    name: str
    inbound: Callable[[Session, InboundUser], Awaitable[Inbound]]
    outbound: Callable[[Session, OutboundUser], Awaitable[Outbound]]
