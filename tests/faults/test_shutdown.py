"""P17: SIGTERM under load, twice, and while starting: exit 0 within the grace, and nobody waits for a lease."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from saga_worker.broker import Deliveries, Topology
from saga_worker.broker.connection import BrokerConnection
from saga_worker.broker.session import Session
from saga_worker.consumer import Consumer
from saga_worker.sql.connection import Database
from saga_worker.sql.migrate import upgrade
from saga_worker.testing import Direction, FaultProxy
from saga_worker.trial.postgres import EmbeddedPostgres
from saga_worker.trial.supervisor import free_port
from tests.faults.campaign import CHECKOUT, DEAL, Campaign, Event, Place
from tests.faults.kill_points import SETTINGS, UNDOABLE, load
from tests.faults.partners import Partners

Eventually = Callable[..., Awaitable[Any]]
PARTS = 3
ORDERS = 15  # in each part
GRACE = 30.0
# Whoever waited for this lease would not be through in time.
LONG_LEASE = {"SAGA_WORKER_LEASE_SECONDS": "300"}
LEFT = """\
SELECT (SELECT count(*) FROM saga_worker.worker WHERE lease_until > now()) AS leases,
       (SELECT count(*) FROM saga_worker.v_outbox WHERE owner <> 0) AS owned"""
FIRST_COMMIT = "SELECT min(committed_at) FROM saga_worker.v_journal WHERE worker = $1"


@pytest.mark.slow
async def test_a_worker_stopped_under_load_leaves_nothing_to_a_lease(place: Place, eventually: Eventually) -> None:
    """features: M15"""
    async with Campaign(place, CHECKOUT, SETTINGS | LONG_LEASE) as run:
        await asyncio.gather(run.start_participants(), run.start_worker("w0"))
        for part in range(PARTS):
            events, _ = load(ORDERS, seed=part)
            await run.publish(Event(f"{part}-{e.id}", e.type, renamed(e, part), e.source) for e in events)
            if part:
                await run.start_worker(f"w{part}")
                assert await delay(run, eventually, f"w{part}") < GRACE, "it waited for no lease"
            stored = await run.value("SELECT count(*) FROM saga_worker.v_inbox")
            await eventually(lambda n=stored: run.value(f"SELECT count(*) > {n} FROM saga_worker.v_inbox"), 30)
            await run.stop(f"w{part}", deadline=GRACE)
            run.faults += 1
            assert dict((await run.fetch(LEFT))[0]) == {"leases": 0, "owned": 0}
        await run.start_worker("last")
        await run.until_quiet()
        outcome = await run.outcome(acknowledged=PARTS * ORDERS, faults=PARTS, undoable=UNDOABLE)

        assert not outcome.broken
        assert outcome.report.redelivered == 0, "nothing was sent twice"
        await run.stop("last", deadline=GRACE)


def renamed(event: Event, part: int) -> dict[str, object]:
    return {**event.data, "order_id": f"{part}-{event.data['order_id']}"}


async def delay(run: Campaign, eventually: Eventually, name: str) -> float:
    """Seconds between the worker's word that it is ready and its first commit."""
    (ready,) = run.processes.lines(name, "worker_ready")
    first: datetime = await eventually(lambda: run.value(FIRST_COMMIT, int(ready["worker"])), 30)
    return (first - datetime.fromisoformat(ready["timestamp"])).total_seconds()


@pytest.mark.slow
async def test_a_second_signal_ends_a_drain_that_takes_long(place: Place, eventually: Eventually) -> None:
    """The broker confirms nothing, and the relay would wait for it."""
    hour = {"SAGA_WORKER_GRACE_SECONDS": "3600"}
    async with (
        FaultProxy.before(place.amqp_url) as proxy,
        Campaign(place, DEAL, LONG_LEASE | hour) as run,
        Partners(run),
    ):
        through = {"SAGA_WORKER_AMQP_URL": proxy.rewrite(place.amqp_url)}
        await run.start_worker("one", roles=["relay"], variables=through)
        await run.start_worker("others", roles=["consume", "advance", "sweep"])
        proxy.stall(Direction.TO_CLIENT)
        await run.publish([Event(f"open-{n}", "deal_opened", {"deal": f"d{n}"}) for n in range(20)])
        await eventually(lambda: run.value("SELECT count(*) > 0 FROM saga_worker.v_outbox WHERE owner <> 0"), 30)
        run.processes.signal("one", signal.SIGTERM)
        await run.processes.until_said("one", "worker_draining")
        run.processes.signal("one", signal.SIGTERM)
        assert await run.processes.until_ended("one", GRACE) == 0
        run.faults += 1
        assert dict((await run.fetch(LEFT))[0]) == {"leases": 1, "owned": 0}

        await run.start_worker("two", roles=["relay"])
        await run.until_quiet()
        assert not (await run.outcome(acknowledged=20, undoable=("book", "pay"))).broken
        await run.stop("two", "others")


