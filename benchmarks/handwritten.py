"""The worker that a good engineer writes by hand, one transaction per message: what R11 compares the product with.

    python -m benchmarks.handwritten DATABASE_URL AMQP_URL NAMESPACE

It plays the saga of `sagas/three_commands.py` with the same load generator and the same participant: a start, three
commands with their replies, a closing event. aio-pika takes many messages at a time. Each is known again by its id,
its saga is locked, moved on and written with history and outbox through SQLAlchemy, and it is acknowledged after the
commit. A relay publishes the outbox, awaits the confirms of a batch together, and deletes what is confirmed. What the
product has and this has not is left out to its advantage: time-outs, retries, compensation, dead letters, events that
come too soon.

What its options were tried with, on two cores that others used as well; CPU µs per message of the worker and of
PostgreSQL, the least of four to eight runs. It is the CPU that limits it: no option is worth more than the noise.

| processes | connections | relay looks every | worker | PostgreSQL |
|---|---|---|---|---|
| 1 | 3, 5, 10, 20 | 20 ms | 1540, 1510, 1540, 1530 | 530, 520, 530, 680 |
| 1 | 5 | 5 ms, 50 ms | 1440, 1430 | 510, 490 |
| 1 | 10, relay batches of 30, 500 | 20 ms | 1500, 1770 | 680, 660 |
| 2 | 5, 10 | 20 ms | 1590, 1630 | 590, 560 |
| 3 | 5, 10 | 20 ms | 1900, 1900 | 660, 770 |
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import uuid
from typing import Any

import aio_pika
import sqlalchemy as sa
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage, AbstractRobustConnection
from pydantic import BaseModel
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

RUNNING, COMPLETED = 0, 1
STEPS = ("first", "second", "third")


def _stamp(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


tables = sa.MetaData()
inbox = sa.Table(
    "inbox", tables,
    sa.Column("message_id", sa.Text, primary_key=True), sa.Column("type", sa.Text, nullable=False),
    _stamp("received_at"),
)  # fmt: skip
saga = sa.Table(
    "saga", tables,
    sa.Column("id", sa.Uuid, primary_key=True), sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("status", sa.SmallInteger, nullable=False), sa.Column("step", sa.Integer, nullable=False),
    sa.Column("data", JSONB, nullable=False), _stamp("created_at"), _stamp("updated_at"),
)  # fmt: skip
history = sa.Table(
    "saga_history", tables,
    sa.Column("saga_id", sa.Uuid, primary_key=True), sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("message_id", sa.Text, nullable=False), sa.Column("type", sa.Text, nullable=False), _stamp("at"),
)  # fmt: skip
outbox = sa.Table(
    "outbox", tables,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("exchange", sa.Text, nullable=False), sa.Column("routing_key", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False), sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False), _stamp("created_at"),
)  # fmt: skip

# Built once: SQLAlchemy compiles a statement for each shape it meets and asyncpg prepares each text once.
ADD_MESSAGE = insert(inbox).on_conflict_do_nothing().returning(inbox.c.message_id)
ADD_SAGA = insert(saga).on_conflict_do_nothing().returning(saga.c.id)
LOCK_SAGA = sa.select(saga.c.step, saga.c.data).where(saga.c.id == sa.bindparam("of")).with_for_update()
SAVE_SAGA = sa.update(saga).where(saga.c.id == sa.bindparam("of")).values(updated_at=sa.func.now())
ADD_HISTORY = insert(history)
ADD_OUTBOX = insert(outbox)
LOCK_OUTBOX = sa.select(outbox).order_by(outbox.c.id).limit(sa.bindparam("size")).with_for_update(skip_locked=True)
DELETE_OUTBOX = sa.delete(outbox).where(outbox.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger))))


class BenchStarted(BaseModel):
    key: str
    pad: str = ""


class Bench(BaseModel):
    key: str
    pad: str


class Command(BaseModel):
    key: str
    pad: str


class Echoed(BaseModel):
    key: str
    pad: str


class BenchCompleted(BaseModel):
    key: str


class Worker:
    """Consumer and relay of one process."""

    def __init__(self, engine: AsyncEngine, namespace: str, *, prefetch: int, batch: int, poll_seconds: float) -> None:
        self.engine = engine
        self.namespace = namespace
        self.prefetch = prefetch
        self.batch = batch
        self.poll_seconds = poll_seconds
        self.exchanges: dict[str, AbstractExchange] = {}

    async def run(self, connection: AbstractRobustConnection, stop: asyncio.Event) -> None:
        outgoing = await connection.channel(publisher_confirms=True)
        for name in ("events", "commands"):
            kind = aio_pika.ExchangeType.TOPIC
            self.exchanges[name] = await outgoing.declare_exchange(f"{self.namespace}.{name}", kind, durable=True)
        incoming = await connection.channel()
        await incoming.set_qos(prefetch_count=self.prefetch)
        queue = await incoming.declare_queue(
            f"{self.namespace}.inbox", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind(f"{self.namespace}.events", "bench_started")
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relay(stop))
            consumer = await queue.consume(self.on_message)
            print("ready", flush=True)
            await stop.wait()
            await queue.cancel(consumer)

    # -- in: one transaction per message, as many at a time as the prefetch -----------------------------------------

    async def on_message(self, message: AbstractIncomingMessage) -> None:
        # The ack follows the block, and with it the commit.
        async with message.process(requeue=True), self.engine.begin() as connection:
            await self.apply(connection, message)

    async def apply(self, connection: AsyncConnection, message: AbstractIncomingMessage) -> None:
        known_as = {"message_id": f"{message.app_id}/{message.message_id}", "type": message.type}
        if (await connection.execute(ADD_MESSAGE, known_as)).first() is None:
            return  # a duplicate
        if message.type == "bench_started":
            await self.start(connection, message)
        else:
            await self.go_on(connection, message)

    async def start(self, connection: AsyncConnection, message: AbstractIncomingMessage) -> None:
        event = BenchStarted.model_validate_json(message.body)
        state = Bench(key=event.key, pad=event.pad)
        saga_id = uuid.uuid4()
        row = {"id": saga_id, "key": state.key, "status": RUNNING, "step": 0, "data": state.model_dump()}
        if (await connection.execute(ADD_SAGA, row)).first() is not None:
            await self.write(connection, message, saga_id, 0, state)

    async def go_on(self, connection: AsyncConnection, message: AbstractIncomingMessage) -> None:
        reply = Echoed.model_validate_json(message.body)
        id_, _, step = (message.correlation_id or "").rpartition(".")
        saga_id = uuid.UUID(id_)
        found = (await connection.execute(LOCK_SAGA, {"of": saga_id})).one()
        if found.step != int(step):
            return  # an answer to a command of long ago
        state = Bench.model_validate(found.data)
        state.pad = reply.pad
        reached = found.step + 1
        status = RUNNING if reached < len(STEPS) else COMPLETED
        values = {"of": saga_id, "status": status, "step": reached, "data": state.model_dump()}
        await connection.execute(SAVE_SAGA, values)
        await self.write(connection, message, saga_id, reached, state)

    async def write(
        self, connection: AsyncConnection, message: AbstractIncomingMessage, saga_id: uuid.UUID, step: int, state: Bench
    ) -> None:
        """The history of this step, and what it sends: the next command, or the event at the end."""
        row = {"saga_id": saga_id, "step": step, "message_id": message.message_id, "type": message.type}
        await connection.execute(ADD_HISTORY, row)
        if step < len(STEPS):
            exchange, key, name = "commands", f"echo.{STEPS[step]}", STEPS[step]
            body = Command(key=state.key, pad=state.pad).model_dump_json()
        else:
            exchange, key, name = "events", "bench_completed", "bench_completed"
            body = BenchCompleted(key=state.key).model_dump_json()
        sent = {"exchange": exchange, "routing_key": key, "message_id": f"{saga_id}.{step}", "type": name}
        await connection.execute(ADD_OUTBOX, sent | {"body": body.encode()})

    # -- out --------------------------------------------------------------------------------------------------------

    async def relay(self, stop: asyncio.Event) -> None:
        """Publish what there is; when asked to stop, until there is nothing left."""
        while (count := await self.publish_batch()) or not stop.is_set():
            if count < self.batch:
                await asyncio.sleep(self.poll_seconds)

    async def publish_batch(self) -> int:
        async with self.engine.begin() as connection:
            rows = (await connection.execute(LOCK_OUTBOX, {"size": self.batch})).all()
            if rows:
                await asyncio.gather(*(self.publish(row) for row in rows))
                await connection.execute(DELETE_OUTBOX, {"ids": [row.id for row in rows]})
        return len(rows)

    async def publish(self, row: sa.Row[Any]) -> None:
        message = aio_pika.Message(
            row.body, message_id=row.message_id, type=row.type, app_id=self.namespace, content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT, reply_to=f"{self.namespace}.inbox",
        )  # fmt: skip
        await self.exchanges[row.exchange].publish(message, row.routing_key, mandatory=row.exchange == "commands")


def engine_of(database_url: str, *, connections: int = 2) -> AsyncEngine:
    url = database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    return create_async_engine(url, pool_size=connections, max_overflow=0)


async def create_tables(database_url: str) -> None:
    engine = engine_of(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
        await connection.execute(sa.text("ALTER TABLE saga SET (fillfactor = 70)"))
    await engine.dispose()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database_url")
    parser.add_argument("amqp_url")
    parser.add_argument("namespace")
    parser.add_argument("--connections", type=int, default=5, help="to the database: messages in hand at a time")
    parser.add_argument("--prefetch", type=int, default=25)
    parser.add_argument("--batch", type=int, default=100, help="rows of the outbox published at a time")
    parser.add_argument("--poll-seconds", type=float, default=0.02, help="of the relay, when the outbox is empty")
    options = parser.parse_args()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = engine_of(options.database_url, connections=options.connections + 1)  # one for the relay
    worker = Worker(
        engine, options.namespace, prefetch=options.prefetch, batch=options.batch, poll_seconds=options.poll_seconds
    )
    async with await aio_pika.connect_robust(options.amqp_url) as connection:
        await worker.run(connection, stop)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
