"""The trial broker does what RabbitMQ does.

Every claim runs against both through real clients; where there is no RabbitMQ, its half is skipped. Claims about the
trial broker alone stand at the end. Order: names, routing, publishing, consuming, dead letters, faults. One long
file, because it is one list of what "the same" means.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aio_pika
import pika
import pika.exceptions
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from aiormq import exceptions as amqp
from pamqp import commands
from pamqp import frame as pamqp_frame
from pamqp.body import ContentBody
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from saga_worker.trial.broker import TrialBroker

DEADLINE = 30.0
T = TypeVar("T")
QUORUM = {"x-queue-type": "quorum"}


# ── servers and clients ──────────────────────────────────────────────────────────────────────────────────────────────


def start_trial_process(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "saga_worker.trial.broker", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


@pytest.fixture(scope="module")
def trial_url() -> Iterator[str]:
    process, url = start_trial_process("--port", "0")
    yield url
    process.terminate()
    process.communicate(timeout=DEADLINE)


@pytest.fixture(params=["trial", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "trial":
        return str(request.getfixturevalue("trial_url"))
    real = str(request.getfixturevalue("real_amqp_url"))
    return str(request.getfixturevalue("partitioned_amqp_url")) if request.param == "rabbitmq with plugin" else real


class Desk:
    """A client with names of its own, which cleans up what it made."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"parity.{uuid.uuid4().hex[:10]}"
        self._queues: list[str] = []
        self._exchanges: list[str] = []
        self._connections: list[aio_pika.abc.AbstractConnection] = []
        self._raw_clients: list[RawClient] = []

    async def connect(self) -> aio_pika.abc.AbstractConnection:
        connection = await aio_pika.connect(self.url)
        self._connections.append(connection)
        return connection

    async def channel(self) -> AbstractChannel:
        """On a connection of its own, so that a fault of one does not touch another."""
        return await (await self.connect()).channel(on_return_raises=True)

    async def raw_client(self, *, heartbeat: int = 0) -> "RawClient":
        client = await RawClient.open(self.url, heartbeat=heartbeat)
        self._raw_clients.append(client)
        return client

    def name(self, label: str) -> str:
        return f"{self._prefix}.{label}"

    async def queue(
        self, channel: AbstractChannel, label: str = "queue", arguments: dict[str, Any] | None = None, **flags: Any
    ) -> AbstractQueue:
        self._queues.append(self.name(label))
        return await channel.declare_queue(self.name(label), **({"durable": True} | flags), arguments=arguments)

    async def exchange(
        self, channel: AbstractChannel, kind: str = "fanout", label: str = "exchange", **options: Any
    ) -> AbstractExchange:
        self._exchanges.append(self.name(label))
        return await channel.declare_exchange(self.name(label), kind, **options)

    async def close(self) -> None:
        for client in self._raw_clients:
            client.writer.close()
            with suppress(ConnectionError):
                await client.writer.wait_closed()
        for connection in self._connections:
            with suppress(amqp.AMQPError):
                await connection.close()
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            for name in self._queues:
                await channel.queue_delete(name)
            for name in self._exchanges:
                await channel.exchange_delete(name)


class RawClient:
    """Frames by hand, for what no well-behaved client does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._data = b""

    @classmethod
    async def open(cls, url: str, *, heartbeat: int = 0) -> "RawClient":
        """Through the handshake, with channel 1 open."""
        parameters = pika.URLParameters(url)
        client = cls(*await asyncio.open_connection(parameters.host, parameters.port))
        client.writer.write(b"AMQP\x00\x00\x09\x01")
        await client.read_until(commands.Connection.Start)
        login: Any = parameters.credentials
        client.write(0, commands.Connection.StartOk(response=f"\0{login.username}\0{login.password}"))
        tune = await client.read_until(commands.Connection.Tune)
        client.write(0, commands.Connection.TuneOk(tune.channel_max, tune.frame_max, heartbeat))
        client.write(0, commands.Connection.Open(parameters.virtual_host))
        await client.read_until(commands.Connection.OpenOk)
        client.write(1, commands.Channel.Open())
        await client.read_until(commands.Channel.OpenOk)
        return client

    def write(self, channel: int, frame: Any) -> None:
        self.writer.write(pamqp_frame.marshal(frame, channel))

    async def read_until(self, kind: Any) -> Any:
        """The next frame of the kind; `ConnectionError` when the broker hangs up before."""
        async with asyncio.timeout(DEADLINE):
            while True:
                frame = await self._read()
                if isinstance(frame, kind):
                    return frame

    async def _read(self) -> Any:
        while True:
            _, _, size = pamqp_frame.frame_parts(self._data)
            if size is not None and len(self._data) >= size + 8:
                used, _, frame = pamqp_frame.unmarshal(self._data)
                self._data = self._data[used:]
                return frame
            more = await self.reader.read(65536)
            if not more:
                raise ConnectionError("the broker closed the connection")
            self._data += more

    def cut(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def desk(url: str) -> AsyncIterator[Desk]:
    desk = Desk(url)
    yield desk
    await desk.close()


@pytest.fixture
async def channel(desk: Desk) -> AbstractChannel:
    return await desk.channel()


async def eventually(check: Callable[[], Awaitable[T]]) -> T:
    """The first true answer."""
    async with asyncio.timeout(DEADLINE):
        while not (answer := await check()):  # noqa: ASYNC110 - another process, which signals nothing
            await asyncio.sleep(0.01)
    return answer


async def send(channel: AbstractChannel, key: str, *bodies: str, **properties: Any) -> None:
    for body in bodies:
        await channel.default_exchange.publish(Message(body.encode(), **properties), routing_key=key)


async def take(queue: AbstractQueue, *, no_ack: bool = False) -> AbstractIncomingMessage:
    async def get() -> AbstractIncomingMessage | None:
        return await queue.get(fail=False, no_ack=no_ack)

    message = await eventually(get)
    assert message is not None
    return message


async def take_all(queue: AbstractQueue, count: int) -> list[str]:
    return [(await take(queue, no_ack=True)).body.decode() for _ in range(count)]


class Deliveries:
    """What a consumer was given, in order."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        self.tag = ""

    async def next(self) -> AbstractIncomingMessage:
        async with asyncio.timeout(DEADLINE):
            return await self.messages.get()

    async def bodies(self, count: int) -> list[str]:
        return [(await self.next()).body.decode() for _ in range(count)]


async def consume(queue: AbstractQueue, **options: Any) -> Deliveries:
    deliveries = Deliveries()
    deliveries.tag = await queue.consume(deliveries.messages.put, **options)
    return deliveries


