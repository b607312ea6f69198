"""Deliveries to rows on a real broker and a real database: stored once, acknowledged after, whatever fails between."""

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

from saga_worker import faults, routes
from saga_worker.broker import Deliveries
from saga_worker.consumer import Consumer
from saga_worker.envelope import EnvelopeLimits
from saga_worker.saga.routing import KeyKind, Route, command_id, ref_of
from saga_worker.saga.rows import Role
from saga_worker.sql.connection import Database
from saga_worker.testing.namespaces import Namespace
from saga_worker.testing.proxy import FaultProxy
from tests.stages.transport import bare_channel, consuming, event, publish_all, publishing

Eventually = Callable[..., Awaitable[Any]]
PLACED = Route("checkout", 1, "order_placed", Role.EVENT, "/order_id", KeyKind.TEXT)


@dataclass
class Stage:
    """A running consumer and what it told."""

    consumer: Consumer
    deliveries: Deliveries
    stored: list[UUID] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@asynccontextmanager
async def running(
    database: Database, amqp_url: str, namespace: str, *, hold_seconds: float = 300.0, batch_size: int = 200
) -> AsyncIterator[Stage]:
    stored: list[UUID] = []
    told: list[str] = []

    async def caught_up() -> None:
        told.append("caught up")

    async def behind() -> None:
        told.append("behind")

    async with consuming(amqp_url, namespace) as deliveries:
        consumer = Consumer(
            database, deliveries, limits=EnvelopeLimits(parking_seconds=60), on_stored=stored.extend,
            on_caught_up=caught_up, on_behind=behind, hold_seconds=hold_seconds, batch_size=batch_size,
        )  # fmt: skip
        task = asyncio.create_task(consumer.run())
        try:
            yield Stage(consumer, deliveries, stored, told)
        finally:
            await consumer.stop()
            await task


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=4) as opened:
        async with opened.transaction() as connection:
            await routes.register(connection, [PLACED])
        yield opened


async def rows(database: Database, columns: str = "message_id") -> list[tuple[Any, ...]]:
    async with database.autocommit() as connection:
        found = await connection.raw.fetch(f"SELECT {columns} FROM saga_worker.inbox ORDER BY id")
    return [tuple(row) for row in found]


async def count(database: Database) -> int:
    return len(await rows(database))


async def run_sql(database: Database, statement: str) -> None:
    async with database.autocommit() as connection:
        await connection.raw.execute(statement)


