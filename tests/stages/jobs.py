"""A saga that a client starts, and a pool that applies what it stores: what the tests of starting stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from saga_worker import Command, Compensate, Event, Message, Saga, UndoOf, Verdict, days, minutes, routes
from saga_worker.client import Client
from saga_worker.inbox_pool import PoolSettings
from saga_worker.saga.definition import Start
from saga_worker.saga.fold import Limits
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import command_id, ref_of
from saga_worker.settings import Settings
from saga_worker.wake_up import Listener
from tests.stages.pool_harness import Harness, harness, reply, row


class JobAsked(Event):
    job: str
    cents: int = 0


class JobDone(Event):
    job: str
    well: bool = True


class Packed(Message):
    box: str


class Pack(Command[Packed]):
    job: str


class Unpack(UndoOf[Pack]):
    job: str


class Job(BaseModel):
    job: str
    cents: int
    box: str | None = None


class Delivered(BaseModel):
    box: str
    cents: int


def delivered(job: Job) -> Delivered:
    assert job.box is not None
    return Delivered(box=job.box, cents=job.cents)


def job_saga(name: str = "job", **options: Any) -> tuple[Saga[Job], Start[Job, JobAsked, Any]]:
    """Packs a box and waits until somebody says that the job is done, well or not."""
    saga = Saga(name, state=Job, deadline=days(1), **options)

    @saga.starts_on(JobAsked, key=lambda e: e.job)
    def asked(event: JobAsked) -> Job:
        if event.cents < 0:
            raise ValueError("less than nothing")
        return Job(job=event.job, cents=event.cents)

    @saga.command("packers", timeout=minutes(1))
    def pack(job: Job) -> Pack:
        return Pack(job=job.job)

    @pack.reply
    def packed(job: Job, reply: Packed) -> Verdict:
        job.box = reply.box
        return None

    @pack.undo
    def unpack(job: Job) -> Unpack:
        return Unpack(job=job.job)

    done = saga.wait("done")

    @done.on(JobDone, key=lambda e: e.job)
    def is_done(job: Job, event: JobDone) -> Verdict:
        return None if event.well else Compensate("badly done")

    saga.flow(pack, done)
    return saga, asked


@dataclass
class Crew:
    """A pool with a client; `say` and `answer` store what the world says to its sagas."""

    harness: Harness
    client: Client
    said: int = 0

    async def say(self, *events: Event, definition: str = "job") -> None:
        for event in events:
            self.said += 1
            key = event.model_dump()["job"]
            await self.harness.store(row(event, key, message_id=f"said {self.said}", definition=definition))
        self.harness.pool.look()

    async def answer(self, message: Message, job: str, *, seq: int, definition: str = "job") -> None:
        self.said += 1
        to = command_id(ref_of(definition, job), seq)
        await self.harness.store(reply(message, to, job, message_id=f"said {self.said}", definition=definition))
        self.harness.pool.look()


@asynccontextmanager
async def crew(
    database_url: str, *sagas: Saga[Any], works: bool = True, limits: Limits | None = None
) -> AsyncIterator[Crew]:
    """Without `works` what is stored is not applied before `harness.pool.start()`."""
    pool = PoolSettings(poll_seconds=0.5)  # for a hint about a saga that is in hand
    async with harness(database_url, *sagas, pool=pool, limits=limits) as h:
        async with h.database.transaction() as connection:
            await routes.register(connection, Registry(sagas).routes())
        listener = Listener(database_url, h.database.schema, on_news=h.pool.look)
        listener.start()
        if works:
            h.pool.start()
        try:
            async with Client(Settings(database_url=database_url), source="shop") as client:
                yield Crew(h, client)
        finally:
            await listener.stop()
            await h.pool.stop()
