"""One AMQP channel: a method frame in, its effect and its reply out.

Takes the frames of one channel number, hands exchange and queue methods to `declarations.py`, messages to
`publishing.py`, acknowledgements to `deliveries.py`, and keeps the consumers. A `ChannelFault` raised below ends
the channel, here is its `close`.
"""

import secrets
from collections.abc import Collection
from functools import partial
from typing import NamedTuple, Protocol

from pamqp import base, commands

from . import wire
from .consumers import Consumer
from .declarations import Declarations
from .deliveries import Deliveries
from .errors import ConnectionFault, ReplyCode
from .publishing import Publishing
from .queues import Queue
from .vhost import VirtualHost


class Peer(Protocol):
    """What a channel knows of its connection."""

    vhost: VirtualHost
    user: str
    frame_max: int
    strict: bool
    wants_cancel_notices: bool

    def send(self, data: bytes) -> None: ...
    def is_writable(self) -> bool: ...


class Subscription(NamedTuple):
    consumer: Consumer
    queue: Queue


def release_together(channels: "Collection[Channel]") -> None:
    """These channels are over: their consumers leave, what they did not settle goes back.

    It goes back before the next in line is asked: a queue with a single active consumer hands over in order.
    """
    for channel in channels:
        channel.is_closing = True
        channel.stop_consumers()
    for channel in channels:
        channel.requeue()
    for channel in channels:
        channel.unsubscribe()