async def test_ten_thousand_events_are_stored_once_each_in_order_and_acknowledged(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    messages = [event(namespace, f"m{n}", body=b'{"order_id":"o-%d"}' % (n % 500)) for n in range(10_000)]
    async with running(database, amqp_url, namespace) as stage, publishing(amqp_url, namespace) as publisher:
        await publisher.publish(messages)
        await eventually(lambda: has_rows(database, 10_000), deadline=60)
        await eventually(lambda: stage.deliveries.unacknowledged == 0)
        found = await rows(database, "message_id, ref, state")

        assert [row[0] for row in found] == [m.properties.message_id for m in messages]
        assert found[7][1] == ref_of("checkout", "o-7")
        assert set(stage.stored) == {ref_of("checkout", f"o-{n}") for n in range(500)}
        assert await stage.deliveries.backlog() == 0


async def test_a_message_sent_ten_times_is_stored_once(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with running(database, amqp_url, namespace) as stage, publishing(amqp_url, namespace) as publisher:
        await publisher.publish([event(namespace, "m1")] * 10 + [event(namespace, "m2")])
        await eventually(lambda: rows(database))
        await eventually(lambda: stage.deliveries.unacknowledged == 0)

        assert await rows(database) == [("m1",), ("m2",)]


async def test_one_id_from_two_producers_is_two_messages_and_another_body_is_a_dead_letter(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with running(database, amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        other_producer = event(namespace, "m1", app_id="web")
        other_body = event(namespace, "m1", body=b'{"order_id":"o-2"}')
        for message in (event(namespace, "m1"), other_producer, other_body):
            await publisher.publish([message])
        await eventually(lambda: has_rows(database, 3))

        assert await rows(database, "source, state, reason") == [
            ("shop", 0, None), ("web", 0, None), ("shop", 5, "id_reused"),
        ]  # fmt: skip


async def has_rows(database: Database, number: int) -> bool:
    return await count(database) == number


async def has_rows_at_least(database: Database, number: int) -> bool:
    return await count(database) >= number


@pytest.mark.usefixtures("hot_path")
async def test_bad_messages_become_dead_rows_and_their_neighbours_are_stored(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    bad = [
        event(namespace, "b1", body=b"{"),
        event(namespace, "b2", body=b'{"a":"\\u0000"}'),
        event(namespace, "caf\udce9"),
        event(namespace, "b4", type_="order_placed", app_id="a\x00b"),
        event(namespace, "b5", headers={"deep": [[[b"\x00"]]]}, content_type="text/plain"),
    ]
    async with (
        running(database, amqp_url, namespace) as stage,
        publishing(amqp_url, namespace, path="lean") as publisher,  # the other one cannot send such an id
    ):
        await publisher.publish([event(namespace, "g1"), *bad, event(namespace, "g2")])
        await eventually(lambda: has_rows(database, 7))
        await eventually(lambda: stage.deliveries.unacknowledged == 0)

        assert [row[0] for row in await rows(database, "reason")] == [
            None, "invalid_json", "nul_character", "invalid_message_id", "invalid_source", "unsupported_content_type",
            None,
        ]  # fmt: skip


async def test_replies_find_the_definition_of_their_saga_and_those_to_no_saga_are_dead(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    ref = ref_of("checkout", "o-1")
    await run_sql(
        database,
        "INSERT INTO saga_worker.saga (saga_id, ref, definition, definition_version, key, status, revision, seq,"
        f" unsettled, state, progress, started_at, updated_at) VALUES ('{uuid4()}', '{ref}', 'checkout', 1, 'o-1', 0,"
        " 1, 1, 0, '{}', '{}', now(), now())",
    )
    async with running(database, amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        answer = event(namespace, "r1", correlation_id=command_id(ref, 1))
        stray = event(namespace, "r2", correlation_id=command_id(uuid4(), 1))
        await publisher.publish([answer, stray])
        await eventually(lambda: has_rows(database, 2))

        assert await rows(database, "consumer, role, ref, state, reason") == [
            ("checkout", 1, ref, 0, None), ("", 1, None, 5, "unknown_command"),
        ]  # fmt: skip


async def test_a_route_that_another_worker_registers_counts_from_the_next_delivery_on(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with running(database, amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        await publisher.publish([event(namespace, "m1")])
        await eventually(lambda: has_rows(database, 1))
        async with database.transaction() as connection:
            loyalty = Route("loyalty", 1, "order_placed", Role.EVENT, "/order_id", KeyKind.TEXT)
            await routes.register(connection, [loyalty])
        await publisher.publish([event(namespace, "m2")])
        await eventually(lambda: has_rows(database, 3))

        assert await rows(database, "message_id, consumer") == [
            ("m1", "checkout"),
            ("m2", "checkout"),
            ("m2", "loyalty"),
        ]


async def test_an_unknown_type_is_parked_without_a_saga(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with running(database, amqp_url, namespace) as stage, publishing(amqp_url, namespace) as publisher:
        await stage.deliveries.bind_types(["new_thing"])
        await publisher.publish([event(namespace, "m1", type_="new_thing")])
        await eventually(lambda: has_rows(database, 1))

        assert await rows(database, "state, reason, ref, expires_at > now()") == [(1, "no_definition", None, True)]


@pytest.mark.usefixtures("hot_path")
async def test_what_the_broker_gave_up_is_stored_as_a_suspect(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with consuming(amqp_url, namespace) as idle, publishing(amqp_url, namespace) as publisher:
        await idle.pause()
        await publisher.publish([event(namespace, "m1")])
        async with bare_channel(amqp_url) as channel:
            got = await (await channel.get_queue(f"{namespace}.inbox", ensure=False)).get()
            assert got is not None
            await got.reject(requeue=False)
    async with running(database, amqp_url, namespace):
        await eventually(lambda: has_rows(database, 1))

    assert await rows(database, "message_id, state, suspect") == [("m1", 0, True)]


async def test_a_row_that_the_database_refuses_is_found_and_kept_as_a_dead_letter(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    await run_sql(
        database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.message_id = 'poison' THEN"
        " RAISE EXCEPTION 'no' USING ERRCODE = '22023'; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT ON saga_worker.inbox FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    messages = [event(namespace, f"m{n}") for n in range(50)]
    messages.insert(17, event(namespace, "poison", body=b'{"order_id":"kept"}'))
    async with running(database, amqp_url, namespace) as stage, publishing(amqp_url, namespace) as publisher:
        await publisher.publish(messages)
        await eventually(lambda: has_rows(database, 51))
        await eventually(lambda: stage.deliveries.unacknowledged == 0)
        found = await rows(database, "message_id, reason, body")

    assert [row[0] for row in found if row[1] is None] == [f"m{n}" for n in range(50)]
    assert found[17][1:] == ("unstorable", b'{"order_id":"kept"}')


async def test_while_the_database_is_away_deliveries_wait_in_hand_and_none_is_redelivered(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with (
        FaultProxy.before(database_url) as proxy,
        Database(proxy.rewrite(database_url)) as far,
        running(far, amqp_url, namespace) as stage,
        publishing(amqp_url, namespace) as publisher,
    ):
        await publisher.publish([event(namespace, "m0")])
        await eventually(lambda: has_rows(database, 1))
        await proxy.refuse()
        proxy.reset()
        await publisher.publish([event(namespace, f"m{n}") for n in range(1, 100)])
        await eventually(lambda: stage.deliveries.is_paused)
        await publisher.publish([event(namespace, f"m{n}") for n in range(100, 200)])
        waiting = await stage.deliveries.backlog()
        await proxy.heal()
        await eventually(lambda: has_rows(database, 200))
        await eventually(lambda: stage.deliveries.unacknowledged == 0)

        assert waiting == 100
        assert stage.deliveries.connects == 1
        assert await rows(database) == [(f"m{n}",) for n in range(200)]


@pytest.mark.usefixtures("hot_path")
async def test_after_the_time_limit_deliveries_go_back_to_the_queue_and_come_again(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with (
        FaultProxy.before(database_url) as proxy,
        Database(proxy.rewrite(database_url)) as far,
        running(far, amqp_url, namespace, hold_seconds=0.3) as stage,
    ):
        await proxy.refuse()
        proxy.reset()
        async with publishing(amqp_url, namespace) as publisher:
            await publisher.publish([event(namespace, "m1")])
        await eventually(lambda: stage.deliveries.connects >= 2)
        await proxy.heal()
        await eventually(lambda: has_rows(database, 1))


async def test_a_commit_without_an_answer_is_repeated_and_stored_once(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with (
        FaultProxy.before(database_url) as proxy,
        Database(proxy.rewrite(database_url)) as far,
        running(far, amqp_url, namespace) as stage,
        publishing(amqp_url, namespace) as publisher,
    ):
        await publisher.publish([event(namespace, "m0")])
        await eventually(lambda: has_rows(database, 1))
        cut = proxy.cut_answer(lambda packet: b"COMMIT" in packet)
        await publisher.publish([event(namespace, "m1")])
        async with asyncio.timeout(10):
            await cut.wait()
        await eventually(lambda: stage.deliveries.unacknowledged == 0)

        assert await rows(database) == [("m0",), ("m1",)]


async def test_five_thousand_events_survive_cuts_of_broker_and_database(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    messages = [event(namespace, f"m{n}") for n in range(5000)]
    async with FaultProxy.before(database_url) as to_database, FaultProxy.before(amqp_url) as to_broker:
        url = to_broker.rewrite(amqp_url)
        async with (
            Database(to_database.rewrite(database_url)) as far,
            running(far, url, namespace, batch_size=50) as stage,
            publishing(url, namespace) as publisher,
        ):
            sending = asyncio.create_task(publish_all(publisher, messages))
            cuts = 0
            for number in range(5):
                await eventually(lambda enough=600 * number: has_rows_at_least(database, enough))
                cuts += (to_database.reset() > 0) + (to_broker.reset() > 0)
            await sending
            await eventually(lambda: has_rows(database, 5000))
            await eventually(lambda: stage.deliveries.is_up and stage.deliveries.unacknowledged == 0)

            assert cuts >= 5
            assert {row[0] for row in await rows(database)} == {m.properties.message_id for m in messages}


async def test_it_says_when_it_has_caught_up_and_when_it_is_behind_again(
    database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    async with consuming(amqp_url, namespace) as idle, publishing(amqp_url, namespace) as publisher:
        await idle.pause()
        await publisher.publish([event(namespace, f"m{n}") for n in range(1000)])
    async with FaultProxy.before(amqp_url) as proxy, running(database, proxy.rewrite(amqp_url), namespace) as stage:
        await eventually(lambda: stage.told == ["caught up"])
        stored = await count(database)
        proxy.reset()
        await eventually(lambda: stage.told == ["caught up", "behind", "caught up"])

    assert stored >= 1000


@pytest.mark.parametrize(
    ("point", "stored_before_death"),
    [
        ("consumer.before_insert", 0),
        ("consumer.before_commit", 0),
        ("consumer.stored_before_ack", 5),
        ("consumer.acknowledged", 5),
    ],
)
async def test_a_worker_killed_at_any_point_loses_nothing_and_stores_nothing_twice(
    database_url: str, database: Database, amqp_url: str, namespace: Namespace, eventually: Eventually, point: str,
    stored_before_death: int,
) -> None:  # fmt: skip
    async with consuming(amqp_url, namespace) as idle, publishing(amqp_url, namespace) as publisher:
        await idle.pause()
        await publisher.publish([event(namespace, f"m{n}") for n in range(5)])
    killed = await asyncio.to_thread(run_until_killed, database_url, amqp_url, str(namespace), point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert await count(database) == stored_before_death

    async with running(database, amqp_url, namespace) as stage:
        await eventually(lambda: stage.told == ["caught up"])
        await eventually(lambda: stage.deliveries.unacknowledged == 0)

    assert sorted(await rows(database)) == [(f"m{n}",) for n in range(5)]


def run_until_killed(database_url: str, amqp_url: str, namespace: str, point: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.stages.test_consumer", database_url, amqp_url, namespace]
    return subprocess.run(
        command, env={**os.environ, faults.VARIABLE: f"{point}=kill"}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


async def consume_alone(arguments: Sequence[str]) -> None:
    database_url, amqp_url, namespace = arguments
    async with Database(database_url) as database, running(database, amqp_url, namespace):
        await asyncio.Event().wait()  # for the fault point to end it


if __name__ == "__main__":
    asyncio.run(consume_alone(sys.argv[1:]))