async def waiting(desk: Desk, queue: AbstractQueue) -> int:
    """Messages in the queue that nobody holds; also a round trip, after which earlier deliveries have arrived."""
    channel = await (await desk.connect()).channel()
    return (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count or 0


async def open_again(channel: AbstractChannel) -> bool:
    """The channel still answers."""
    try:
        await channel.declare_exchange("amq.direct", passive=True)
    except (amqp.AMQPError, RuntimeError):
        return False
    return True


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_declaration_again_changes_nothing(desk: Desk, channel: AbstractChannel) -> None:
    first = await desk.queue(channel, arguments={"x-max-length": 3})
    await send(channel, first.name, "a")

    again = await desk.queue(channel, arguments={"x-max-length": 3})

    assert again.declaration_result.message_count == 1


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [({"x-max-length": 4}, {}), ({}, {}), ({"x-max-length": 3}, {"auto_delete": True})],
    ids=["other value", "missing argument", "other flag"],
)
async def test_a_different_queue_declaration_is_refused(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any], flags: dict[str, Any]
) -> None:
    await desk.queue(channel, arguments={"x-max-length": 3})

    with pytest.raises(amqp.ChannelPreconditionFailed, match="inequivalent arg"):
        await desk.queue(channel, arguments=arguments, **flags)


async def test_a_different_exchange_declaration_is_refused(desk: Desk, channel: AbstractChannel) -> None:
    await desk.exchange(channel, "topic")

    with pytest.raises(amqp.ChannelPreconditionFailed, match="inequivalent arg 'type'"):
        await desk.exchange(channel, "fanout")


async def test_looking_for_a_missing_queue_finds_nothing(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ChannelNotFoundEntity, match="no queue"):
        await channel.declare_queue(desk.name("absent"), passive=True)


async def test_looking_for_a_missing_exchange_finds_nothing(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ChannelNotFoundEntity, match="no exchange"):
        await channel.declare_exchange(desk.name("absent"), passive=True)


async def test_a_fault_closes_its_channel_only(desk: Desk) -> None:
    connection = await desk.connect()
    guilty, bystander = await connection.channel(), await connection.channel()

    with pytest.raises(amqp.ChannelNotFoundEntity):
        await guilty.declare_queue(desk.name("absent"), passive=True)

    assert (await open_again(guilty), await open_again(bystander)) == (False, True)


async def test_an_unknown_exchange_type_closes_the_connection(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ConnectionCommandInvalid, match="unknown exchange type"):
        await desk.exchange(channel, "x-unheard-of")


async def test_names_that_begin_with_amq_are_reserved(channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ChannelAccessRefused, match="reserved prefix"):
        await channel.declare_queue("amq.mine", durable=True)


async def test_the_default_exchange_cannot_be_bound(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)

    with pytest.raises(amqp.ChannelAccessRefused, match="default exchange"):
        await queue.bind("", "key")


async def test_binding_to_a_missing_exchange_is_refused(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)

    with pytest.raises(amqp.ChannelNotFoundEntity, match="no exchange"):
        await queue.bind(desk.name("absent"), "key")


async def test_deleting_what_is_missing_is_no_fault(desk: Desk, channel: AbstractChannel) -> None:
    await channel.queue_delete(desk.name("absent"))
    await channel.exchange_delete(desk.name("absent"))

    assert await open_again(channel)


async def test_removing_a_missing_binding_is_no_fault(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)

    await queue.unbind("amq.direct", "never bound")

    assert await open_again(channel)


async def test_a_queue_without_a_name_gets_one(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue(exclusive=True)

    assert queue.name.startswith("amq.gen-")


async def test_an_exclusive_queue_is_closed_to_other_connections(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, exclusive=True)
    other = await desk.channel()

    with pytest.raises(amqp.ChannelLockedResource):
        await (await other.get_queue(queue.name, ensure=False)).get(fail=False)


async def test_an_exclusive_queue_ends_with_its_connection(desk: Desk) -> None:
    connection = await desk.connect()
    queue = await desk.queue(await connection.channel(), exclusive=True)
    await connection.close()

    with pytest.raises(amqp.ChannelNotFoundEntity):
        await (await desk.channel()).declare_queue(queue.name, passive=True)


async def test_an_auto_delete_queue_ends_with_its_last_consumer(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, auto_delete=True)
    deliveries = await consume(queue)
    await queue.cancel(deliveries.tag)

    with pytest.raises(amqp.ChannelNotFoundEntity):
        await channel.declare_queue(queue.name, passive=True)


async def test_an_auto_delete_exchange_ends_with_its_last_binding(desk: Desk, channel: AbstractChannel) -> None:
    exchange, queue = await desk.exchange(channel, auto_delete=True), await desk.queue(channel)
    await queue.bind(exchange)
    await queue.unbind(exchange)

    with pytest.raises(amqp.ChannelNotFoundEntity):
        await channel.declare_exchange(exchange.name, passive=True)


async def test_an_unused_queue_ends_after_its_period(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments={"x-expires": 50})

    async def is_gone() -> bool:
        try:
            await (await desk.channel()).declare_queue(queue.name, passive=True)
        except amqp.ChannelNotFoundEntity:
            return True
        await asyncio.sleep(0.1)  # looking counts as use, so look seldom
        return False

    assert await eventually(is_gone)


async def test_a_purge_removes_what_waits_and_counts_it(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, "a", "b", "c")
    held = await take(queue)

    purged = await queue.purge()
    await held.nack(requeue=True)

    assert (purged.message_count, await take_all(queue, 1)) == (2, ["a"])


async def test_a_queue_with_messages_is_not_deleted_if_it_must_be_empty(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, "a")

    with pytest.raises(amqp.ChannelPreconditionFailed, match="not empty"):
        await queue.delete(if_unused=False, if_empty=True)


async def test_a_queue_with_consumers_is_not_deleted_if_it_must_be_unused(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await consume(queue)

    with pytest.raises(amqp.ChannelPreconditionFailed, match="in use"):
        await queue.delete(if_unused=True, if_empty=False)


async def test_a_quorum_queue_cannot_be_deleted_conditionally(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments=QUORUM)

    with pytest.raises(amqp.ConnectionNotImplemented):
        await queue.delete(if_unused=True)


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (QUORUM, {"durable": False, "exclusive": True}),
        (QUORUM, {"auto_delete": True}),
        ({"x-delivery-limit": 3}, {}),
        ({"x-message-ttl": -1}, {}),
        ({"x-message-ttl": "soon"}, {}),
        ({"x-overflow": "explode"}, {}),
        ({"x-queue-type": "unheard-of"}, {}),
        ({"x-dead-letter-routing-key": "alone"}, {}),
    ],
    ids=lambda value: str(value),
)
async def test_a_queue_that_makes_no_sense_is_refused(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any], flags: dict[str, Any]
) -> None:
    with pytest.raises(amqp.ChannelPreconditionFailed, match="invalid"):
        await desk.queue(channel, arguments=arguments, **flags)


