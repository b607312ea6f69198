"""The partitioned inbox: one queue per key, one worker per queue, and the way from one layout to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from saga_worker.broker import BrokerConnection, Deliveries, Outgoing, Properties, Publisher, Topology
from saga_worker.loading import load
from saga_worker.saga.errors import ConfigurationError
from saga_worker.saga.routing import ref_of, reply_queue
from saga_worker.settings import Settings
from saga_worker.testing import eventually
from saga_worker.testing.namespaces import Namespace
from saga_worker.trial.local_rabbitmq import LocalRabbitmq
from saga_worker.worker import Worker
from tests.faults.campaign import OWN
from tests.stages.transport import event, publish_all, take

KEYS = 40


@pytest.fixture
def amqp(partitioned_amqp_url: str, namespace: Namespace) -> Iterator[str]:
    yield partitioned_amqp_url
    namespace.delete(partitioned_amqp_url)


@asynccontextmanager
async def working(database_url: str, amqp: str, namespace: str, partitions: int) -> AsyncIterator[Worker]:
    settings = Settings(
        database_url=database_url, amqp_url=amqp, namespace=str(namespace), partitions=partitions, pool_size=4,
        poll_seconds=0.2, reply_grace_seconds=0.0,
    )  # fmt: skip
    worker = Worker(settings, load(str(OWN / "ordered.py")))
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()


async def publish(amqp: str, namespace: str, first: int, end: int) -> None:
    """Readings `first` to `end` of all meters, in turns, from one producer."""
    publisher = Publisher(BrokerConnection(amqp, "producer"), Topology(str(namespace)))
    await publisher.start()
    await publish_all(
        publisher,
        [
            event(
                namespace, f"m{key}:{n}", type_="installed" if n == 1 else "reading",
                body=b'{"meter":"m%d","n":%d}' % (key, n), headers={"saga-key": f"m{key}"},
            )
            for n in range(first, end)
            for key in range(KEYS)
        ],
    )  # fmt: skip
    await publisher.close()


async def applied(database_url: str) -> dict[str, list[int]]:
    """Of each meter the readings in the order in which they were applied."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT s.key, array_agg(j.message_id ORDER BY j.revision) AS ids FROM saga_worker.v_journal j"
            " JOIN saga_worker.v_saga s USING (saga_id) GROUP BY 1"
        )
    finally:
        await connection.close()
    return {row["key"]: [int(id_.partition(":")[2]) for id_ in row["ids"]] for row in rows}


async def until_applied(database_url: str, end: int) -> None:
    """All readings below `end`, in order."""

    async def are_applied() -> bool:
        assert await applied(database_url) == {f"m{key}": list(range(1, end)) for key in range(KEYS)}
        return True

    await eventually(are_applied, 20)


async def all_up(worker: Worker) -> None:
    await eventually(lambda: worker.intake.is_up, 20)


async def test_two_workers_share_the_partitions_and_the_second_takes_over_when_the_first_goes(
    database_url: str, amqp: str, namespace: Namespace
) -> None:
    async with working(database_url, amqp, namespace, 4) as first:
        await all_up(first)
        async with working(database_url, amqp, namespace, 4) as second:
            await all_up(second)
            await publish(amqp, namespace, 1, 10)
            await until_applied(database_url, 10)

            def served(worker: Worker) -> int:
                return sum(deliveries.is_served for deliveries in worker.intake.partitions)

            end = 10

            async def are_shared() -> bool:
                nonlocal end
                await publish(amqp, namespace, end, end + 1)  # so that those who serve a partition show it
                end += 1
                return (served(first), served(second)) == (2, 2)

            await eventually(are_shared, 30)
            await first.intake.stop()
            await publish(amqp, namespace, end, end + 5)
            await until_applied(database_url, end + 5)


