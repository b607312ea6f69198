"""The public end of a channel: aiormq's `basic_consume` and `basic_publish`, as its documentation shows them.

Slower than `lean` and independent of how the library works inside: the fallback when the lean end does not pass its
self-test. Properties that the library cannot read are set right by `screen` before they reach it. Hands up to
`deliveries` and `confirms` what `lean` would.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from aiormq.abc import DeliveredMessage
from aiormq.channel import EXCEPTION_MAPPING, Channel
from aiormq.exceptions import AMQPError, ChannelClosed, DeliveryError
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from saga_worker.broker.hot_path import HotPath, Inbound, InboundUser, Outbound, OutboundUser
from saga_worker.broker.screen import Screen, from_library
from saga_worker.broker.wire import decode_delivery
from saga_worker.envelope.delivery import Delivery
from saga_worker.saga.errors import ConfigurationError

if TYPE_CHECKING:
    from saga_worker.broker.confirms import Entry
    from saga_worker.broker.session import Session

log = logging.getLogger(__name__)

_CODES: Final = {kind: code for code, kind in EXCEPTION_MAPPING.items()}


class _Tasks:
    """Tasks on one channel, which end with its session: the library may leave them waiting for a dead socket."""

    def __init__(self, session: Session) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        session.closed.add_done_callback(lambda _: self._cancel())

    def start(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


class PublicInbound:
    """The consuming end."""

    def __init__(self, session: Session, channel: Channel, user: InboundUser, screen: Screen) -> None:
        self.channel = channel
        self._user = user
        self._screen = screen
        self._tasks = _Tasks(session)
        self._stored = 0  # up to this tag everything may be acknowledged
        self._acked = 0

    async def callback(self, message: DeliveredMessage) -> None:
        try:
            delivery = self._delivery(message)
        except Exception as error:  # the library would go on without it, and a later ack would cover it
            self._user.channel_closed(0, f"a delivery could not be read: {type(error).__name__}")
        else:
            self._user.delivered(delivery)

    def _delivery(self, message: DeliveredMessage) -> Delivery:
        delivered = message.delivery
        assert isinstance(delivered, Basic.Deliver)
        tag = delivered.delivery_tag or 0
        raw = self._screen.aside.pop(tag, None)
        if raw is not None:
            return decode_delivery(*raw, message.body, self._user.source_of)
        return Delivery(
            message.body, from_library(message.header.properties), delivered.exchange or "",
            delivered.routing_key or "", bool(delivered.redelivered), tag,
            self._user.source_of(delivered.consumer_tag or ""),
        )  # fmt: skip

    def ack_up_to(self, tag: int) -> None:
        is_idle = self._stored == self._acked
        self._stored = tag
        if is_idle:
            self._tasks.start(self._acknowledge())

    async def _acknowledge(self) -> None:
        """One at a time: the broker closes the channel over a tag below one that was acknowledged."""
        while self._acked < self._stored:
            tag = self._stored
            try:
                await self.channel.basic_ack(tag, multiple=True, wait=False)
            except (AMQPError, RuntimeError, OSError):
                return  # the channel is gone: everything comes again
            self._acked = tag


class PublicOutbound:
    """The publishing end: a task for each message, in the order of the batch (the library's lock is fair)."""

    def __init__(self, session: Session, channel: Channel, user: OutboundUser) -> None:
        self.channel = channel
        self._user = user
        self._tasks = _Tasks(session)
        self._last_tag = 0
        channel.on_return_callbacks.add(self._returned)

    def publish(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            self._last_tag += 1
            self._tasks.start(self._publish(self._last_tag, entry))

    async def _publish(self, tag: int, entry: Entry) -> None:
        message = entry.message
        if problem := _problem(message.exchange, message.routing_key) or _problem_of_id(entry.message_id):
            self._user.refused(tag, f"the client library cannot send it: {problem}")
            return
        try:
            await self.channel.basic_publish(
                message.body, exchange=message.exchange, routing_key=message.routing_key, mandatory=message.mandatory,
                properties=_Encoded(entry.message_id, entry.properties), wait=False,
            )  # fmt: skip
        except DeliveryError:
            self._user.confirmed(tag, False, False)
        except Exception as error:  # whatever ended the channel; who is not told of that gives up in time
            log.debug("a publish ended with %s", type(error).__name__)
        else:
            self._user.confirmed(tag, False, True)

    def _returned(self, message: DeliveredMessage) -> None:
        """Comes before the confirm, which says that the broker has done with it."""
        returned = message.delivery
        assert isinstance(returned, Basic.Return)
        self._user.returned(message.header.properties.message_id or "", returned.reply_text or "")


@lru_cache(maxsize=4096)
def _problem(exchange: str, routing_key: str) -> str | None:
    """Why the library would refuse these names; it is stricter than the broker."""
    try:
        Basic.Publish(exchange=exchange, routing_key=routing_key).marshal()
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _problem_of_id(message_id: str) -> str | None:
    """The library knows a returned message by its id, and would not see one that is not UTF-8."""
    try:
        message_id.encode()
    except UnicodeEncodeError:
        return "message_id is not UTF-8"
    return None


class _Encoded(Basic.Properties):
    """Properties as `fields` has encoded them. The library's own encoder halves floats and cuts long names."""

    def __init__(self, message_id: str, encoded: bytes) -> None:
        super().__init__(message_id=message_id)
        self._bytes = encoded

    def marshal(self) -> bytes:
        return self._bytes


async def _inbound(session: Session, user: InboundUser) -> Inbound:
    channel = await session.underlay_channel()
    screen = Screen(channel.number)
    session.tap.filters[channel.number] = screen
    channel.on_consumer_cancel_callbacks.add(lambda _: user.consumer_cancelled())
    _tell_of_the_end(channel, user)
    return PublicInbound(session, channel, user, screen)


async def _outbound(session: Session, user: OutboundUser) -> Outbound:
    if not ContentHeader(properties=_Encoded("", b"as encoded")).marshal().endswith(b"as encoded"):
        raise ConfigurationError("This release of pamqp does not send properties as given; install another one.")
    channel = await session.underlay_channel()
    session.tap.filters[channel.number] = Screen(channel.number)
    _tell_of_the_end(channel, user)
    return PublicOutbound(session, channel, user)


def _tell_of_the_end(channel: Channel, user: InboundUser | OutboundUser) -> None:
    """Call `user.channel_closed` when the channel ends alone; with its connection, the session tells."""

    def ended(closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        if error is None or isinstance(error, (OSError, asyncio.CancelledError)):
            return
        match error:
            case ChannelClosed() if type(error) in _CODES:
                user.channel_closed(_CODES[type(error)], str(error))
            case ChannelClosed(args=(code, text)):
                user.channel_closed(code or 0, text or "closed by the broker")
            case _:
                user.channel_closed(0, f"the client library gave the channel up: {type(error).__name__}")

    channel.closing.add_done_callback(ended)


PUBLIC: Final = HotPath("public", _inbound, _outbound)