@pytest.mark.slow
@pytest.mark.parametrize("word", ["worker_started", "worker_ready"])
async def test_a_worker_that_is_stopped_while_it_starts_ends_well(place: Place, word: str) -> None:
    async with Campaign(place, DEAL) as run:
        await run.start_worker("one", ready=False)
        await run.processes.until_said("one", word)
        await run.stop("one", deadline=GRACE)
        assert dict((await run.fetch(LEFT))[0]) == {"leases": 0, "owned": 0}


@pytest.mark.slow
@pytest.mark.parametrize("server", ["DATABASE", "AMQP"])
async def test_a_worker_that_waits_for_a_server_can_be_stopped(place: Place, server: str) -> None:
    url = place.database_url if server == "DATABASE" else place.amqp_url
    nobody = f"{url.partition('://')[0]}://guest:guest@127.0.0.1:{free_port()}/nowhere"
    async with Campaign(place, DEAL) as run:
        await run.start_worker("one", ready=False, variables={f"SAGA_WORKER_{server}_URL": nobody})
        await run.processes.until_said("one", "database_lost" if server == "DATABASE" else "broker_lost")
        await run.stop("one", deadline=GRACE)


async def test_a_connection_that_comes_up_while_it_is_closed_ends_too(amqp_url: str) -> None:
    """The library under it can swallow the cancellation of whoever waits for an answer of the broker."""
    connection, is_coming_up = BrokerConnection(amqp_url, "test"), asyncio.Event()

    async def come_up_in_any_case(session: Session) -> None:
        is_coming_up.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    starting = asyncio.create_task(connection.start(come_up_in_any_case, lambda closure: None))
    await is_coming_up.wait()
    starting.cancel()
    async with asyncio.timeout(GRACE):
        await connection.close()
    assert not connection.is_up


@pytest.mark.slow
@pytest.mark.postgres_server
async def test_a_worker_whose_database_is_away_can_be_stopped(place: Place, private_postgres: EmbeddedPostgres) -> None:
    await upgrade(private_postgres.url)
    there = replace(place, database_url=private_postgres.url)
    async with Campaign(there, DEAL, {"SAGA_WORKER_GRACE_SECONDS": "3"}) as run:
        await run.start_worker("one")
        await run.publish([Event("open-1", "deal_opened", {"deal": "d"})])
        await asyncio.to_thread(private_postgres.stop, "fast")
        await run.publish([Event("open-2", "deal_opened", {"deal": "d2"})])
        await run.processes.until_said("one", "database_lost")
        await run.stop("one", deadline=GRACE)


class Questioned(Deliveries):
    """The broker answers the question for its backlog in the very moment in which the asker is cancelled."""

    questions = 0

    @property
    def is_up(self) -> bool:
        return True

    async def backlog(self) -> int | None:
        self.questions += 1
        if self.questions > 1:
            await asyncio.Event().wait()
        with suppress(asyncio.CancelledError):  # so does wait_for of Python 3.11, which the library uses
            await asyncio.Event().wait()
        return 1


async def test_a_consumer_ends_although_a_cancellation_was_swallowed(place: Place, eventually: Eventually) -> None:
    deliveries = Questioned(BrokerConnection(place.amqp_url, "test"), Topology(str(place.namespace)))
    consumer = Consumer(Database(place.database_url, "saga_worker"), deliveries)
    running = asyncio.create_task(consumer.run())
    await eventually(lambda: deliveries.questions > 0)

    await consumer.stop()
    ended, _ = await asyncio.wait({running}, timeout=GRACE)
    assert ended