# ── routing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("order.placed", "order.placed", True),
        ("order.placed", "order.paid", False),
        ("order.*", "order.placed", True),
        ("order.*", "order", False),
        ("order.*", "order.placed.twice", False),
        ("*.placed", "order.placed", True),
        ("*", "", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("order.#", "order", True),
        ("order.#", "order.a.b", True),
        ("#.b", "a.a.b", True),
        ("#.b", "b", True),
        ("#.b", "a.b.c", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("a.#.*", "a", False),
        ("a.#.*", "a.b", True),
        ("*.#.x.#", "x.x", True),
        ("*.#.x.#", "x", False),
    ],
)
async def test_topic_patterns_match_words(
    desk: Desk, channel: AbstractChannel, pattern: str, key: str, matches: bool
) -> None:
    exchange, queue = await desk.exchange(channel, "topic"), await desk.queue(channel)
    await queue.bind(exchange, pattern)

    assert await is_routed(exchange, key) is matches


async def is_routed(exchange: AbstractExchange, key: str = "") -> bool:
    try:
        await exchange.publish(Message(b""), routing_key=key, mandatory=True)
    except amqp.PublishError:
        return False
    return True


async def test_a_direct_exchange_compares_the_whole_key(desk: Desk, channel: AbstractChannel) -> None:
    exchange, queue = await desk.exchange(channel, "direct"), await desk.queue(channel)
    await queue.bind(exchange, "a.b")

    assert (await is_routed(exchange, "a.b"), await is_routed(exchange, "a.*")) == (True, False)


async def test_a_fanout_exchange_feeds_every_queue(desk: Desk, channel: AbstractChannel) -> None:
    exchange = await desk.exchange(channel, "fanout")
    first, second = await desk.queue(channel, "first"), await desk.queue(channel, "second")
    await first.bind(exchange, "ignored")
    await second.bind(exchange)

    await exchange.publish(Message(b"a"), routing_key="whatever")

    assert (await take_all(first, 1), await take_all(second, 1)) == (["a"], ["a"])


async def test_a_queue_gets_one_copy_however_often_it_is_bound(desk: Desk, channel: AbstractChannel) -> None:
    exchange, queue = await desk.exchange(channel, "topic"), await desk.queue(channel)
    for pattern in ("#", "a.*", "*.b", "a.b"):
        await queue.bind(exchange, pattern)

    await exchange.publish(Message(b"once"), routing_key="a.b")
    await exchange.publish(Message(b"end"), routing_key="a.b")

    assert await take_all(queue, 2) == ["once", "end"]


async def test_a_removed_binding_routes_no_more(desk: Desk, channel: AbstractChannel) -> None:
    exchange, queue = await desk.exchange(channel, "topic"), await desk.queue(channel)
    await queue.bind(exchange, "a.#")
    await queue.bind(exchange, "a.b.#")
    await queue.unbind(exchange, "a.#")

    assert (await is_routed(exchange, "a.c"), await is_routed(exchange, "a.b.c")) == (False, True)


async def test_a_deleted_queue_is_not_routed_to(desk: Desk, channel: AbstractChannel) -> None:
    exchange, queue = await desk.exchange(channel, "fanout"), await desk.queue(channel)
    await queue.bind(exchange)
    await channel.queue_delete(queue.name)

    assert not await is_routed(exchange)


async def test_an_exchange_feeds_an_exchange(desk: Desk, channel: AbstractChannel) -> None:
    source = await desk.exchange(channel, "topic", "source")
    target, queue = await desk.exchange(channel, "direct", "target"), await desk.queue(channel)
    await target.bind(source, "a.*")
    await queue.bind(target, "a.b")

    assert (await is_routed(source, "a.b"), await is_routed(source, "a.c")) == (True, False)


async def test_an_alternate_exchange_gets_what_finds_no_queue(desk: Desk, channel: AbstractChannel) -> None:
    fallback, queue = await desk.exchange(channel, "fanout", "fallback"), await desk.queue(channel)
    await queue.bind(fallback)
    exchange = await desk.exchange(channel, "direct", arguments={"alternate-exchange": fallback.name})

    await exchange.publish(Message(b"lost"), routing_key="nowhere")

    message = await take(queue)
    assert (message.body, message.exchange, message.routing_key) == (b"lost", exchange.name, "nowhere")


# ── publishing ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_publishes_in_flight_are_all_confirmed(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments=QUORUM)
    exchange = channel.default_exchange

    answers = await asyncio.gather(*(exchange.publish(Message(b"x"), routing_key=queue.name) for _ in range(200)))

    assert {type(answer) for answer in answers} == {commands.Basic.Ack}


async def test_an_unroutable_mandatory_message_comes_back(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.PublishError) as caught:
        await channel.default_exchange.publish(
            Message(b"body", message_id="m1"), routing_key=desk.name("absent"), mandatory=True
        )

    returned = caught.value.message
    assert returned is not None
    assert (returned.body, returned.header.properties.message_id) == (b"body", "m1")
    assert isinstance(returned.delivery, commands.Basic.Return)
    assert (returned.delivery.reply_code, returned.delivery.reply_text) == (312, "NO_ROUTE")


