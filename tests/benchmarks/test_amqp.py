"""The benchmarks' own AMQP client, beside one that is known to be right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

from benchmarks.harness.amqp import Amqp, AmqpFailure, Delivery, Message, pack_properties, read_properties
from saga_worker.testing.namespaces import Namespace

Eventually = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[Amqp, list[Delivery]]]:
    """A client and what it is given."""
    amqp, taken = await Amqp.connect(url), list[Delivery]()
    amqp.on_deliveries = taken.extend
    try:
        yield amqp, taken
    finally:
        await amqp.close()


def message(queue: str, body: bytes = b"{}", **properties: str) -> Message:
    return Message("", queue, pack_properties(**({"message_id": "m1", "type": "paid"} | properties)), body)


async def test_ten_thousand_messages_come_back_in_order_and_are_acknowledged(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = namespace.queue("bench")
    bodies = [b"%d" % number + b"x" * (number % 500) for number in range(10_000)]
    async with connected(amqp_url) as (amqp, taken):
        await amqp.declare_queue(queue, {"x-queue-type": "quorum"})
        await amqp.publish_all([message(queue, body) for body in bodies])
        assert amqp.confirmed == 10_000
        assert await amqp.depth(queue) == (10_000, 0)

        await amqp.consume(queue, prefetch=10_000)
        await eventually(lambda: len(taken) == 10_000)
        amqp.ack(taken[-1].tag)

    assert [delivery.body for delivery in taken] == bodies
    async with connected(amqp_url) as (amqp, _):

        async def is_left_by_its_consumer() -> bool:
            return (await amqp.depth(queue))[1] == 0

        await eventually(is_left_by_its_consumer)  # from now on what was not acknowledged is ready again
        assert await amqp.depth(queue) == (0, 0)


async def test_it_reads_what_it_wrote(amqp_url: str, namespace: Namespace, eventually: Eventually) -> None:
    queue = namespace.queue("bench")
    async with connected(amqp_url) as (amqp, taken):
        await amqp.declare_queue(queue, exclusive=True)
        await amqp.publish_all([message(queue, correlation_id="c1", reply_to="answers")])
        await amqp.consume(queue, no_ack=True)
        await eventually(lambda: len(taken) == 1)

    assert read_properties(taken[0].properties) == {
        "content_type": "application/json", "correlation_id": "c1", "reply_to": "answers", "message_id": "m1",
        "type": "paid",
    }  # fmt: skip


async def test_aio_pika_reads_what_it_wrote_and_it_reads_what_aio_pika_wrote(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = namespace.queue("bench")
    headers: dict[str, Any] = {"saga-id": "s", "n": 1}
    sent = aio_pika.Message(b"[1]", message_id="m2", type="sent", headers=headers, priority=3, timestamp=7)
    async with connected(amqp_url) as (amqp, taken), await aio_pika.connect(amqp_url) as connection:
        await amqp.declare_queue(queue)
        await amqp.publish_all([message(queue)])
        channel = await connection.channel()
        theirs = await (await channel.get_queue(queue)).get(no_ack=True)
        await channel.default_exchange.publish(sent, queue)
        await amqp.consume(queue, no_ack=True)
        await eventually(lambda: len(taken) == 1)

    assert (theirs.message_id, theirs.type, theirs.app_id, theirs.body) == ("m1", "paid", "bench", b"{}")
    assert theirs.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert read_properties(taken[0].properties) == {"message_id": "m2", "type": "sent"}
    assert taken[0].body == b"[1]"


async def test_a_message_that_finds_no_queue_is_a_failure(amqp_url: str, namespace: Namespace) -> None:
    async with connected(amqp_url) as (amqp, _):
        with pytest.raises(AmqpFailure, match="found no queue"):
            await amqp.publish_all([message(f"{namespace}.nowhere")])
        with pytest.raises(AmqpFailure):
            await amqp.declare_queue(namespace.queue("bench"))


async def test_what_the_broker_says_when_it_closes_the_channel_is_in_the_error(
    amqp_url: str, namespace: Namespace
) -> None:
    async with connected(amqp_url) as (amqp, _):
        with pytest.raises(AmqpFailure, match="404"):
            await amqp.depth(f"{namespace}.nowhere")