class Channel:
    def __init__(self, number: int, peer: Peer) -> None:
        self.number = number
        self.is_closing = False
        self.publishing = Publishing(number, peer.vhost, user=peer.user, frame_max=peer.frame_max, send=peer.send)
        self._peer = peer
        self._declarations = Declarations(peer.vhost, peer, strict=peer.strict)
        self._deliveries = Deliveries(number, frame_max=peer.frame_max, send=peer.send)
        self._subscriptions: dict[str, Subscription] = {}
        self._prefetch = 0

    def on_frame(self, kind: int, payload: bytes) -> None:
        if kind == wire.METHOD:
            self._on_method(payload)
        elif kind == wire.HEADER:
            self.publishing.on_header(payload)
        elif kind == wire.BODY:
            self.publishing.on_body(payload)
        else:
            raise ConnectionFault(ReplyCode.UNEXPECTED_FRAME, f"a frame of type {kind} on channel {self.number}")

    def release(self) -> None:
        """The channel is over."""
        release_together([self])

    def stop_consumers(self) -> None:
        """They are given nothing more, but keep their places in line."""
        for consumer, _ in self._subscriptions.values():
            consumer.gone = True

    def requeue(self) -> None:
        self._deliveries.requeue_all()

    def unsubscribe(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, {}
        for consumer, queue in subscriptions.values():
            queue.unsubscribe(consumer)

    def on_writable(self) -> None:
        """The client reads again."""
        for consumer, queue in list(self._subscriptions.values()):
            queue.wake(consumer)

    def _on_method(self, payload: bytes) -> None:
        index = int.from_bytes(payload[:4], "big")
        if self.publishing.expects_content:
            raise ConnectionFault(ReplyCode.UNEXPECTED_FRAME, "a method where the content of a publish was due")
        if index == wire.BASIC_PUBLISH:
            self.publishing.on_publish(payload)
        elif index == wire.BASIC_ACK:
            tag, multiple = wire.read_ack(payload)
            self._deliveries.ack(tag, multiple=multiple)
        else:
            reply = self._reply_to(wire.read_method(payload))
            if reply is not None:
                self._send(reply)

    def _reply_to(self, frame: base.Frame) -> base.Frame | None:
        match frame:
            case commands.Queue.Declare() | commands.Queue.Delete() | commands.Queue.Bind():
                return self._declarations.on_queue(frame)
            case commands.Queue.Unbind() | commands.Queue.Purge():
                return self._declarations.on_queue(frame)
            case commands.Exchange.Declare() | commands.Exchange.Delete():
                return self._declarations.on_exchange(frame)
            case commands.Exchange.Bind() | commands.Exchange.Unbind():
                return self._declarations.on_exchange(frame)
            case commands.Confirm.Select():
                self.publishing.confirms = True
                return None if frame.nowait else commands.Confirm.SelectOk()
            case commands.Channel.Flow(active=True):
                return commands.Channel.FlowOk(active=True)
            case _:
                return self._reply_to_basic(frame)

    def _reply_to_basic(self, frame: base.Frame) -> base.Frame | None:
        match frame:
            case commands.Basic.Nack():
                counted = not self._peer.strict
                self._deliveries.reject(
                    frame.delivery_tag or 0, multiple=frame.multiple, requeue=frame.requeue, counted=counted
                )
                return None
            case commands.Basic.Reject():
                self._deliveries.reject(frame.delivery_tag or 0, multiple=False, requeue=frame.requeue, counted=True)
                return None
            case commands.Basic.Get():
                return self._get(frame)
            case commands.Basic.Consume():
                self._consume(frame)
                return None
            case commands.Basic.Cancel():
                return self._cancel(frame)
            case commands.Basic.Qos():
                return self._set_prefetch(frame)
            case commands.Basic.Recover(requeue=True):
                self._deliveries.requeue_all()
                return commands.Basic.RecoverOk()
            case _:
                raise ConnectionFault(ReplyCode.NOT_IMPLEMENTED, f"the trial broker does not have {frame.name}")

    def _get(self, frame: commands.Basic.Get) -> base.Frame | None:
        queue = self._declarations.queue(frame.queue)
        queue.touch()
        entry = queue.take()
        if entry is None:
            return commands.Basic.GetEmpty()
        self._deliveries.answer_get(queue, entry, no_ack=frame.no_ack)
        return None

    def _consume(self, frame: commands.Basic.Consume) -> None:
        queue = self._declarations.queue(frame.queue)
        tag = frame.consumer_tag or f"amq.ctag-{secrets.token_urlsafe(16)}"
        if tag in self._subscriptions:
            raise ConnectionFault(ReplyCode.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        if "x-priority" in frame.arguments:
            raise ConnectionFault(ReplyCode.NOT_IMPLEMENTED, "x-priority: the trial broker serves consumers in turn")
        consumer = Consumer(
            tag=tag,
            no_ack=frame.no_ack,
            exclusive=frame.exclusive,
            prefetch=self._prefetch,
            is_writable=self._peer.is_writable,
            deliver=partial(self._deliveries.deliver, queue),
            cancelled=self._on_queue_deleted,
            prefix=wire.deliver_prefix(tag),
        )
        queue.subscribe(consumer, self._peer.vhost.place("queue", queue.name))
        self._subscriptions[tag] = Subscription(consumer, queue)
        if not frame.nowait:
            self._send(commands.Basic.ConsumeOk(consumer_tag=tag))
        queue.wake(consumer)

    def _cancel(self, frame: commands.Basic.Cancel) -> base.Frame | None:
        """What the consumer has not settled stays with the channel."""
        subscription = self._subscriptions.pop(frame.consumer_tag or "", None)
        if subscription is not None:
            subscription.queue.unsubscribe(subscription.consumer)
        return None if frame.nowait else commands.Basic.CancelOk(consumer_tag=frame.consumer_tag)

    def _set_prefetch(self, frame: commands.Basic.Qos) -> base.Frame:
        """Holds for consumers that start later, as in RabbitMQ."""
        if frame.global_ and self._peer.strict:
            text = "Feature `global_qos` is deprecated. By default, this feature is not permitted anymore."
            raise ConnectionFault(ReplyCode.INTERNAL_ERROR, text)
        if frame.global_:
            raise ConnectionFault(ReplyCode.NOT_IMPLEMENTED, "global=true: the trial broker limits consumers only")
        if frame.prefetch_size:
            raise ConnectionFault(ReplyCode.NOT_IMPLEMENTED, f"prefetch_size!=0 ({frame.prefetch_size})")
        self._prefetch = frame.prefetch_count
        return commands.Basic.QosOk()

    def _on_queue_deleted(self, consumer: Consumer) -> None:
        del self._subscriptions[consumer.tag]
        if self._peer.wants_cancel_notices:
            self._send(commands.Basic.Cancel(consumer_tag=consumer.tag, nowait=True))

    def _send(self, frame: base.Frame) -> None:
        self._peer.send(wire.method(self.number, frame))
