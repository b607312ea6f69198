"""Deliveries and the publisher on a real broker: what arrives, what is said of what was sent, every fault between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from aio_pika import Message
from yarl import URL

from saga_worker.broker import (
    BrokerConnection,
    BrokerUnavailable,
    Confirmed,
    Delivery,
    Invalid,
    Outgoing,
    Properties,
    Publisher,
    Topology,
    Unknown,
    Unroutable,
)
from saga_worker.envelope import Source
from saga_worker.saga.errors import ConfigurationError
from saga_worker.testing import eventually
from saga_worker.testing.namespaces import Namespace
from saga_worker.testing.proxy import Connection, Direction, FaultProxy
from saga_worker.trial.local_rabbitmq import LocalRabbitmq
from tests.stages.transport import bare_channel, consuming, event, publish_all, publishing, take

Eventually = Callable[..., Awaitable[Any]]
THOUSANDS = {"lean": 10_000, "public": 3_000}

pytestmark = pytest.mark.usefixtures("hot_path")


async def test_thousands_of_messages_arrive_once_each_and_in_order(
    amqp_url: str, namespace: Namespace, hot_path: str
) -> None:
    messages = [event(namespace, f"m{n}") for n in range(THOUSANDS[hot_path])]
    async with consuming(amqp_url, namespace) as deliveries, publishing(amqp_url, namespace) as publisher:
        taking = asyncio.create_task(take(deliveries, len(messages)))
        outcomes = await publisher.publish(messages)
        taken = await taking

        assert outcomes == [Confirmed()] * len(messages)
        assert [d.properties.message_id for d in taken] == [m.properties.message_id for m in messages]
        assert await deliveries.backlog() == 0
        assert deliveries.unacknowledged == 0


async def test_body_properties_and_headers_arrive_as_they_were_sent(amqp_url: str, namespace: Namespace) -> None:
    headers = {
        "text": "é", "none": None, "flag": True, "int": -(2**40), "float": 1.1, "bytes": b"\x00\xff",
        "decimal": Decimal("12.50"), "time": datetime(2026, 1, 2, tzinfo=UTC), "list": [1, "x", [None]],
        "table": {"a": {"b": 1}},
    }  # fmt: skip
    sent = event(
        namespace, "m1", body=b"x" * 300_000, headers=headers, correlation_id="c", reply_to="r", content_type="t/x",
        content_encoding="e", priority=3, expiration="60000", timestamp=1_700_000_000, user_id=URL(amqp_url).user,
    )  # fmt: skip
    async with consuming(amqp_url, namespace) as deliveries, publishing(amqp_url, namespace) as publisher:
        assert await publisher.publish([sent]) == [Confirmed()]
        got = (await take(deliveries, 1))[0]

        got.properties.headers.pop("x-delivery-count", None)  # newer brokers count from the first delivery on
        assert got.body == sent.body
        assert got.properties == sent.properties
        assert (got.exchange, got.routing_key, got.redelivered) == (f"{namespace}.events", "order_placed", False)
        assert got.queue is Source.INBOX


async def test_empty_bodies_and_bodies_of_several_frames_pass(amqp_url: str, namespace: Namespace) -> None:
    sizes = [0, 1, 131_063, 131_064, 131_065, 262_128, 1_000_000]
    messages = [event(namespace, f"m{size}", body=b"x" * size) for size in sizes]
    async with consuming(amqp_url, namespace) as deliveries, publishing(amqp_url, namespace) as publisher:
        assert await publisher.publish(messages) == [Confirmed()] * len(sizes)

        assert [len(d.body) for d in await take(deliveries, len(sizes))] == sizes


@pytest.mark.parametrize("hot_path", ["lean", "public", "bare"], indirect=True)
async def test_only_the_unroutable_of_many_is_reported_unroutable(amqp_url: str, namespace: Namespace) -> None:
    """features: M29"""
    messages = [event(namespace, f"m{n}", type_="nobody" if n % 10 == 3 else "order_placed") for n in range(200)]
    async with consuming(amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        outcomes = await publisher.publish(messages)

    for n, outcome in enumerate(outcomes):
        assert isinstance(outcome, Unroutable if n % 10 == 3 else Confirmed)


async def test_an_event_without_subscriber_is_confirmed(amqp_url: str, namespace: Namespace) -> None:
    """features: M6"""
    async with publishing(amqp_url, namespace) as publisher:
        outcomes = await publisher.publish([event(namespace, "m1", type_="nobody", mandatory=False)])

    assert outcomes == [Confirmed()]


@pytest.mark.parametrize("hot_path", ["lean", "public", "bare"], indirect=True)
async def test_what_the_broker_refuses_for_now_is_unknown(amqp_url: str, namespace: Namespace) -> None:
    small = f"{namespace}.small"
    async with bare_channel(amqp_url) as channel, publishing(amqp_url, namespace) as publisher:
        full: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await channel.declare_queue(small, durable=True, arguments=full)
        taken = Outgoing("", small, b"{}", Properties(message_id="m0"), mandatory=True)
        assert await publisher.publish([taken]) == [Confirmed()]
        refused = [Outgoing("", small, b"{}", Properties(message_id=f"m{n}"), mandatory=True) for n in range(1, 21)]
        others = [event(namespace, f"e{n}", mandatory=False) for n in range(20)]
        outcomes = await publisher.publish([each for pair in zip(refused, others, strict=True) for each in pair])

        assert all(isinstance(outcome, Unknown) and "nack" in outcome.error for outcome in outcomes[::2])
        assert outcomes[1::2] == [Confirmed()] * 20
        await channel.queue_delete(small)


async def test_two_messages_with_one_id_each_get_their_own_outcome(amqp_url: str, namespace: Namespace) -> None:
    messages = [event(namespace, "same", type_=type_) for type_ in ("nobody", "order_placed") * 20]
    async with consuming(amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        outcomes = await publisher.publish(messages)

    assert [isinstance(outcome, Unroutable) for outcome in outcomes] == [True, False] * 20


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"headers": {"rate": float("nan")}}, "headers['rate']"),
        ({"headers": {"a": {"b": object()}}}, "headers['a']['b']"),
        ({"headers": {"big": "x" * 200_000}}, "headers"),
        ({"headers": {"dec": Decimal("1e40")}}, "headers['dec']"),
        ({"headers": {"old": datetime(1969, 1, 1, tzinfo=UTC)}}, "headers['old']"),
        ({"headers": {"text": "\ud800"}}, "headers['text']"),
        ({"headers": {"int": 2**64}}, "headers['int']"),
        ({"priority": 300}, "priority"),
        ({"correlation_id": "x" * 256}, "correlation_id"),
    ],
)
async def test_what_amqp_cannot_carry_is_invalid_and_names_the_field(
    amqp_url: str, namespace: Namespace, change: dict[str, Any], named: str
) -> None:
    good = event(namespace, "good", mandatory=False)
    async with publishing(amqp_url, namespace) as publisher:
        bad, fine = await publisher.publish([event(namespace, "bad", mandatory=False, **change), good])

    assert isinstance(bad, Invalid)
    assert named in bad.error
    assert fine == Confirmed()


async def test_a_routing_key_over_255_bytes_is_invalid(amqp_url: str, namespace: Namespace) -> None:
    message = Outgoing(f"{namespace}.events", "é" * 128, b"{}", Properties(message_id="m1"))
    async with publishing(amqp_url, namespace) as publisher:
        (outcome,) = await publisher.publish([message])

    assert isinstance(outcome, Invalid)
    assert "routing_key" in outcome.error


@pytest.mark.parametrize("hot_path", ["lean", "public", "bare"], indirect=True)
async def test_a_message_that_closes_the_channel_is_found_and_its_neighbours_are_sent(
    amqp_url: str, namespace: Namespace
) -> None:
    missing = Outgoing(f"{namespace}.missing", "k", b"{}", Properties(message_id="guilty"))
    forged = event(namespace, "forged", user_id="somebody_else")
    good = [event(namespace, f"m{n}") for n in range(100)]
    async with consuming(amqp_url, namespace) as deliveries, publishing(amqp_url, namespace) as publisher:
        outcomes = await publisher.publish([*good[:50], missing, forged, *good[50:]])
        taken = {d.properties.message_id for d in await take(deliveries, 100)}

    assert outcomes[:50] + outcomes[52:] == [Confirmed()] * 100
    assert isinstance(outcomes[50], Invalid)
    assert "NOT_FOUND" in outcomes[50].error
    assert isinstance(outcomes[51], Invalid)
    assert taken == {m.properties.message_id for m in good}


@pytest.mark.parametrize("hot_path", ["lean", "public", "bare"], indirect=True)
async def test_a_message_that_closes_the_connection_is_found_and_its_neighbours_are_sent(
    amqp_url: str, namespace: Namespace
) -> None:
    # No property that passes our own check closes the whole connection, so one frame is spoilt on its way.
    def spoil(connection: Connection, direction: Direction, packet: bytes) -> bytes:
        return packet.replace(b"guilty\xce", b"guilty\0")  # the octet that ends a frame

    good = [event(namespace, f"m{n}") for n in range(100)]
    async with (
        FaultProxy.before(amqp_url, hook=spoil) as proxy,
        consuming(amqp_url, namespace) as deliveries,
        publishing(proxy.rewrite(amqp_url), namespace) as publisher,
    ):
        outcomes = await publisher.publish([*good[:50], event(namespace, "guilty", body=b"guilty"), *good[50:]])
        taken = {d.properties.message_id for d in await take(deliveries, 100)}

    assert isinstance(outcomes[50], Invalid)
    assert outcomes[:50] + outcomes[51:] == [Confirmed()] * 100
    assert taken == {m.properties.message_id for m in good}


@pytest.mark.slow
async def test_thousands_of_messages_survive_a_connection_that_is_cut_all_the_time(
    amqp_url: str, namespace: Namespace, hot_path: str
) -> None:
    messages = [event(namespace, f"m{n}") for n in range(THOUSANDS[hot_path])]
    async with FaultProxy.before(amqp_url) as proxy:
        url = proxy.rewrite(amqp_url)
        async with consuming(url, namespace) as deliveries, publishing(url, namespace) as publisher:
            seen: set[str | None] = set()
            cutting = asyncio.create_task(cut_again_and_again(proxy, seen, every=len(messages) // 25))
            sending = asyncio.create_task(publish_all(publisher, messages))
            async with asyncio.timeout(120):
                while len(seen) < len(messages):
                    seen |= {d.properties.message_id for d in await take(deliveries, 1)}
                await sending
                cuts = await cutting

    assert cuts >= 10
    assert seen == {m.properties.message_id for m in messages}


async def cut_again_and_again(proxy: FaultProxy, seen: set[str | None], *, every: int) -> int:
    """Ten times, each when so many messages more have arrived; how often there was something to cut."""
    cuts = 0

    def may_cut() -> bool:
        return len(seen) >= every * cuts and bool(proxy.connections)

    while cuts < 10:
        await eventually(may_cut)
        cuts += proxy.reset() > 0
    return cuts


async def test_publishes_without_an_answer_are_unknown_and_the_next_ones_work(
    amqp_url: str, namespace: Namespace
) -> None:
    async with (
        FaultProxy.before(amqp_url) as proxy,
        publishing(proxy.rewrite(amqp_url), namespace, confirm_seconds=1.0) as publisher,
    ):
        proxy.blackhole(Direction.TO_CLIENT)
        outcomes = await publisher.publish([event(namespace, f"m{n}", mandatory=False) for n in range(10)])
        await proxy.heal()
        proxy.reset()
        await publisher.ready(10)

        assert all(isinstance(outcome, Unknown) for outcome in outcomes)
        assert await publisher.publish([event(namespace, "m1", mandatory=False)]) == [Confirmed()]


@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
async def test_without_a_broker_publishes_end_unknown_after_the_time_limit(amqp_url: str, namespace: Namespace) -> None:
    async with FaultProxy.before(amqp_url) as proxy:
        await proxy.refuse()
        async with publishing(proxy.rewrite(amqp_url), namespace, confirm_seconds=0.5) as publisher:
            outcomes = await publisher.publish([event(namespace, "m1")])

            assert isinstance(outcomes[0], Unknown)
            with pytest.raises(BrokerUnavailable, match="could not be reached"):
                await publisher.ready(0.1)


async def test_what_is_not_acknowledged_comes_again_after_a_cut(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with (
        FaultProxy.before(amqp_url) as proxy,
        publishing(amqp_url, namespace) as publisher,
        consuming(proxy.rewrite(amqp_url), namespace) as deliveries,
    ):
        await publisher.publish([event(namespace, f"m{n}") for n in range(10)])
        batch = await deliveries.next_batch(5)
        assert batch is not None
        proxy.reset()
        await eventually(lambda: deliveries.connects == 2 and deliveries.is_up)
        await deliveries.ack(batch)  # late: of a connection that is gone
        again = await take(deliveries, 10)

        assert {d.properties.message_id for d in again} == {f"m{n}" for n in range(10)}
        assert all(d.redelivered for d in again if d.properties.message_id in ("m0", "m1"))


async def test_a_later_batch_is_not_acknowledged_before_an_earlier_one(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with publishing(amqp_url, namespace) as publisher, consuming(amqp_url, namespace) as deliveries:
        await publisher.publish([event(namespace, f"m{n}") for n in range(10)])
        await eventually(lambda: deliveries.unacknowledged == 10)
        first, second = await deliveries.next_batch(5), await deliveries.next_batch(5)
        assert first is not None
        assert second is not None

        await deliveries.ack(second)
        assert deliveries.unacknowledged == 10
        await deliveries.ack(first)
        assert deliveries.unacknowledged == 0
        assert await deliveries.backlog() == 0  # the channel is alive


async def test_a_deleted_queue_is_declared_bound_and_consumed_again(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with publishing(amqp_url, namespace) as publisher, consuming(amqp_url, namespace) as deliveries:
        async with bare_channel(amqp_url) as channel:
            await channel.queue_delete(f"{namespace}.inbox")
        await eventually(lambda: deliveries.connects == 2 and deliveries.is_up)
        await publish_all(publisher, [event(namespace, "m1")])

        assert (await take(deliveries, 1))[0].properties.message_id == "m1"


async def test_a_consumer_that_died_silently_is_found_by_the_watchdog(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with (
        publishing(amqp_url, namespace) as publisher,
        consuming(amqp_url, namespace, watchdog_seconds=0.2) as deliveries,
    ):
        assert deliveries._channel is not None
        await deliveries._channel.cancel()  # as when the broker forgets the consumer
        await eventually(lambda: deliveries.connects == 2 and deliveries.is_up)
        await publisher.publish([event(namespace, "m1")])

        assert (await take(deliveries, 1))[0].properties.message_id == "m1"


async def test_a_pause_keeps_what_is_in_hand_and_takes_nothing_more(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with publishing(amqp_url, namespace) as publisher, consuming(amqp_url, namespace) as deliveries:
        await publisher.publish([event(namespace, "m1")])
        await eventually(lambda: deliveries.unacknowledged == 1)
        await deliveries.pause()
        await publisher.publish([event(namespace, "m2")])

        assert [d.properties.message_id for d in await take(deliveries, 1)] == ["m1"]
        assert await deliveries.backlog() == 1
        assert deliveries.unacknowledged == 0
        await deliveries.resume()
        assert [d.properties.message_id for d in await take(deliveries, 1)] == ["m2"]


async def test_more_than_the_byte_budget_is_left_in_the_socket_until_it_is_acknowledged(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    count, size = 60, 1_000_000
    async with (
        publishing(amqp_url, namespace) as publisher,
        consuming(amqp_url, namespace, byte_budget=4 * size) as deliveries,
    ):
        await publisher.publish([event(namespace, f"m{n}", body=b"x" * size) for n in range(count)])
        await eventually(lambda: deliveries.unacknowledged >= 4)
        in_hand = deliveries.unacknowledged
        taken = await take(deliveries, count, limit=2)

        assert in_hand < 8
        assert [d.properties.message_id for d in taken] == [f"m{n}" for n in range(count)]


async def test_properties_that_are_not_utf8_arrive_and_cost_nobody_the_connection(
    amqp_url: str, namespace: Namespace
) -> None:
    headers = {"h\udce9": "v\udce9"}
    messages = [event(namespace, f"m{n}") for n in range(100)]
    messages[30] = event(namespace, "caf\udce9", headers=headers, correlation_id="\udcff")
    async with consuming(amqp_url, namespace) as deliveries, publishing(amqp_url, namespace, path="lean") as publisher:
        await publisher.publish(messages)
        got = await take(deliveries, 100)

        assert [d.properties.message_id for d in got] == [m.properties.message_id for m in messages]
        assert (got[30].exchange, got[30].routing_key) == (f"{namespace}.events", "order_placed")
        assert (got[30].properties.correlation_id, got[30].properties.headers["h\udce9"]) == ("\udcff", "v\udce9")
        assert deliveries.connects == 1


async def test_a_routing_key_that_is_not_utf8_arrives(amqp_url: str, namespace: Namespace) -> None:
    message = Outgoing(f"{namespace}.events", "caf\udce9", b"{}", Properties(message_id="m1"))
    async with (
        consuming(amqp_url, namespace) as deliveries,
        publishing(amqp_url, namespace, path="lean") as publisher,
        bare_channel(amqp_url) as channel,
    ):
        inbox = await channel.get_queue(f"{namespace}.inbox", ensure=False)
        await inbox.bind(f"{namespace}.events", "#")
        assert await publisher.publish([message]) == [Confirmed()]

        assert [d.routing_key for d in await take(deliveries, 1)] == ["caf\udce9"]
        assert deliveries.connects == 1


async def test_a_time_that_the_library_takes_for_milliseconds_arrives_as_sent(
    amqp_url: str, namespace: Namespace
) -> None:
    async with consuming(amqp_url, namespace) as deliveries, publishing(amqp_url, namespace) as publisher:
        await publisher.publish([event(namespace, "m1", timestamp=200_000_000_000)])

        assert [d.properties.timestamp for d in await take(deliveries, 1)] == [200_000_000_000]


async def test_a_returned_message_whose_headers_are_not_utf8_costs_nobody_the_connection(
    amqp_url: str, namespace: Namespace
) -> None:
    odd = event(namespace, "odd", type_="nobody", correlation_id="\udcff", headers={"h\udce9": "v\udce9"})
    async with consuming(amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        session = publisher._session
        outcomes = await publisher.publish([event(namespace, "m1"), odd, event(namespace, "m2")])

        assert [type(outcome) for outcome in outcomes] == [Confirmed, Unroutable, Confirmed]
        assert publisher._session is session


@pytest.mark.parametrize("hot_path", ["public"], indirect=True)
@pytest.mark.parametrize(
    ("exchange", "message_id", "named"),
    [("caf\u00e9", "m1", "exchange"), ("e" * 128, "m1", "exchange"), ("commands", "caf\udce9", "message_id")],
)
async def test_what_only_the_client_library_cannot_carry_is_invalid(
    amqp_url: str, namespace: Namespace, exchange: str, message_id: str, named: str
) -> None:
    message = Outgoing(exchange, "k", b"{}", Properties(message_id=message_id))
    async with publishing(amqp_url, namespace) as publisher:
        bad, fine = await publisher.publish([message, event(namespace, "good", mandatory=False)])

    assert isinstance(bad, Invalid)
    assert named in bad.error
    assert fine == Confirmed()


async def test_what_the_broker_gives_up_comes_from_the_dead_queue(amqp_url: str, namespace: Namespace) -> None:
    async with publishing(amqp_url, namespace) as publisher, consuming(amqp_url, namespace) as deliveries:
        await deliveries.pause()
        await publisher.publish([event(namespace, "m1")])
        async with bare_channel(amqp_url) as channel:
            inbox = await channel.get_queue(f"{namespace}.inbox", ensure=False)
            got = await inbox.get()
            assert got is not None
            await got.reject(requeue=False)
        await deliveries.resume()
        delivery = (await take(deliveries, 1))[0]

        assert (delivery.queue, delivery.routing_key) == (Source.DEAD, "order_placed")
        assert delivery.properties.message_id == "m1"


async def test_a_reply_through_the_default_exchange_shows_it(amqp_url: str, namespace: Namespace) -> None:
    async with consuming(amqp_url, namespace) as deliveries, bare_channel(amqp_url) as channel:
        await channel.default_exchange.publish(Message(b"{}", message_id="m1"), f"{namespace}.inbox")
        delivery: Delivery = (await take(deliveries, 1))[0]

        assert (delivery.exchange, delivery.routing_key) == ("", f"{namespace}.inbox")


@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
async def test_a_queue_with_other_arguments_is_a_configuration_error(amqp_url: str, namespace: Namespace) -> None:
    async with bare_channel(amqp_url) as channel:
        await channel.declare_queue(f"{namespace}.inbox", durable=True)

    with pytest.raises(ConfigurationError, match=rf"queue {namespace}\.inbox exists with other properties"):
        async with consuming(amqp_url, namespace):
            pass


@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda url: url.with_password("canary-wrong"), "refused the login of user"),
        (lambda url: url.with_path("/canary-vhost"), "refused the virtual host"),
        (lambda url: "http://user:canary@host", "is not a broker URL"),
        (lambda url: "amqp://user:canary@host:port", "is not a broker URL"),
    ],
)
@pytest.mark.rabbitmq
async def test_a_wrong_url_is_a_configuration_error_without_the_password(
    amqp_url: str, spoil: Callable[[URL], object], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        publisher = Publisher(BrokerConnection(str(spoil(URL(amqp_url))), "publish"), Topology("t"))
        await publisher.start()

    assert "canary-wrong" not in str(caught.value)
    assert ":canary@" not in str(caught.value)


async def test_after_a_broker_that_was_away_for_long_everything_goes_on(
    amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with FaultProxy.before(amqp_url) as proxy:
        url = proxy.rewrite(amqp_url)
        async with publishing(url, namespace) as publisher, consuming(url, namespace) as deliveries:
            await proxy.refuse()
            proxy.reset()
            await eventually(lambda: not publisher.is_up and not deliveries.is_up)
            await proxy.heal()
            await publish_all(publisher, [event(namespace, "m1")])

            assert (await take(deliveries, 1))[0].properties.message_id == "m1"


@pytest.mark.slow
@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
async def test_heartbeats_reach_the_library_though_the_tap_takes_every_delivery(
    amqp_url: str, namespace: Namespace
) -> None:
    """The library gives up after 3 * (1 + 1) s of silence, and a broker that delivers sends no heartbeat."""
    async with (
        publishing(amqp_url, namespace) as publisher,
        consuming(amqp_url, namespace, heartbeat_seconds=1) as deliveries,
    ):
        began = time.monotonic()
        while time.monotonic() - began < 8:
            await publisher.publish([event(namespace, str(uuid4()))])
            await take(deliveries, 1)

        assert deliveries.connects == 1


async def test_a_message_without_id_is_invalid(amqp_url: str, namespace: Namespace) -> None:
    async with publishing(amqp_url, namespace) as publisher:
        (outcome,) = await publisher.publish([event(namespace, "")])

    assert isinstance(outcome, Invalid)
    assert "message_id" in outcome.error


@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
def test_the_place_of_a_connection_shows_no_password() -> None:
    assert BrokerConnection("amqp://u:canary@h:1/v", "publish").place == "h:1/v"


@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
@pytest.mark.rabbitmq_server
@pytest.mark.slow
async def test_while_an_alarm_blocks_publishing_publishes_are_unknown_and_consuming_goes_on(
    private_rabbitmq: LocalRabbitmq, namespace: Namespace, eventually: Eventually
) -> None:
    url = private_rabbitmq.url
    async with consuming(url, namespace) as deliveries, publishing(url, namespace, confirm_seconds=2) as publisher:
        await publisher.publish([event(namespace, f"m{n}") for n in range(3)])
        await asyncio.to_thread(private_rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            (outcome,) = await publisher.publish([event(namespace, "m3")])
            taken = await take(deliveries, 3)
        finally:
            await asyncio.to_thread(private_rabbitmq.ctl, "set_vm_memory_high_watermark", "0.6")
        await eventually(lambda: publisher.is_up)

        assert isinstance(outcome, Unknown)
        assert len(taken) == 3
        assert deliveries.connects == 1
        await publish_all(publisher, [event(namespace, "m3")])
        assert {d.properties.message_id for d in await take(deliveries, 1)} == {"m3"}


@pytest.mark.parametrize("hot_path", ["lean"], indirect=True)
@pytest.mark.rabbitmq_server
@pytest.mark.slow
async def test_a_broker_that_freezes_is_given_up_and_found_again_when_it_thaws(
    private_rabbitmq: LocalRabbitmq, namespace: Namespace, eventually: Eventually
) -> None:
    url = private_rabbitmq.url
    async with (
        consuming(url, namespace, heartbeat_seconds=1) as deliveries,
        publishing(url, namespace, heartbeat_seconds=1) as publisher,
    ):
        private_rabbitmq.pause()
        try:
            await eventually(lambda: not deliveries.is_up and not publisher.is_up)
        finally:
            private_rabbitmq.resume()
        await eventually(lambda: deliveries.is_up)
        await publish_all(publisher, [event(namespace, "m1")])

        assert (await take(deliveries, 1))[0].properties.message_id == "m1"