async def test_a_return_comes_before_its_confirm(desk: Desk) -> None:
    def publish() -> None:
        with pika.BlockingConnection(pika.URLParameters(desk.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", desk.name("absent"), b"x", mandatory=True)

    with pytest.raises(pika.exceptions.UnroutableError):
        await asyncio.to_thread(publish)


async def test_an_unroutable_message_that_is_not_mandatory_is_confirmed(desk: Desk, channel: AbstractChannel) -> None:
    answer = await channel.default_exchange.publish(Message(b""), routing_key=desk.name("absent"), mandatory=False)

    assert isinstance(answer, commands.Basic.Ack)


async def test_publishing_to_a_missing_exchange_closes_the_channel(desk: Desk, channel: AbstractChannel) -> None:
    exchange = await channel.get_exchange(desk.name("absent"), ensure=False)

    with pytest.raises(amqp.ChannelNotFoundEntity, match="no exchange"):
        await exchange.publish(Message(b""), routing_key="")


async def test_clients_cannot_publish_to_an_internal_exchange(desk: Desk, channel: AbstractChannel) -> None:
    exchange = await desk.exchange(channel, internal=True)

    with pytest.raises(amqp.ChannelAccessRefused):
        await (await channel.get_exchange(exchange.name, ensure=False)).publish(Message(b""), routing_key="")


async def test_a_full_queue_refuses_if_told_to(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    await send(channel, queue.name, "a", "b")

    with pytest.raises(amqp.DeliveryError):
        await send(channel, queue.name, "c")

    assert await take_all(queue, 2) == ["a", "b"]
    await send(channel, queue.name, "d")


async def test_a_refusal_among_many_hits_the_right_message(desk: Desk, channel: AbstractChannel) -> None:
    full = await desk.queue(channel, "full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    free = await desk.queue(channel, "free")
    await send(channel, full.name, "a")
    targets = [free.name, full.name, free.name, full.name, free.name]

    answers = await asyncio.gather(*(send(channel, name, "b") for name in targets), return_exceptions=True)

    assert [isinstance(answer, amqp.DeliveryError) for answer in answers] == [False, True, False, True, False]


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 400_000])
async def test_bodies_of_any_size_arrive_whole(desk: Desk, channel: AbstractChannel, size: int) -> None:
    queue = await desk.queue(channel)
    body = os.urandom(size)

    await channel.default_exchange.publish(Message(body), routing_key=queue.name)

    assert (await take(queue)).body == body


async def test_bodies_are_split_to_the_frame_size_of_the_client(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    body = os.urandom(20_000)

    def round_trip() -> Any:
        parameters = pika.URLParameters(desk.url)
        parameters.frame_max = 4096
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", queue.name, body)
            return channel.basic_get(queue.name, auto_ack=True)[2] or b""

    assert await asyncio.to_thread(round_trip) == body


@pytest.mark.parametrize("arguments", [{}, QUORUM], ids=["classic", "quorum"])
async def test_properties_and_headers_arrive_as_they_were_sent(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> None:
    queue = await desk.queue(channel, arguments=arguments)
    headers = {"text": "ä", "int": 2**40, "true": True, "float": 1.5, "none": None, "list": [1, "b"], "table": {"a": 1}}
    properties = {
        "message_id": "m",
        "correlation_id": "c",
        "reply_to": "r",
        "type": "t",
        "app_id": "a",
        "user_id": "guest",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "priority": 3,
        "delivery_mode": aio_pika.DeliveryMode.PERSISTENT,
        "timestamp": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }

    await send(channel, queue.name, "{}", headers=headers, **properties)

    got = await take(queue)
    assert {name: getattr(got, name) for name in properties} == properties
    assert {name: value for name, value in got.headers.items() if name != "x-delivery-count"} == headers


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
async def test_a_header_that_is_no_number_closes_the_connection(
    desk: Desk, channel: AbstractChannel, number: float
) -> None:
    with pytest.raises(amqp.ConnectionInternalError):
        await send(channel, desk.name("absent"), "", headers={"n": number})


async def test_headers_larger_than_a_frame_close_the_connection(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ConnectionFrameError, match="frame_too_large"):
        await send(channel, desk.name("absent"), "", headers={"n": "x" * 200_000})


async def test_immediate_is_not_implemented(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ConnectionNotImplemented, match="immediate"):
        await channel.default_exchange.publish(Message(b""), routing_key=desk.name("absent"), immediate=True)


async def test_nobody_publishes_in_the_name_of_another(desk: Desk, channel: AbstractChannel) -> None:
    with pytest.raises(amqp.ChannelPreconditionFailed, match="user_id"):
        await send(channel, desk.name("absent"), "", user_id="somebody")


async def test_an_expiration_that_is_no_number_is_refused(desk: Desk, channel: AbstractChannel) -> None:
    underlay = await channel.get_underlay_channel()

    with pytest.raises(amqp.ChannelPreconditionFailed, match="invalid expiration"):
        await underlay.basic_publish(
            b"", routing_key=desk.name("absent"), properties=commands.Basic.Properties(expiration="soon")
        )


# ── consuming ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", [{}, QUORUM], ids=["classic", "quorum"])
async def test_messages_arrive_in_the_order_of_publishing(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> None:
    queue = await desk.queue(channel, arguments=arguments)
    bodies = [str(number) for number in range(50)]
    await send(channel, queue.name, *bodies[:25])
    deliveries = await consume(queue, no_ack=True)
    await send(channel, queue.name, *bodies[25:])

    assert await deliveries.bodies(50) == bodies


async def test_a_consumer_gets_no_more_than_its_prefetch(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"abcdefgh")
    await channel.set_qos(3)
    deliveries = await consume(queue)

    held = [await deliveries.next() for _ in range(3)]

    assert (await waiting(desk, queue), deliveries.messages.empty()) == (5, True)
    await held[1].ack()
    assert (await deliveries.next()).body == b"d"


async def test_prefetch_counts_for_each_consumer(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await channel.set_qos(2)
    first, second = await consume(queue), await consume(queue)

    await send(channel, queue.name, *"abcdef")

    assert sorted(await first.bodies(2) + await second.bodies(2)) == list("abcd")
    assert await waiting(desk, queue) == 2


async def test_prefetch_holds_for_consumers_that_start_later(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await channel.set_qos(1)
    deliveries = await consume(queue)
    await channel.set_qos(10)

    await send(channel, queue.name, *"abc")

    assert (await deliveries.bodies(1), await waiting(desk, queue)) == (["a"], 2)


async def test_one_ack_settles_everything_up_to_its_tag(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"abcde")
    held = [await take(queue) for _ in range(5)]

    await held[3].ack(multiple=True)
    await channel.close()

    assert await take_all(await desk.queue(await desk.channel()), 1) == ["e"]
    assert await waiting(desk, queue) == 0


async def test_one_nack_requeues_everything_up_to_its_tag(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"abcde")
    held = [await take(queue) for _ in range(4)]

    await held[2].nack(multiple=True, requeue=True)

    assert await take_all(queue, 4) == ["a", "b", "c", "e"]


@pytest.mark.parametrize("multiple", [False, True])
async def test_an_unknown_delivery_tag_closes_the_channel(desk: Desk, channel: AbstractChannel, multiple: bool) -> None:
    closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    channel.close_callbacks.add(lambda _, error: closed.set_result(error))

    await (await channel.get_underlay_channel()).basic_ack(77, multiple=multiple)

    async with asyncio.timeout(DEADLINE):
        assert "unknown delivery tag 77" in str(await closed)


async def test_a_delivery_is_settled_once(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, "a")
    message = await take(queue)
    assert message.delivery_tag is not None
    closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    channel.close_callbacks.add(lambda _, error: closed.set_result(error))
    underlay = await channel.get_underlay_channel()

    await underlay.basic_ack(message.delivery_tag)
    await underlay.basic_ack(message.delivery_tag)

    async with asyncio.timeout(DEADLINE):
        assert isinstance(await closed, amqp.ChannelPreconditionFailed)


@pytest.mark.parametrize("arguments", [{}, QUORUM | {"x-delivery-limit": 5}], ids=["classic", "quorum"])
async def test_a_requeued_message_is_next_and_marked(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> None:
    queue = await desk.queue(channel, arguments=arguments)
    await send(channel, queue.name, *"abc")
    first = await take(queue)
    assert first.redelivered is False

    await first.reject(requeue=True)

    async def comes_back() -> AbstractIncomingMessage | None:
        message = await take(queue)
        return message if message.redelivered else None

    again = await eventually(comes_back)
    assert again is not None
    assert (again.body, await take_all(queue, 1)) == (b"a", ["b"])


async def test_messages_requeued_out_of_order_return_to_their_places(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"abcdef")
    held = [await take(queue) for _ in range(4)]

    for number in (3, 1, 0, 2):
        await held[number].nack(requeue=True)

    assert await take_all(queue, 6) == list("abcdef")


@pytest.mark.parametrize("arguments", [{}, QUORUM | {"x-delivery-limit": 5}], ids=["classic", "quorum"])
async def test_what_a_closed_channel_held_goes_back_in_order(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> None:
    queue = await desk.queue(channel, arguments=arguments)
    await send(channel, queue.name, *"abcd")
    other = await desk.channel()
    await (await consume(await desk.queue(other, arguments=arguments))).bodies(4)

    await other.close()

    back = [await take(queue) for _ in range(4)]
    assert [(message.body.decode(), message.redelivered) for message in back] == [(each, True) for each in "abcd"]


async def test_what_a_lost_connection_held_goes_back(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"ab")
    client = await desk.raw_client()
    client.write(1, commands.Basic.Consume(queue=queue.name))
    await client.read_until(commands.Basic.Deliver)

    client.cut()

    assert await take_all(queue, 2) == ["a", "b"]


async def test_a_cancelled_consumer_keeps_what_it_holds(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"ab")
    await channel.set_qos(1)
    deliveries = await consume(queue)
    held = await deliveries.next()

    await queue.cancel(deliveries.tag)
    await held.ack()

    assert (await take_all(queue, 1), await waiting(desk, queue)) == (["b"], 0)
    assert deliveries.messages.empty()


async def test_a_consumer_is_told_when_its_queue_is_deleted(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)

    def consume_until_cancelled() -> str:
        with pika.BlockingConnection(pika.URLParameters(desk.url)) as connection:
            blocking = connection.channel()
            cancelled: list[str] = []
            blocking.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
            blocking.basic_consume(queue.name, lambda *_: None, consumer_tag="mine")
            asyncio.run_coroutine_threadsafe(channel.queue_delete(queue.name), loop).result(DEADLINE)
            connection.process_data_events(int(DEADLINE))
            return cancelled[0]

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(consume_until_cancelled) == "mine"


async def test_an_exclusive_consumer_is_alone(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await consume(queue, exclusive=True)

    with pytest.raises(amqp.ChannelAccessRefused, match="exclusive use"):
        await consume(queue)


async def test_nobody_becomes_exclusive_beside_others(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await consume(queue)

    with pytest.raises(amqp.ChannelAccessRefused, match="exclusive use"):
        await consume(queue, exclusive=True)


async def test_a_consumer_tag_is_used_once_per_channel(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    client = await desk.raw_client()
    for _ in range(2):
        client.write(1, commands.Basic.Consume(queue=queue.name, consumer_tag="mine"))

    closed = await client.read_until(commands.Connection.Close)

    assert (closed.reply_code, "reuse consumer tag" in closed.reply_text) == (530, True)


async def test_what_needs_no_ack_is_gone_when_it_is_delivered(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"abcde")
    await channel.set_qos(1)

    assert await (await consume(queue, no_ack=True)).bodies(5) == list("abcde")
    await channel.close()
    assert await waiting(desk, queue) == 0


@pytest.mark.parametrize("url", ["trial", "rabbitmq with plugin"], indirect=True)
async def test_a_hash_exchange_keeps_messages_of_one_header_in_one_queue_and_spreads_the_rest(
    desk: Desk, channel: AbstractChannel
) -> None:
    outer = await desk.exchange(channel, "topic", "outer")
    spread = await desk.exchange(channel, "x-consistent-hash", "spread", arguments={"hash-header": "saga-key"})
    queues = [await desk.queue(channel, f"q{number}") for number in range(4)]
    for queue in queues:
        await queue.bind(spread, "1")
    await spread.bind(outer, "word")

    for key in range(100):
        for number in range(3):
            headers: Any = {"saga-key": f"key-{key}"}
            await outer.publish(Message(f"{key}.{number}".encode(), headers=headers), "word")
    for number in range(3):
        await outer.publish(Message(f"none.{number}".encode()), "word")

    held: dict[str, list[tuple[int, int]]] = {}
    for place, queue in enumerate(queues):
        while (message := await queue.get(fail=False, no_ack=True)) is not None:
            key_text, _, number_text = message.body.decode().partition(".")
            held.setdefault(key_text, []).append((place, int(number_text)))
            assert message.exchange == outer.name
    assert all([n for _, n in found] == [0, 1, 2] for found in held.values())
    assert all(len({place for place, _ in found}) == 1 for found in held.values())
    assert len(held) == 101
    assert {place for found in held.values() for place, _ in found} == {0, 1, 2, 3}

    await queues[0].unbind(spread, "1")
    for key in range(100):
        await outer.publish(Message(b"x", headers={"saga-key": f"key-{key}"}), "word")
    assert await waiting(desk, queues[0]) == 0
    assert sum([await waiting(desk, queue) for queue in queues]) == 100


async def test_a_single_active_consumer_is_followed_by_the_next(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments={"x-single-active-consumer": True})
    first, second = await consume(queue), await consume(queue)
    await send(channel, queue.name, *"abc")
    for _ in range(3):
        await (await first.next()).ack()
    assert second.messages.empty()

    await queue.cancel(first.tag)
    await send(channel, queue.name, "d")

    assert (await second.bodies(1), first.messages.empty()) == (["d"], True)


@pytest.mark.parametrize("end", ["connection cut", "connection closed", "channel closed"])
@pytest.mark.parametrize("arguments", [{}, QUORUM], ids=["classic", "quorum"])
async def test_the_next_single_active_consumer_gets_first_what_the_former_held(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any], end: str
) -> None:
    arguments = arguments | {"x-single-active-consumer": True}
    queue = await desk.queue(channel, arguments=arguments)
    await send(channel, queue.name, *"abcdef")
    former = await desk.raw_client()
    former.write(1, commands.Basic.Qos(prefetch_count=3))
    await former.read_until(commands.Basic.QosOk)
    former.write(1, commands.Basic.Consume(queue=queue.name))
    for _ in range(3):
        await former.read_until(commands.Basic.Deliver)
    following = await consume(queue)
    assert (await waiting(desk, queue), following.messages.empty()) == (3, True)

    if end == "connection cut":
        former.cut()
    elif end == "connection closed":
        former.write(0, commands.Connection.Close(200, "goodbye", 0, 0))
    else:
        former.write(1, commands.Channel.Close(200, "goodbye", 0, 0))

    got = [await following.next() for _ in range(6)]
    assert [(message.body.decode(), message.redelivered) for message in got] == [
        *((each, True) for each in "abc"),
        *((each, False) for each in "def"),
    ]


async def test_consumers_are_served_in_turn(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    first, second = await consume(queue, no_ack=True), await consume(queue, no_ack=True)

    await send(channel, queue.name, *"abcdef")

    assert {tuple(await first.bodies(3)), tuple(await second.bodies(3))} == {("a", "c", "e"), ("b", "d", "f")}


async def test_getting_from_an_empty_queue_gets_nothing(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)

    assert await queue.get(fail=False) is None


async def test_a_get_tells_how_many_are_left(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"abc")

    assert (await take(queue)).message_count == 2


async def test_recover_puts_everything_back(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, *"ab")
    held = [await take(queue) for _ in range(2)]

    await (await channel.get_underlay_channel()).basic_recover(requeue=True)

    assert (len(held), await take_all(queue, 2)) == (2, ["a", "b"])


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def with_dead_letters(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> tuple[AbstractQueue, AbstractQueue]:
    exchange, dead = await desk.exchange(channel, "fanout", "dlx"), await desk.queue(channel, "dead")
    await dead.bind(exchange)
    queue = await desk.queue(channel, arguments=arguments | {"x-dead-letter-exchange": exchange.name})
    return queue, dead


def history(message: AbstractIncomingMessage) -> list[dict[str, Any]]:
    deaths: Any = message.headers["x-death"]
    return [{name: value for name, value in death.items() if name != "time"} for death in deaths]


@pytest.mark.parametrize("arguments", [{}, QUORUM], ids=["classic", "quorum"])
async def test_a_rejected_message_dies_with_its_history(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> None:
    queue, dead = await with_dead_letters(desk, channel, arguments)
    await send(channel, queue.name, "a", headers={"mine": 1}, message_id="m1", content_type="text/plain")

    await (await take(queue)).reject(requeue=False)

    letter = await take(dead)
    death = {"count": 1, "reason": "rejected", "queue": queue.name, "exchange": "", "routing-keys": [queue.name]}
    assert history(letter) == [death]
    assert {name: value for name, value in letter.headers.items() if name != "x-death"} == {
        "mine": 1,
        "x-first-death-exchange": "",
        "x-first-death-queue": queue.name,
        "x-first-death-reason": "rejected",
    }
    assert (letter.body, letter.message_id, letter.content_type) == (b"a", "m1", "text/plain")
    assert (letter.exchange, letter.routing_key) == (desk.name("dlx"), queue.name)


async def test_the_time_of_death_is_a_timestamp(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, {})
    await send(channel, queue.name, "a")
    await (await take(queue)).reject(requeue=False)

    deaths: Any = (await take(dead)).headers["x-death"]

    assert deaths[0]["time"].year >= 2024


async def test_a_dead_letter_routing_key_replaces_the_key(desk: Desk, channel: AbstractChannel) -> None:
    dead = await desk.queue(channel, "dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
    queue = await desk.queue(channel, arguments=arguments)
    await send(channel, queue.name, "a")

    await (await take(queue)).reject(requeue=False)

    letter = await take(dead)
    assert (letter.exchange, letter.routing_key) == ("", dead.name)


@pytest.mark.parametrize("arguments", [{}, QUORUM], ids=["classic", "quorum"])
async def test_messages_expire_after_the_time_of_their_queue(
    desk: Desk, channel: AbstractChannel, arguments: dict[str, Any]
) -> None:
    queue, dead = await with_dead_letters(desk, channel, arguments | {"x-message-ttl": 50})

    await send(channel, queue.name, *"ab")

    letters = [await take(dead) for _ in range(2)]
    assert [letter.body for letter in letters] == [b"a", b"b"]
    assert [history(letter)[0]["reason"] for letter in letters] == ["expired", "expired"]


async def test_a_message_expires_after_its_own_time(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, {"x-message-ttl": 60_000})

    await send(channel, queue.name, "a", expiration=0.05)

    letter = await take(dead)
    assert (letter.expiration, history(letter)[0]["original-expiration"]) == (None, "50")


async def test_what_expires_without_dead_letters_is_gone(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments={"x-message-ttl": 30})
    await send(channel, queue.name, "a")

    async def is_empty() -> bool:
        return await waiting(desk, queue) == 0

    assert await eventually(is_empty)


async def test_a_delivered_message_does_not_expire(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, {"x-message-ttl": 60})
    deliveries = await consume(queue)
    await send(channel, queue.name, "held")
    held = await deliveries.next()
    await queue.cancel(deliveries.tag)
    await send(channel, queue.name, "waits")
    assert (await take(dead)).body == b"waits"

    await held.ack()

    assert await dead.get(fail=False) is None


async def test_the_oldest_message_leaves_a_full_queue(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, {"x-max-length": 2})

    await send(channel, queue.name, *"abcd")

    letters = [await take(dead) for _ in range(2)]
    assert [(letter.body, history(letter)[0]["reason"]) for letter in letters] == [(b"a", "maxlen"), (b"b", "maxlen")]
    assert await take_all(queue, 2) == ["c", "d"]


async def test_bytes_can_fill_a_queue_too(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments={"x-max-length-bytes": 10})

    await send(channel, queue.name, "12345678", "1234")

    assert await take_all(queue, 1) == ["1234"]


async def test_a_full_queue_can_refuse_and_keep_the_refused(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, {"x-max-length": 1, "x-overflow": "reject-publish-dlx"})
    await send(channel, queue.name, "a")

    with pytest.raises(amqp.DeliveryError):
        await send(channel, queue.name, "b")

    letter = await take(dead)
    assert (letter.body, history(letter)[0]["reason"]) == (b"b", "maxlen")


async def test_a_message_dies_when_its_delivery_limit_is_used_up(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, QUORUM | {"x-delivery-limit": 2})
    await send(channel, queue.name, "poison")
    counts = []
    for _ in range(3):
        message = await take(queue)
        counts.append(message.headers["x-delivery-count"])
        await message.reject(requeue=True)

    letter = await take(dead)

    assert (counts, history(letter)[0]["reason"]) == ([0, 1, 2], "delivery_limit")
    assert "x-delivery-count" not in letter.headers


async def test_a_lost_channel_counts_against_all_that_it_held(desk: Desk, channel: AbstractChannel) -> None:
    arguments = QUORUM | {"x-delivery-limit": 1}
    queue, dead = await with_dead_letters(desk, channel, arguments)
    await send(channel, queue.name, *"abc")
    for _ in range(2):
        other = await desk.channel()
        await (await consume(await other.get_queue(queue.name))).bodies(3)
        await other.close()

    letters = [await take(dead) for _ in range(3)]

    assert [history(letter)[0]["reason"] for letter in letters] == ["delivery_limit"] * 3


async def test_a_repeated_death_is_counted_and_moves_to_the_front(desk: Desk, channel: AbstractChannel) -> None:
    queue, dead = await with_dead_letters(desk, channel, QUORUM | {"x-delivery-limit": 0})
    await send(channel, queue.name, "a")
    await (await take(queue)).reject(requeue=False)
    for requeue in (True, False):
        letter = await take(dead)
        await send(channel, queue.name, "a", headers=letter.headers)
        await (await take(queue)).reject(requeue=requeue)

    letter = await take(dead)

    assert [(death["reason"], death["count"]) for death in history(letter)] == [("rejected", 2), ("delivery_limit", 1)]
    assert letter.headers["x-first-death-reason"] == "rejected"


async def test_deaths_in_several_queues_are_listed_newest_first(desk: Desk, channel: AbstractChannel) -> None:
    last = await desk.queue(channel, "last")
    second_arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": last.name}
    second = await desk.queue(channel, "second", arguments=second_arguments)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": second.name, "x-message-ttl": 1}
    first = await desk.queue(channel, "first", arguments=arguments)
    await send(channel, first.name, "a")

    await (await take(second)).reject(requeue=False)

    letter = await take(last)
    assert [death["queue"] for death in history(letter)] == [second.name, first.name]
    assert letter.headers["x-first-death-queue"] == first.name


async def test_a_message_does_not_circle_for_ever(desk: Desk, channel: AbstractChannel) -> None:
    here, there = desk.name("here"), desk.name("there")
    queues = [
        await desk.queue(
            channel,
            label,
            arguments={"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target},
        )
        for label, target in (("here", there), ("there", here))
    ]
    await send(channel, here, "a")

    async def is_gone() -> bool:
        return not any([await waiting(desk, queue) for queue in queues for _ in range(3)])

    assert await eventually(is_gone)


async def test_a_rejected_message_may_come_round_again(desk: Desk, channel: AbstractChannel) -> None:
    name = desk.name("queue")
    queue = await desk.queue(channel, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name})
    await send(channel, name, "a")
    for _ in range(3):
        await (await take(queue)).reject(requeue=False)

    assert history(await take(queue))[0]["count"] == 3


async def test_a_dead_letter_exchange_that_is_missing_loses_the_message(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel, arguments={"x-dead-letter-exchange": desk.name("absent")})
    await send(channel, queue.name, *"ab")

    await (await take(queue)).reject(requeue=False)

    assert (await take_all(queue, 1), await open_again(channel)) == (["b"], True)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_password_is_refused(url: str) -> None:
    wrong = url.replace(f":{urlsplit(url).password}@", ":wrong@")

    with pytest.raises(amqp.ProbableAuthenticationError, match="ACCESS_REFUSED"):
        await aio_pika.connect(wrong)


async def test_another_protocol_is_told_what_is_spoken_here(url: str) -> None:
    parameters = pika.URLParameters(url)
    reader, writer = await asyncio.open_connection(parameters.host, parameters.port)

    writer.write(b"GET / HTTP/1.1\r\n\r\n")

    async with asyncio.timeout(DEADLINE):
        assert await reader.readexactly(8) == b"AMQP\x00\x00\x09\x01"
    writer.close()


async def test_a_client_that_falls_silent_is_cut_off(desk: Desk, channel: AbstractChannel) -> None:
    queue = await desk.queue(channel)
    await send(channel, queue.name, "a")
    client = await desk.raw_client(heartbeat=1)
    client.write(1, commands.Basic.Get(queue=queue.name))
    await client.read_until(commands.Basic.GetOk)

    with pytest.raises(ConnectionError):
        await client.read_until(type(None))

    assert await take_all(queue, 1) == ["a"]


async def test_the_broker_sends_heartbeats(desk: Desk) -> None:
    client = await desk.raw_client(heartbeat=1)

    assert await client.read_until(Heartbeat)


async def test_a_client_that_sends_heartbeats_stays(desk: Desk) -> None:
    client = await desk.raw_client(heartbeat=1)
    for _ in range(8):  # four intervals, at two heartbeats of the broker each
        await client.read_until(Heartbeat)
        client.write(0, Heartbeat())

    client.write(1, commands.Queue.Declare(exclusive=True))
    assert await client.read_until(commands.Queue.DeclareOk)


async def test_a_frame_on_a_channel_that_is_not_open_closes_the_connection(desk: Desk) -> None:
    client = await desk.raw_client()

    client.write(7, commands.Queue.Declare(exclusive=True))

    assert (await client.read_until(commands.Connection.Close)).reply_code == 504


async def test_a_channel_is_opened_once(desk: Desk) -> None:
    client = await desk.raw_client()

    client.write(1, commands.Channel.Open())

    assert (await client.read_until(commands.Connection.Close)).reply_code == 504


async def test_a_method_in_place_of_content_closes_the_connection(desk: Desk) -> None:
    client = await desk.raw_client()

    client.write(1, commands.Basic.Publish(routing_key="nowhere"))
    client.write(1, commands.Basic.Qos(prefetch_count=1))

    assert (await client.read_until(commands.Connection.Close)).reply_code == 505


async def test_bytes_that_are_no_frame_close_the_connection(desk: Desk) -> None:
    client = await desk.raw_client()

    client.writer.write(b"\x01\x00\x01\x00\x00\x00\x04abcd!")

    assert (await client.read_until(commands.Connection.Close)).reply_code == 501


async def test_a_closed_channel_number_can_be_used_again(desk: Desk) -> None:
    client = await desk.raw_client()
    client.write(1, commands.Queue.Declare(queue="parity.absent", passive=True))
    closed = await client.read_until(commands.Channel.Close)

    client.write(1, commands.Basic.Qos(prefetch_count=1))
    client.write(1, commands.Channel.CloseOk())
    client.write(1, commands.Channel.Open())

    assert await client.read_until(commands.Channel.OpenOk)
    assert (closed.reply_code, closed.class_id, closed.method_id) == (404, 50, 10)


# ── the trial broker alone ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def strict_desk(trial_url: str) -> AsyncIterator[Desk]:
    desk = Desk(trial_url)
    yield desk
    await desk.close()


async def test_strict_refuses_transient_shared_queues(strict_desk: Desk) -> None:
    with pytest.raises(amqp.ConnectionInternalError, match="transient_nonexcl_queues"):
        await strict_desk.queue(await strict_desk.channel(), durable=False)


async def test_strict_refuses_a_prefetch_for_the_whole_channel(strict_desk: Desk) -> None:
    channel = await strict_desk.channel()

    with pytest.raises(amqp.ConnectionInternalError, match="global_qos"):
        await channel.set_qos(10, global_=True)


async def test_strict_counts_a_reject_but_not_a_nack(strict_desk: Desk) -> None:
    channel = await strict_desk.channel()
    queue = await strict_desk.queue(channel, arguments=QUORUM)
    await send(channel, queue.name, "a")

    await (await take(queue)).nack(requeue=True)
    after_nack = await take(queue)
    await after_nack.reject(requeue=True)
    after_reject = await take(queue)

    assert (after_nack.headers["x-delivery-count"], after_reject.headers["x-delivery-count"]) == (0, 1)


async def test_strict_limits_deliveries_to_twenty(strict_desk: Desk) -> None:
    channel = await strict_desk.channel()
    queue = await strict_desk.queue(channel, arguments=QUORUM)
    await send(channel, queue.name, *"ab")
    for _ in range(21):
        await (await take(queue)).reject(requeue=True)

    assert (await take(queue)).body == b"b"


async def test_a_dead_letter_that_must_not_be_lost_waits_for_a_queue(strict_desk: Desk) -> None:
    channel = await strict_desk.channel()
    safely = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    exchange = await strict_desk.exchange(channel, "fanout")
    queue = await strict_desk.queue(channel, arguments=QUORUM | safely | {"x-dead-letter-exchange": exchange.name})
    await send(channel, queue.name, "a")
    await (await take(queue)).reject(requeue=False)

    dead = await strict_desk.queue(channel, "dead")
    await dead.bind(exchange)

    assert (await take(dead)).body == b"a"


async def test_virtual_hosts_are_made_on_first_use_and_separate(trial_url: str) -> None:
    async with await aio_pika.connect(trial_url + "one") as one, await aio_pika.connect(trial_url + "two") as two:
        await (await one.channel()).declare_queue("orders", durable=True)

        with pytest.raises(amqp.ChannelNotFoundEntity):
            await (await two.channel()).declare_queue("orders", passive=True)


async def test_lenient_allows_what_rabbitmq_3_allows_and_counts_as_it_does() -> None:
    broker = TrialBroker(strict=False)
    desk = Desk(await broker.start())
    channel = await desk.channel()
    await desk.queue(channel, "transient", durable=False)
    queue = await desk.queue(channel, arguments=QUORUM)
    await send(channel, queue.name, "a")

    await (await take(queue)).nack(requeue=True)

    assert (await take(queue)).headers["x-delivery-count"] == 1
    await desk.close()
    await broker.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
async def test_the_broker_listens_on_this_machine_only(host: str) -> None:
    with pytest.raises(ValueError, match="listens on this machine only"):
        await TrialBroker().start(host)


async def test_a_client_that_does_not_read_leaves_its_messages_in_the_queue() -> None:
    broker = TrialBroker()
    desk = Desk(await broker.start())
    channel = await desk.channel()
    queue = await desk.queue(channel)
    client = await desk.raw_client()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.write(1, commands.Basic.Consume(queue=queue.name, no_ack=True))

    for _ in range(64):
        await send(channel, queue.name, "x" * 512_000)

    assert await waiting(desk, queue) > 16
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(64):
        await client.read_until(commands.Basic.Deliver)
    await desk.close()
    await broker.stop()


async def test_no_bytes_of_a_client_harm_another(caplog: pytest.LogCaptureFixture) -> None:
    broker = TrialBroker()
    desk = Desk(await broker.start())
    channel = await desk.channel()
    abused, other = await desk.queue(channel, "abused", arguments=QUORUM), await desk.queue(channel, "other")
    dice = random.Random(20260101)

    for _ in range(300):
        client = await desk.raw_client()
        client.writer.write(b"".join(spoil(frame, dice) for frame in publish_frames(abused.name)))
        client.write(1, commands.Channel.Close(200, "", 0, 0))
        with suppress(ConnectionError, UnmarshalingException):  # what it published may be more than it can read
            await client.read_until(commands.Channel.CloseOk | commands.Connection.Close)
        client.cut()

    await send(channel, other.name, "still here")
    assert await take_all(other, 1) == ["still here"]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    await desk.close()
    await broker.stop()


def publish_frames(queue: str) -> list[bytes]:
    headers: Any = {"a": 1.5, "b": {"c": [True]}, "x-death": [{"queue": "q", "reason": "expired"}]}
    properties = commands.Basic.Properties(headers=headers, content_type="text/plain", expiration="60000")
    frames = (
        commands.Basic.Publish(routing_key=queue),
        ContentHeader(0, 4, properties),
        ContentBody(b"body"),
        commands.Basic.Get(queue=queue),
        commands.Basic.Ack(1),
    )
    return [pamqp_frame.marshal(frame, 1) for frame in frames]


def spoil(frame: bytes, dice: random.Random) -> bytes:
    """The same frame, in one of three cases with one octet of its payload changed."""
    spoiled = bytearray(frame)
    if dice.random() < 1 / 3:
        spoiled[dice.randrange(7, len(frame) - 1)] = dice.randrange(256)
    return bytes(spoiled)


async def test_what_a_lost_connection_held_counts_once_though_it_had_two_channels(strict_desk: Desk) -> None:
    queue = await strict_desk.queue(await strict_desk.channel(), arguments=QUORUM)
    await send(await strict_desk.channel(), queue.name, "a")
    client = await strict_desk.raw_client()
    client.write(2, commands.Channel.Open())
    client.write(1, commands.Basic.Consume(queue=queue.name))
    client.write(2, commands.Basic.Consume(queue=queue.name))
    await client.read_until(commands.Basic.Deliver)

    client.cut()

    assert (await take(queue)).headers["x-delivery-count"] == 1


async def test_a_stopping_broker_tells_its_clients() -> None:
    broker = TrialBroker()
    connection = await aio_pika.connect(await broker.start())
    closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    connection.close_callbacks.add(lambda _, error: closed.set_result(error))

    await broker.stop()

    async with asyncio.timeout(DEADLINE):
        assert "CONNECTION_FORCED" in str(await closed)


def test_the_process_says_where_it_listens_and_that_it_keeps_nothing() -> None:
    process, url = start_trial_process()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=DEADLINE)

    assert url.startswith("amqp://guest:guest@127.0.0.1:")
    assert "It keeps nothing" in log
    assert process.returncode == 0


def test_the_process_refuses_other_addresses_with_a_sentence() -> None:
    command = [sys.executable, "-m", "saga_worker.trial.broker", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)

    assert (done.returncode, "this machine only" in done.stderr) == (2, True)
