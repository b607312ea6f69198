"""A participant that answers every command at once, on pika's callback client so that it is not the bottleneck.

`python benchmarks/echo.py AMQP_URL NAMESPACE` binds a queue to all commands of the namespace and answers `done`
with persistent messages; a delivery is acknowledged when its answer is confirmed.
"""

from __future__ import annotations

import sys
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel


class Echo:
    """Deliveries come and answers go on one channel each; the n-th answer's confirm is the n-th delivery's ack."""

    def __init__(self, url: str, namespace: str) -> None:
        self._namespace = namespace
        self._queue = f"{namespace}.echo"
        self._unconfirmed: list[int] = []
        self._first_tag = 1
        self._confirmed_tags: set[int] = set()
        self._incoming: Channel | None = None
        self._outgoing: Channel | None = None
        self._connection = SelectConnection(pika.URLParameters(url), on_open_callback=self._open)

    def run(self) -> None:
        self._connection.ioloop.start()

    def _open(self, connection: SelectConnection) -> None:
        connection.channel(on_open_callback=self._publishing)

    def _publishing(self, channel: Channel) -> None:
        self._outgoing = channel
        channel.confirm_delivery(
            self._confirmed, callback=lambda _: self._connection.channel(on_open_callback=self._consuming)
        )

    def _consuming(self, channel: Channel) -> None:
        self._incoming = channel
        arguments = {"x-queue-type": "quorum"}
        channel.basic_qos(prefetch_count=1000)
        channel.exchange_declare(f"{self._namespace}.commands", "topic", durable=True)
        channel.queue_declare(self._queue, durable=True, arguments=arguments)
        channel.queue_bind(
            self._queue, f"{self._namespace}.commands", "#",
            callback=lambda _: (channel.basic_consume(self._queue, self._answer), print("ready", flush=True)),
        )  # fmt: skip

    def _answer(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        assert self._outgoing is not None
        self._unconfirmed.append(method.delivery_tag)
        self._outgoing.basic_publish(
            "", properties.reply_to, b"{}",
            pika.BasicProperties(
                message_id=f"r-{properties.message_id}", correlation_id=properties.message_id, type="done",
                content_type="application/json", delivery_mode=2, app_id="echo",
            ),
        )  # fmt: skip

    def _confirmed(self, frame: Any) -> None:
        """Acknowledge deliveries as far as all their answers are confirmed."""
        tag = frame.method.delivery_tag
        self._confirmed_tags.update(range(self._first_tag, tag + 1) if frame.method.multiple else (tag,))
        count = 0
        while self._first_tag in self._confirmed_tags:
            self._confirmed_tags.discard(self._first_tag)
            self._first_tag += 1
            count += 1
        done, self._unconfirmed = self._unconfirmed[:count], self._unconfirmed[count:]
        if done and self._incoming is not None:
            self._incoming.basic_ack(done[-1], multiple=True)


if __name__ == "__main__":
    Echo(sys.argv[1], sys.argv[2]).run()