async def test_what_waits_in_the_queues_of_a_former_layout_is_applied_before_what_comes_later(
    database_url: str, amqp: str, namespace: Namespace
) -> None:
    first, end = 1, 6
    for partitions in (1, 6, 3, 1, 4):
        async with working(database_url, amqp, namespace, partitions) as worker:
            await all_up(worker)
            if first > 1:
                await until_applied(database_url, first)
        await publish(amqp, namespace, first, end)  # into this layout, while nobody works
        first, end = end, end + 5
    async with working(database_url, amqp, namespace, 2) as worker:
        await until_applied(database_url, first)
        await publish(amqp, namespace, first, end)
        await until_applied(database_url, end)
        assert worker.topology.former_partitions == 6


async def test_events_without_the_header_stay_in_order_in_one_partition(amqp: str, namespace: Namespace) -> None:
    topology = Topology(str(namespace), 3, 3)
    lanes = [Deliveries(BrokerConnection(amqp, "all"), topology)]
    lanes += [Deliveries(BrokerConnection(amqp, name), topology, partition=name) for name in topology.partition_queues]
    await lanes[0].bind_types(["reading"])
    for lane in lanes:
        await lane.start()
    publisher = Publisher(BrokerConnection(amqp, "producer"), topology)
    await publisher.start()
    try:
        await publish_all(publisher, [event(namespace, f"e{n}", type_="reading") for n in range(50)])

        async def all_are_there() -> bool:
            return sum(lane.unacknowledged for lane in lanes) == 50

        await eventually(all_are_there)
        assert sorted(lane.unacknowledged for lane in lanes) == [0, 0, 0, 50]
    finally:
        await publisher.close()
        for lane in lanes:
            await lane.close()


def _to(queue: str, n: int) -> Outgoing:
    return Outgoing("", queue, b"%d" % n, Properties(message_id=str(n)), mandatory=True)


async def _stop(deliveries: Deliveries) -> None:
    await deliveries.pause()
    deliveries.stop_waiting()


async def _step_back(deliveries: Deliveries) -> None:
    deliveries.step_back()


@pytest.mark.parametrize("withdraw", [_stop, _step_back])
async def test_a_worker_that_takes_no_more_of_a_partition_hands_it_over_in_order(
    amqp: str, namespace: Namespace, withdraw: Callable[[Deliveries], Awaitable[None]]
) -> None:
    topology = Topology(str(namespace), 2, 2)
    queue = topology.partition_queues[0]
    former = Deliveries(BrokerConnection(amqp, "former"), topology, partition=queue, prefetch=4)
    following = Deliveries(BrokerConnection(amqp, "following"), topology, partition=queue)
    publisher = Publisher(BrokerConnection(amqp, "producer"), topology)
    await publisher.start()
    try:
        await publisher.ready(10)
        await former.start()
        await publish_all(publisher, [_to(queue, n) for n in range(8)])
        await eventually(lambda: former.unacknowledged == 4)
        await following.start()
        batch = await former.next_batch(2)
        assert batch is not None

        await withdraw(former)
        assert (await following.backlog(), following.unacknowledged) == (4, 0)
        await former.ack(batch)
        asking = asyncio.create_task(former.next_batch(2))
        if withdraw is _stop:
            assert await asking is None
            await former.close()

        got = await take(following, 6)
        assert [delivery.body for delivery in got] == [b"2", b"3", b"4", b"5", b"6", b"7"]
        former.stop_waiting()
        assert await asking is None
    finally:
        for part in (publisher, former, following):
            await part.close()


def test_answers_to_a_saga_go_to_one_partition_and_the_sagas_spread() -> None:
    refs = [ref_of("meter", str(key)) for key in range(100)]
    assert {reply_queue("saga", ref, 4) for ref in refs} == {f"saga.inbox.{number}" for number in range(4)}
    assert {reply_queue("saga", ref, 1) for ref in refs} == {"saga.inbox"}


@pytest.mark.rabbitmq_server
async def test_a_broker_without_the_plugin_is_refused_with_a_sentence_that_names_it(database_url: str) -> None:
    wanted = "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"
    with LocalRabbitmq(plugins=()) as node, pytest.raises(ConfigurationError, match=wanted):
        async with working(database_url, node.url, "saga", 2):
            pass
