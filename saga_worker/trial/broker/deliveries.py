"""One channel's consuming side: what was delivered and is not settled yet.

Takes entries from queues, numbers and sends them, keeps them until they are acknowledged, rejected or the channel
ends, and then settles them with their queue. Driven by `channel.py`; the ledger is ordered by tag, so `multiple`
pops from its front.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from . import properties, wire
from .consumers import Consumer
from .errors import precondition
from .messages import Entry, Message
from .queues import Queue


class Delivery(NamedTuple):
    entry: Entry
    queue: Queue
    consumer: Consumer | None
    """None after `basic.get`."""


class Deliveries:
    def __init__(self, channel: int, *, frame_max: int, send: Callable[[bytes], None]) -> None:
        self._channel = channel
        self._frame_max = frame_max
        self._send = send
        self._unsettled: OrderedDict[int, Delivery] = OrderedDict()
        self._latest_tag = 0

    def deliver(self, queue: Queue, consumer: Consumer, entry: Entry) -> None:
        self._latest_tag += 1
        if not consumer.no_ack:
            consumer.unacked += 1
            self._unsettled[self._latest_tag] = Delivery(entry, queue, consumer)
        message = entry.message
        head = wire.deliver(self._channel, consumer.prefix, self._latest_tag, entry.redelivered, message.address)
        self._send(head + self._content(queue, entry, message))

    def answer_get(self, queue: Queue, entry: Entry, *, no_ack: bool) -> None:
        self._latest_tag += 1
        if not no_ack:
            self._unsettled[self._latest_tag] = Delivery(entry, queue, None)
        message = entry.message
        head = wire.get_ok(self._channel, self._latest_tag, entry.redelivered, message.address, len(queue))
        self._send(head + self._content(queue, entry, message))

    def ack(self, tag: int, *, multiple: bool) -> None:
        _wake(_free(self._pop(tag, multiple=multiple)))

    def reject(self, tag: int, *, multiple: bool, requeue: bool, counted: bool) -> None:
        """`counted`: a requeue is a failed attempt, which uses up a quorum queue's delivery limit."""
        settled = self._pop(tag, multiple=multiple)
        freed = _free(settled)
        if requeue:
            _take_back(settled, counted=counted)
        else:
            for each in settled:
                each.queue.discard(each.entry)
        _wake(freed)

    def requeue_all(self) -> None:
        """The client asked to recover, or the channel is gone."""
        settled = list(self._unsettled.values())
        self._unsettled.clear()
        freed = _free(settled)
        _take_back(settled, counted=True)
        _wake(freed)

    def _content(self, queue: Queue, entry: Entry, message: Message) -> bytes:
        raw = message.properties
        if queue.options.is_quorum:
            raw = properties.with_delivery_count(raw, entry.delivery_count)
        return wire.content(self._channel, raw, message.body, self._frame_max)

    def _pop(self, tag: int, *, multiple: bool) -> list[Delivery]:
        """With `multiple` everything up to the tag, where 0 means the newest."""
        unsettled = self._unsettled
        if tag not in unsettled and not (multiple and tag == 0):
            precondition(f"unknown delivery tag {tag}")
        if not multiple:
            return [unsettled.pop(tag)]
        popped: list[Delivery] = []
        while unsettled:
            lowest, delivery = unsettled.popitem(last=False)
            popped.append(delivery)
            if lowest == tag:
                break
        return popped


def _free(settled: Iterable[Delivery]) -> dict[Consumer, Queue]:
    freed: dict[Consumer, Queue] = {}
    for delivery in settled:
        if delivery.consumer is not None:
            delivery.consumer.unacked -= 1
            freed[delivery.consumer] = delivery.queue
    return freed


def _take_back(settled: Iterable[Delivery], *, counted: bool) -> None:
    by_queue: dict[Queue, list[Entry]] = {}
    for delivery in settled:
        by_queue.setdefault(delivery.queue, []).append(delivery.entry)
    for queue, entries in by_queue.items():
        queue.take_back(entries, counted=counted)


def _wake(freed: dict[Consumer, Queue]) -> None:
    for consumer, queue in freed.items():
        queue.wake(consumer)
