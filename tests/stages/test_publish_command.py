"""`saga-worker publish` against a real broker: what arrives, what is counted, what the ledger says."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from saga_worker import routes
from saga_worker.saga.routing import KeyKind, Route
from saga_worker.saga.rows import Role
from saga_worker.sql.connection import Database
from saga_worker.testing.namespaces import Namespace
from tests.stages.command_line import Run


@pytest.fixture
def broker(run: Run, amqp_url: str, namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setenv("SAGA_WORKER_AMQP_URL", amqp_url)
    monkeypatch.setenv("SAGA_WORKER_NAMESPACE", namespace)
    return Broker(amqp_url, namespace)


class Broker:
    """The far side of `publish`: a queue bound to the events exchange."""

    def __init__(self, url: str, namespace: Namespace) -> None:
        self._url = url
        self._exchange = f"{namespace}.events"
        self._queue = namespace.queue("taker")

    def bind(self, key: str = "#") -> None:
        async def work(channel: aio_pika.abc.AbstractChannel) -> None:
            exchange = await channel.declare_exchange(self._exchange, "topic", durable=True)
            await (await channel.declare_queue(self._queue, durable=True)).bind(exchange, key)

        asyncio.run(self._with_channel(work))

    def take(self, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
        """So many messages, and a look that there is no further one."""
        taken: list[aio_pika.abc.AbstractIncomingMessage] = []

        async def work(channel: aio_pika.abc.AbstractChannel) -> None:
            queue = await channel.get_queue(self._queue, ensure=False)
            async with asyncio.timeout(10), queue.iterator(no_ack=True) as messages:
                while len(taken) < count:
                    taken.append(await anext(messages))
            assert await queue.get(fail=False, no_ack=True) is None

        asyncio.run(self._with_channel(work))
        return taken

    async def _with_channel(self, work: Callable[[aio_pika.abc.AbstractChannel], Any]) -> None:
        async with await aio_pika.connect(self._url) as connection:
            await work(await connection.channel())


def test_an_event_is_published_with_its_properties(run: Run, broker: Broker) -> None:
    broker.bind()

    ran = run("publish", "order_placed", ' {"cents": 1.10} ', "--id", "order-4711", "--source", "shop")

    (message,) = broker.take(1)
    assert (ran.code, ran.out, ran.err) == (0, "order-4711\n", "")
    assert (message.message_id, message.type, message.app_id) == ("order-4711", "order_placed", "shop")
    assert (message.routing_key, message.content_type, message.delivery_mode) == ("order_placed", "application/json", 2)
    assert message.body == b'{"cents": 1.10}'


def test_an_event_without_id_gets_one_that_is_printed(run: Run, broker: Broker) -> None:
    broker.bind()

    ran = run("publish", "order_placed", "{}", "--json")

    (message,) = broker.take(1)
    assert ran.documents == [{"id": message.message_id, "type": "order_placed", "source": "cli", "outcome": "ok"}]


def test_an_event_that_reaches_no_queue_is_a_failure(run: Run, broker: Broker, tmp_path: Path) -> None:
    ran = run("publish", "order_placed", "{}", "--id", "e1", "--ledger", str(tmp_path / "ledger"))

    assert (ran.code, ran.out) == (1, "")
    assert "reached no queue" in ran.err and "order_placed" in ran.err
    assert [line["outcome"] for line in _ledger(tmp_path)] == ["intent", "returned"]


def test_a_file_is_published_and_its_broken_lines_are_named(run: Run, broker: Broker, tmp_path: Path) -> None:
    broker.bind()
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"id":"a","type":"t","source":"bank","time":"2011-10-01T00:00:00Z","data":{"n":1.50}}\nnonsense\n'
        '{"id":"b","type":"t","data":{}}\n{"id":"","type":"t","data":{}}\n'
    )

    ran = run("publish", "--file", str(path), "--json")

    first, second = broker.take(2)
    assert ran.code == 1
    assert ran.documents[0] | {"seconds": 0} == {
        "published": 2, "returned": 0, "unknown": 0, "refused": 0, "broken": 2, "seconds": 0,
    }  # fmt: skip
    assert "Line 2 is not a JSON object." in ran.err and 'Line 4 "id" is empty.' in ran.err
    assert (first.message_id, first.app_id, first.body) == ("a", "bank", b'{"n":1.50}')
    assert first.timestamp is not None and first.timestamp.year == 2011
    assert (second.message_id, second.app_id) == ("b", "cli")


def test_the_same_file_again_sends_the_same_ids_and_bytes(run: Run, broker: Broker, tmp_path: Path) -> None:
    broker.bind()
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f'{{"id":"e{n}","type":"t","data":{{"n": {n}}}}}\n' for n in range(1200)))

    codes = [run("publish", "--file", str(path)).code for _ in range(2)]

    copies = [(message.message_id, message.body) for message in broker.take(2400)]
    assert codes == [0, 0]
    assert copies[:1200] == copies[1200:]


def test_the_ledger_has_an_intent_before_and_an_outcome_after(run: Run, broker: Broker, tmp_path: Path) -> None:
    broker.bind()
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f'{{"id":"e{n}","type":"t","data":{{"n": {n}}}}}\n' for n in range(30)))
    (tmp_path / "ledger").write_text('{"id":"torn by a cra')

    assert run("publish", "--file", str(path), "--limit", "20", "--ledger", str(tmp_path / "ledger")).code == 0

    lines = _ledger(tmp_path)
    assert [line["outcome"] for line in lines] == ["intent"] * 20 + ["ok"] * 20
    assert lines[20] == {
        "id": "e0", "source": "cli", "type": "t", "sha256": hashlib.sha256(b'{"n": 0}').hexdigest(), "outcome": "ok",
    }  # fmt: skip


def _ledger(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "ledger").read_text().splitlines()]


def test_with_partitions_the_key_of_an_event_stands_in_a_header(
    run: Run, broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = Route("checkout", 1, "order_placed", Role.EVENT, "/order/id", KeyKind.INT)

    async def register() -> None:
        async with Database(database_url) as database, database.transaction() as connection:
            await routes.register(connection, [route])

    asyncio.run(register())
    monkeypatch.setenv("SAGA_WORKER_PARTITIONS", "4")
    assert run("publish", "order_placed", "{}").code == 2, "the routes stand in the database"
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database_url)
    broker.bind()
    for type_, data in (("order_placed", '{"order":{"id":4711}}'), ("order_placed", "{}"), ("other", "{}")):
        assert run("publish", type_, data).code == 0

    assert [message.headers.get("saga-key") for message in broker.take(3)] == ["4711", None, None]
