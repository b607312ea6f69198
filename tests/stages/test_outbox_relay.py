"""Outbox rows to the broker on real servers: sent, confirmed, deleted, in order, taken over, lost in no fault."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic_core import to_json

from saga_worker import faults, outbox, workers
from saga_worker.broker import Publisher
from saga_worker.outbox import OutboxRow
from saga_worker.outbox_relay import INVALID, OutboxRelay, RelayTimes
from saga_worker.saga.routing import command_id
from saga_worker.sql.connection import Database
from saga_worker.testing.namespaces import Namespace
from saga_worker.testing.proxy import FaultProxy
from tests.stages.transport import bare_channel, publishing

Eventually = Callable[..., Awaitable[Any]]
QUICK = RelayTimes(take_over=0.1, reread=0.5, first_delay=0.1, last_delay=0.2, failed_pass=0.1)


@dataclass
class Stage:
    """A running relay of one worker and what it told."""

    database: Database
    relay: OutboxRelay
    worker_id: int
    namespace: str
    undeliverable: list[UUID] = field(default_factory=list)
    delivered: list[UUID] = field(default_factory=list)

    async def commit(self, *rows: OutboxRow, hand_over: bool = True) -> None:
        """What a step does: store in one transaction, hand over after it."""
        async with self.database.transaction() as connection:
            stored = await outbox.append(connection, rows, owner=self.worker_id)
            held = await outbox.foreign(connection, {row.ref for row in rows}, self.worker_id)
        if hand_over:
            self.relay.hand_over(stored, held)


@asynccontextmanager
async def relaying(
    database: Database, publisher: Publisher, namespace: str, *, times: RelayTimes = QUICK, most_in_memory: int = 20_000
) -> AsyncIterator[Stage]:
    async with database.transaction() as connection:
        worker_id = await workers.register(connection, [], "here", 1)
    undeliverable: list[UUID] = []
    delivered: list[UUID] = []
    relay = OutboxRelay(
        database, publisher, worker_id=lambda: worker_id, times=times, most_in_memory=most_in_memory,
        on_undeliverable=lambda ref, destination: undeliverable.append(ref),
        on_delivered=lambda ref, destination: delivered.append(ref),
    )  # fmt: skip
    await relay.start()
    try:
        yield Stage(database, relay, worker_id, namespace, undeliverable, delivered)
    finally:
        await relay.stop(5)
        async with database.transaction() as connection:
            await workers.leave(connection, worker_id)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=6) as opened:
        yield opened


def command(
    namespace: str, ref: UUID, seq: int, *, to: str = "stock", type_: str = "reserve", **props: Any
) -> OutboxRow:
    message_id = command_id(ref, seq)
    properties = {"message_id": message_id, "type": type_, "delivery_mode": 2, "headers": {"saga-step": "s"}, **props}
    return OutboxRow(
        ref=ref, seq=seq, destination=to, type=type_, exchange=f"{namespace}.commands", routing_key=f"{to}.{type_}",
        props=to_json(properties), body=b'{"seq":%d}' % seq, mandatory=True, message_id=message_id,
    )  # fmt: skip


async def participant(amqp_url: str, namespace: Namespace, key: str = "stock.#") -> str:
    """A queue that takes commands; its name."""
    name = namespace.queue(f"p{key.partition('.')[0]}{uuid4().hex[:4]}")
    async with bare_channel(amqp_url) as channel:
        exchange = await channel.declare_exchange(f"{namespace}.commands", "topic", durable=True)
        queue = await channel.declare_queue(name, durable=True)
        await queue.bind(exchange, key)
    return name


async def received(amqp_url: str, queue_name: str) -> list[tuple[str, bytes]]:
    """(message id, body) of everything in the queue, which is emptied."""
    found: list[tuple[str, bytes]] = []
    async with bare_channel(amqp_url) as channel:
        queue = await channel.get_queue(queue_name, ensure=False)
        while (message := await queue.get(fail=False, no_ack=True)) is not None:
            assert message.message_id is not None
            found.append((message.message_id, message.body))
    return found


async def ids(amqp_url: str, queue_name: str) -> list[str]:
    return [message_id for message_id, _ in await received(amqp_url, queue_name)]


async def table(database: Database, columns: str = "ref, seq") -> list[tuple[Any, ...]]:
    async with database.autocommit() as connection:
        rows = await connection.raw.fetch(f"SELECT {columns} FROM saga_worker.outbox ORDER BY ref, seq")
    return [tuple(row) for row in rows]


async def is_empty(database: Database) -> bool:
    return not await table(database)


async def run_sql(database: Database, statement: str) -> None:
    async with database.autocommit() as connection:
        await connection.raw.execute(statement)


@pytest.mark.usefixtures("hot_path")
async def test_committed_rows_are_published_and_deleted(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    rows = [command(namespace, uuid4(), 1) for _ in range(2000)]
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        await stage.commit(*rows)
        await eventually(lambda: is_empty(database))

        assert stage.relay.in_memory == 0
        assert sorted(await received(amqp_url, queue)) == sorted((row.message_id, row.body) for row in rows)


@pytest.mark.usefixtures("hot_path")
async def test_messages_of_one_saga_reach_one_destination_in_order(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    """features: M12"""
    queue = await participant(amqp_url, namespace)
    refs = [uuid4() for _ in range(20)]
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        for seq in range(1, 21):
            await stage.commit(*(command(namespace, ref, seq) for ref in refs))
        await eventually(lambda: is_empty(database))
        got = await ids(amqp_url, queue)

    for ref in refs:
        assert [each for each in got if each in {command_id(ref, n) for n in range(1, 21)}] == [
            command_id(ref, seq) for seq in range(1, 21)
        ]


@pytest.mark.usefixtures("hot_path")
async def test_an_unroutable_command_stays_holds_back_only_its_lane_and_goes_out_when_a_queue_is_bound(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    """features: M12"""
    stock = await participant(amqp_url, namespace, "stock.release")
    bank = await participant(amqp_url, namespace, "bank.#")
    ref, other = uuid4(), uuid4()
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        await stage.commit(
            command(namespace, ref, 1),
            command(namespace, ref, 2, type_="release"),
            command(namespace, ref, 3, to="bank"),
            command(namespace, other, 1, type_="release"),
        )
        await eventually(lambda: noted(database, 2))
        left = await table(database, "ref, seq, last_error")

        assert [row[:2] for row in left] == [(ref, 1), (ref, 2)]
        assert "no queue is bound" in left[0][2]
        assert left[1][2] is None
        assert await ids(amqp_url, stock) == [command_id(other, 1)]
        assert await ids(amqp_url, bank) == [command_id(ref, 3)]
        assert (stage.undeliverable, stage.delivered) == ([ref], [])

        late = await participant(amqp_url, namespace, "stock.reserve")
        await eventually(lambda: is_empty(database))
        assert await ids(amqp_url, late) == [command_id(ref, 1)]
        assert await ids(amqp_url, stock) == [command_id(ref, 2)]
        assert stage.delivered == [ref]


async def noted(database: Database, attempts: int) -> bool:
    return any(row[0] >= attempts for row in await table(database, "attempts"))


async def test_a_row_that_can_never_be_sent_is_marked_and_the_others_pass(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    bad, forged, good = uuid4(), uuid4(), uuid4()
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        await stage.commit(
            command(namespace, bad, 1, correlation_id="x" * 300),
            command(namespace, forged, 1, user_id="somebody_else"),
            command(namespace, good, 1),
        )
        await eventually(lambda: has_errors(database, 2))
        left = await table(database, "ref, last_error, next_at > now() + interval '1 year'")

    assert {row[0] for row in left} == {bad, forged}
    assert all(row[1].startswith(INVALID) and row[2] for row in left)
    assert set(await ids(amqp_url, queue)) == {command_id(good, 1)}  # twice if the channel closed before its confirm
    assert sorted(stage.undeliverable) == sorted([bad, forged])


async def has_errors(database: Database, number: int) -> bool:
    rows = await table(database, "last_error")
    return len(rows) == number and all(row[0] for row in rows)


async def test_a_row_whose_properties_are_spoilt_is_marked_and_the_others_pass(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    good = command(namespace, uuid4(), 1)
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        await stage.commit(command(namespace, uuid4(), 1), good, hand_over=False)
        await run_sql(database, f"UPDATE saga_worker.outbox SET props = 'x' WHERE ref <> '{good.ref}'")
        stage.relay.reread()
        await eventually(lambda: has_errors(database, 1))

    assert await ids(amqp_url, queue) == [good.message_id]


async def test_an_operator_makes_a_marked_row_go_out_by_making_it_due(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    ref = uuid4()
    slow = RelayTimes(reread=0.2, first_delay=1000, last_delay=1000)
    async with (
        publishing(amqp_url, namespace) as publisher,
        relaying(database, publisher, namespace, times=slow) as stage,
    ):
        await stage.commit(command(namespace, ref, 1))
        await eventually(lambda: noted(database, 1))
        queue = await participant(amqp_url, namespace)
        await run_sql(database, "UPDATE saga_worker.outbox SET next_at = now()")
        await eventually(lambda: is_empty(database))

        assert await ids(amqp_url, queue) == [command_id(ref, 1)]


async def test_rows_left_by_a_dead_worker_are_taken_over_in_order(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    refs = [uuid4() for _ in range(50)]
    async with database.transaction() as connection:
        rows = [command(namespace, ref, seq) for ref in refs for seq in (1, 2, 3)]
        await outbox.append(connection, rows, owner=99_999)
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace):
        await eventually(lambda: is_empty(database))
    got = await ids(amqp_url, queue)

    assert sorted(got) == sorted(row.message_id for row in rows)
    for ref in refs:
        mine = [command_id(ref, seq) for seq in (1, 2, 3)]
        assert [each for each in got if each in mine] == mine


async def test_rows_of_a_living_worker_are_left_alone_and_hold_back_only_newer_ones(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    ref = uuid4()
    async with database.transaction() as connection:
        other = await workers.register(connection, [], "there", 2)
        older, newest = command(namespace, ref, 1), command(namespace, ref, 4)
        await outbox.append(connection, [older, newest], owner=other)
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        await stage.commit(command(namespace, ref, 2))
        await stage.commit(command(namespace, ref, 3, to="stock"), command(namespace, uuid4(), 1))
        await eventually(lambda: has_rows(database, 4))
        assert stage.relay.in_memory == 2  # behind the other worker's row; not behind its newer one
        async with database.transaction() as connection:
            await outbox.delete(connection, [older.key], owner=other)
        await eventually(lambda: has_rows(database, 1))

        assert (await ids(amqp_url, queue))[1:] == [command_id(ref, 2), command_id(ref, 3)]
        assert await table(database, "seq, owner") == [(4, other)]


async def has_rows(database: Database, number: int) -> bool:
    return len(await table(database)) == number


async def has_at_most(database: Database, number: int) -> bool:
    return len(await table(database)) <= number


async def test_after_a_commit_without_an_answer_the_rows_are_found_in_the_table(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    row = command(namespace, uuid4(), 1)
    slow = RelayTimes(reread=1000)
    async with (
        publishing(amqp_url, namespace) as publisher,
        relaying(database, publisher, namespace, times=slow) as stage,
    ):
        await stage.commit(row, hand_over=False)
        stage.relay.reread()
        await eventually(lambda: is_empty(database))

    assert await ids(amqp_url, queue) == [row.message_id]


async def test_a_resend_while_the_first_copy_is_still_here_is_that_copy(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    ref = uuid4()
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace) as stage:
        await stage.commit(command(namespace, ref, 1))
        await eventually(lambda: noted(database, 1))
        stage.relay.hand_over([command(namespace, ref, 1)])
        assert stage.relay.in_memory == 1
        queue = await participant(amqp_url, namespace)
        await eventually(lambda: is_empty(database))

        assert await ids(amqp_url, queue) == [command_id(ref, 1)]


@pytest.mark.usefixtures("hot_path")
async def test_while_the_broker_is_away_rows_wait_and_then_go_out_once_each(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    rows = [command(namespace, uuid4(), 1) for _ in range(500)]
    async with (
        FaultProxy.before(amqp_url) as proxy,
        publishing(proxy.rewrite(amqp_url), namespace) as publisher,
        relaying(database, publisher, namespace) as stage,
    ):
        await proxy.refuse()
        proxy.reset()
        await eventually(lambda: not publisher.is_up)
        await stage.commit(*rows)
        assert stage.relay.in_memory == 500
        await proxy.heal()
        await eventually(lambda: is_empty(database))

    assert sorted(await ids(amqp_url, queue)) == sorted(row.message_id for row in rows)


async def test_beyond_what_memory_may_hold_rows_stay_in_the_table_and_go_out_in_order(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    queue = await participant(amqp_url, namespace)
    refs = [uuid4() for _ in range(40)]
    async with (
        FaultProxy.before(amqp_url) as proxy,
        publishing(proxy.rewrite(amqp_url), namespace) as publisher,
        relaying(database, publisher, namespace, most_in_memory=50) as stage,
    ):
        await proxy.refuse()
        proxy.reset()
        await eventually(lambda: not publisher.is_up)
        for seq in range(1, 6):
            await stage.commit(*(command(namespace, ref, seq) for ref in refs))
        assert stage.relay.in_memory <= 50
        await proxy.heal()
        await eventually(lambda: is_empty(database))
        await stage.commit(*(command(namespace, ref, 6) for ref in refs))
        await eventually(lambda: is_empty(database))
    got = await ids(amqp_url, queue)

    for ref in refs:
        mine = [command_id(ref, seq) for seq in range(1, 7)]
        assert [each for each in got if each in mine] == mine


async def test_five_thousand_rows_survive_cuts_of_broker_and_database_in_order(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    """features: M28"""
    queue = await participant(amqp_url, namespace)
    refs = [uuid4() for _ in range(500)]
    cuts = 0
    async with (
        FaultProxy.before(database_url) as to_database,
        FaultProxy.before(amqp_url) as to_broker,
        Database(to_database.rewrite(database_url)) as far,
        publishing(to_broker.rewrite(amqp_url), namespace) as publisher,
        relaying(far, publisher, namespace) as stage,
    ):
        stage.database = database  # the steps' own connections are not cut: the relay is what is tested
        for seq in range(1, 11):
            await stage.commit(*(command(namespace, ref, seq) for ref in refs))
            if seq % 2:
                await eventually(lambda: has_at_most(database, len(refs) - 1))  # some of them have gone out
                cuts += (to_database.reset() > 0) + (to_broker.reset() > 0)
        await eventually(lambda: is_empty(database), deadline=60)
    first_seen = list(dict.fromkeys(await ids(amqp_url, queue)))

    assert cuts >= 5
    assert set(first_seen) == {command_id(ref, seq) for ref in refs for seq in range(1, 11)}
    place = {message_id: n for n, message_id in enumerate(first_seen)}
    for ref in refs:
        places = [place[command_id(ref, seq)] for seq in range(1, 11)]
        assert places == sorted(places)


async def test_a_worker_that_ends_gives_up_what_it_could_not_send_at_once(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    row = command(namespace, uuid4(), 1)
    async with publishing(amqp_url, namespace) as publisher:
        async with relaying(database, publisher, namespace) as stage:
            await stage.commit(row)
            await eventually(lambda: noted(database, 1))
        assert await table(database, "owner") == [(outbox.NOBODY,)]
        queue = await participant(amqp_url, namespace)
        async with relaying(database, publisher, namespace):
            await eventually(lambda: is_empty(database))

    assert await ids(amqp_url, queue) == [row.message_id]


async def test_after_a_lost_lease_nothing_in_memory_is_published_any_more(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    slow = RelayTimes(first_delay=0.1, last_delay=0.1, reread=1000)
    async with (
        publishing(amqp_url, namespace) as publisher,
        relaying(database, publisher, namespace, times=slow) as stage,
    ):
        await stage.commit(command(namespace, uuid4(), 1))
        await eventually(lambda: noted(database, 1))
        async with database.transaction() as connection:
            other = await workers.register(connection, [], "there", 2)
        await run_sql(database, f"UPDATE saga_worker.outbox SET owner = {other}")
        stage.relay.drop_memory()
        queue = await participant(amqp_url, namespace)
        await stage.commit(command(namespace, uuid4(), 1))
        await eventually(lambda: has_rows(database, 1))

        assert len(await ids(amqp_url, queue)) == 1
        assert await table(database, "owner") == [(other,)]


@pytest.mark.parametrize(
    ("point", "copies"),
    [
        ("relay.before_publish", 1),
        ("relay.published", 2),
        ("relay.confirmed", 2),
        ("relay.deleted", 1),
        ("relay.taken_over", 1),
    ],
)
async def test_a_worker_killed_at_any_point_loses_nothing_and_sends_at_most_one_copy_more(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually, point: str,
    copies: int,
) -> None:  # fmt: skip
    """features: M34"""
    queue = await participant(amqp_url, namespace)
    ref = uuid4()
    async with database.transaction() as connection:
        await outbox.append(connection, [command(namespace, ref, 1)], owner=outbox.NOBODY)
    killed = await asyncio.to_thread(run_until_killed, database_url, amqp_url, str(namespace), point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    await run_sql(database, "UPDATE saga_worker.worker SET lease_until = now() - interval '1 s'")
    async with publishing(amqp_url, namespace) as publisher, relaying(database, publisher, namespace):
        await eventually(lambda: is_empty(database))
    got = await received(amqp_url, queue)

    assert 1 <= len(got) <= copies
    assert set(got) == {(command_id(ref, 1), b'{"seq":1}')}


def run_until_killed(database_url: str, amqp_url: str, namespace: str, point: str) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "tests.stages.test_outbox_relay", database_url, amqp_url, namespace]
    return subprocess.run(
        command_line, env={**os.environ, faults.VARIABLE: f"{point}=kill"}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


async def relay_alone(arguments: Sequence[str]) -> None:
    database_url, amqp_url, namespace = arguments
    async with (
        Database(database_url) as database,
        publishing(amqp_url, namespace) as publisher,
        relaying(database, publisher, namespace),
    ):
        await asyncio.Event().wait()  # for the fault point to end it


if __name__ == "__main__":
    asyncio.run(relay_alone(sys.argv[1:]))
