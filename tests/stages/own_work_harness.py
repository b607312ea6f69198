"""A saga with activities, and a worker's stages without a broker: what the tests of activities stand on.

The functions of the activities are the tests' own: each call waits for the test to say how it ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from saga_worker import ActivityContext, ActivityFailed, Compensate, Event, Retry, Saga, Undo, Verdict, inbox, workers
from saga_worker.activities import Activities
from saga_worker.activity_rows import Ended
from saga_worker.inbox import NewRow
from saga_worker.inbox_pool import InboxPool, PoolSettings
from saga_worker.orchestrator import Advanced, Orchestrator, Plan, TakenIn
from saga_worker.saga.fold import Limits
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Database
from saga_worker.sweepers import ExpiredLeases, LostActivities
from saga_worker.testing import eventually


class TripAsked(Event):
    trip: str


class TripDropped(Event):
    trip: str


class Fare(BaseModel):
    cents: int


class Seat(BaseModel):
    number: str


class Trip(BaseModel):
    trip: str
    cents: int = 0
    seat: str | None = None
    why: str | None = None


Call = Callable[[str, ActivityContext], Awaitable[str]]


@dataclass
class World:
    """What is done outside: every call by step and context, and how it ends."""

    calls: list[tuple[str, ActivityContext]] = field(default_factory=list)
    ends: dict[str, Call] = field(default_factory=dict)
    effects: dict[str, str] = field(default_factory=dict)  # idempotency key -> step

    async def call(self, step: str, ctx: ActivityContext) -> str:
        self.calls.append((step, ctx))
        how = self.ends.get(step)
        answer = await how(step, ctx) if how is not None else "1A"
        self.effects[ctx.idempotency_key] = step
        return answer

    def names(self) -> list[str]:
        return [step for step, _ in self.calls]


def trip_saga(
    world: World, *, retry: Retry | None = None, timeout: float = 60.0, undo: Undo = Undo.HYBRID,
    concurrency: int | None = None, handles_failure: bool = False, repeatable: bool = True,
) -> Saga[Trip]:  # fmt: skip
    """A fare is asked, a seat is taken (and given back), then the ticket is printed."""
    saga = Saga("trip", state=Trip, deadline=timedelta(days=1))

    @saga.starts_on(TripAsked, key=lambda e: e.trip)
    def asked(event: TripAsked) -> Trip:
        return Trip(trip=event.trip)

    @saga.on(TripDropped, key=lambda e: e.trip)
    def dropped(trip: Trip, event: TripDropped) -> Verdict:
        return Compensate("dropped")

    @saga.activity(timeout=timedelta(minutes=1), retry=Retry.fixed(3, timedelta(0)), undo=Undo.NONE)
    async def fare(trip: Trip, ctx: ActivityContext) -> Fare:
        await world.call("fare", ctx)
        return Fare(cents=100 + len(trip.trip))

    @fare.result
    def priced(trip: Trip, fare: Fare) -> None:
        trip.cents = fare.cents

    @saga.activity(
        timeout=timedelta(seconds=timeout), retry=retry, undo=undo, concurrency=concurrency, repeatable=repeatable
    )
    async def seat(trip: Trip, ctx: ActivityContext) -> Seat:
        return Seat(number=await world.call("seat", ctx))

    @seat.result
    def seated(trip: Trip, seat: Seat) -> None:
        trip.seat = seat.number

    if handles_failure:

        @seat.failed
        def no_seat(trip: Trip, why: ActivityFailed) -> Verdict:
            trip.why = f"{why.error} after {why.attempts}"
            return None

    if undo is not Undo.NONE:

        @seat.undo
        async def free(trip: Trip, ctx: ActivityContext) -> None:
            await world.call("free", ctx)

    @saga.activity(timeout=timedelta(minutes=1), undo=Undo.NONE)
    async def ticket(trip: Trip, ctx: ActivityContext) -> Fare:
        await world.call("ticket", ctx)
        return Fare(cents=trip.cents)

    @ticket.result
    def printed(trip: Trip, fare: Fare) -> None:
        assert fare.cents == trip.cents

    saga.flow(fare, seat, ticket)
    return saga


def event(message: Event, key: str, message_id: str, *, consumer: str = "trip") -> NewRow:
    return NewRow(
        consumer=consumer, source="test", message_id=message_id, type=message.wire_type, role=Role.EVENT,
        ref=ref_of(consumer, key), saga_key=key, correlation_id=None, state=RowState.READY, reason=None, error=None,
        suspect=False, prio=1, expires_at_seconds=None, props=b"{}", body=to_json(message.model_dump(mode="json")),
    )  # fmt: skip


@dataclass
class Stages:
    """A worker without a broker. `worker_id` may be changed, as after a lost lease."""

    database: Database
    registry: Registry
    orchestrator: Orchestrator
    pool: InboxPool
    activities: Activities
    lost: LostActivities
    leases: ExpiredLeases
    worker_id: int

    async def store(self, *rows: NewRow) -> None:
        async with self.database.transaction() as connection:
            inserted = await inbox.insert(connection, rows)
        self.pool.wake([ref for ref, _ in inserted.new if ref is not None])

    async def query(self, text: str, *args: object) -> list[dict[str, object]]:
        async with self.database.autocommit() as connection:
            return [dict(record) for record in await connection.raw.fetch(text, *args)]

    async def until(self, text: str, *args: object, seconds: float = 30.0) -> list[dict[str, object]]:
        """The rows of a query as soon as it has some."""
        try:
            found: list[dict[str, object]] = await eventually(lambda: self.query(text, *args), deadline=seconds)
        except AssertionError as error:
            raise AssertionError(f"no row of {text}; {await self.query('TABLE saga_worker.v_saga')}") from error
        return found

    async def until_status(self, status: str, key: str = "t") -> dict[str, object]:
        found = await self.until("SELECT * FROM saga_worker.v_saga WHERE key = $1 AND status = $2", key, status)
        return found[0]

    async def end_lease(self) -> None:
        """As if this worker had not been heard of for too long."""
        async with self.database.transaction() as connection:
            await workers.leave(connection, self.worker_id)

    async def sweep(self) -> None:
        await self.leases.sweep()
        await self.lost.sweep()


@asynccontextmanager
async def stages(
    database_url: str, saga: Saga[Any], *sagas: Saga[Any], fast: bool = True, concurrency: int = 100, runs: bool = True,
    on_results: Callable[[Sequence[Ended]], None] = lambda group: None,
) -> AsyncIterator[Stages]:  # fmt: skip
    """With `runs=False` the runner takes nothing: activities stay ready. `on_results` sees groups of the fast path."""
    async with Database(database_url, max_size=8) as database:
        registry = Registry([saga, *sagas])
        async with database.transaction() as connection:
            definitions = [f"{name}/{version}" for name, version in registry.versions()]
            first = await workers.register(connection, definitions, "test", 1)
        plan = Plan(registry, Limits(), "saga", timedelta(days=14))
        orchestrator = Orchestrator(database, plan, worker_id=lambda: made.worker_id, replies_are_in=lambda: True)

        def own_work(advanced: Advanced) -> None:
            activities.hand_over(advanced.activities, advanced.slots)

        async def take_results(group: Sequence[Ended]) -> TakenIn:
            on_results(group)
            return await orchestrator.take_results(group)

        pool = InboxPool(
            database, orchestrator, PoolSettings(poll_seconds=0.2), definitions=registry.names(),
            worker_id=lambda: made.worker_id, hand_over=lambda rows, held_back: None, reread=lambda: None,
            on_own_work=own_work,
        )  # fmt: skip
        activities = Activities(
            database, registry, worker_id=lambda: made.worker_id, concurrency=concurrency, poll_seconds=0.2,
            on_stored=pool.wake, on_taken_in=pool.follow_up,
            take_results=take_results if fast else None,
        )  # fmt: skip
        lost = LostActivities(database, pool, activities, registry)
        leases = ExpiredLeases(database, pool)
        made = Stages(database, registry, orchestrator, pool, activities, lost, leases, first)
        if runs:
            orchestrator.slots = activities.slots
            activities.start()
        pool.start()
        try:
            yield made
        finally:
            if runs:
                await activities.stop(0.0)
            await pool.stop()
