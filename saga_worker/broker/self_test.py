"""Whether a hot path works with the installed release of the client library: tried out on a living session.

Takes a session and a path; publishes three messages, two of them to a queue of its own, and follows all that a worker
relies on: confirms, a mandatory return, deliveries as they were sent, an acknowledgement that the broker takes.
Guarantees that nothing of it stays in the broker. Used by `amqp_path` before the lean path is trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from aiormq.channel import Channel
from aiormq.exceptions import AMQPError

from saga_worker.broker.confirms import Entry
from saga_worker.broker.fields import encode_properties
from saga_worker.broker.hot_path import HotPath
from saga_worker.broker.outgoing import Outgoing
from saga_worker.envelope.delivery import Delivery, FieldValue, Properties, Source

if TYPE_CHECKING:
    from saga_worker.broker.session import Session

_NAME: Final = "self-test"


class Unfit(Exception):
    """The path does something else than it should; the text says what."""


class Inconclusive(Exception):
    """The test did not come to its end, which the broker may be the reason of; the text says why."""


async def self_test(path: HotPath, session: Session, namespace: str, deadline_seconds: float) -> None:
    """Raises `Unfit`, or whatever the library raises; `Inconclusive` when that is no verdict on the path."""
    if not session.tap.is_in_place:
        raise Unfit("the client library does not use the transport that it is given")
    step = asyncio.ensure_future(_follow(path, session, f"{namespace}.{_NAME}.{uuid4().hex}"))
    both: set[asyncio.Future[Any]] = {step, session.closed}
    await asyncio.wait(both, timeout=deadline_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not step.done():
        step.cancel()
        await asyncio.wait({step}, timeout=deadline_seconds)
        raise Inconclusive(_why_not(session, deadline_seconds))
    try:
        await step
    except (AMQPError, OSError) as error:
        raise Inconclusive(f"{type(error).__name__}: {error}") from None


def _why_not(session: Session, deadline_seconds: float) -> str:
    if session.closed.done():
        return "the connection was lost in it"
    blocked = "; RabbitMQ takes no messages now" if session.tap.is_blocked else ""
    return f"it did not end within {deadline_seconds:g} s{blocked}"


async def _follow(path: HotPath, session: Session, place: str) -> None:
    probe = _Probe()
    inbound, outbound = await asyncio.gather(path.inbound(session, probe), path.outbound(session, probe))
    await _declare(inbound.channel, place)
    await inbound.channel.basic_consume(place, inbound.callback, consumer_tag=_NAME)
    sent = [_entry("one", place, "here", b"x" * session.frame_max), _entry("two", place, "here", b"")]
    outbound.publish([*sent, _entry("nobody", place, "nowhere", b"")])
    for entry in sent:
        delivery = await probe.next_delivery()
        _compare(entry.message, delivery)
        inbound.ack_up_to(delivery.delivery_tag)
    await probe.until(lambda: probe.confirmed_tags >= {1, 2, 3})
    if probe.returned_ids != ["nobody"]:
        raise Unfit("a message that no queue takes was not returned")
    await asyncio.gather(inbound.channel.close(), outbound.channel.close())


async def _declare(channel: Channel, place: str) -> None:
    """A queue and an exchange of that name, without waiting for each answer; they go with the consumer.

    No exchange that others use: a worker may lack the right to publish to it, or somebody may listen to all of it.
    """
    await channel.basic_qos(prefetch_count=1)  # so that the second message comes after the ack of the first only
    await channel.queue_declare(place, exclusive=True, auto_delete=True, nowait=True)
    await channel.exchange_declare(place, auto_delete=True, nowait=True)
    await channel.queue_bind(place, place, "here", nowait=True)


def _entry(message_id: str, exchange: str, routing_key: str, body: bytes) -> Entry:
    headers: dict[str, FieldValue] = {"text": "é", "list": [1, None, b"\xff"], "time": datetime(2000, 1, 1, tzinfo=UTC)}
    properties = Properties(message_id=message_id, type=_NAME, headers=headers, delivery_mode=1)
    message = Outgoing(exchange, routing_key, body, properties, mandatory=True)
    return Entry(message, message_id, lambda *_: None, encode_properties(properties), deadline=0)


def _compare(sent: Outgoing, got: Delivery) -> None:
    """A broker may be set up to add headers, so those that were sent have to be among those that came."""
    headers = {name: got.properties.headers.get(name) for name in sent.properties.headers}
    was = (sent.properties.message_id, sent.properties.type, sent.properties.headers, sent.routing_key, sent.body)
    if (got.properties.message_id, got.properties.type, headers, got.routing_key, got.body) != was:
        raise Unfit("a message was not delivered as it was sent")


class _Probe:
    """The user of both ends."""

    def __init__(self) -> None:
        self.returned_ids: list[str] = []
        self.confirmed_tags: set[int] = set()
        self._deliveries: list[Delivery] = []
        self._fault: Exception | None = None
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; raises the first fault."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()
            if self._fault is not None:
                raise self._fault

    async def next_delivery(self) -> Delivery:
        await self.until(lambda: bool(self._deliveries))
        return self._deliveries.pop(0)

    def fail(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._changed.set()

    def source_of(self, consumer_tag: str) -> Source:
        return Source.INBOX

    def delivered(self, delivery: Delivery) -> None:
        self._deliveries.append(delivery)
        self._changed.set()

    def confirmed(self, tag: int, multiple: bool, is_ack: bool) -> None:
        if not is_ack:
            self.fail(Inconclusive("the broker refused a message (nack)"))
        self.confirmed_tags |= set(range(1, tag + 1)) if multiple else {tag}
        self._changed.set()

    def returned(self, message_id: str, text: str) -> None:
        self.returned_ids.append(message_id)

    def refused(self, tag: int, text: str) -> None:
        self.fail(Unfit(text))

    def channel_closed(self, code: int, text: str) -> None:
        # Without a code it is the path itself that gives up.
        self.fail(Inconclusive(f"the broker closed the channel: {text}") if code else Unfit(text))

    def consumer_cancelled(self) -> None:
        self.fail(Inconclusive("the broker cancelled the consumer"))
