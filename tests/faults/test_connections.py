"""P05, P07, P09: connections to the broker that are cut, a PostgreSQL that crashes, a PostgreSQL that is away."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from saga_worker.sql.migrate import upgrade
from saga_worker.testing import Direction, FaultProxy
from saga_worker.trial.postgres import EmbeddedPostgres
from tests.faults.campaign import CHECKOUT, TALLY, Campaign, Event, Place
from tests.faults.kill_points import SETTINGS, UNDOABLE, load

Eventually = Callable[..., Awaitable[Any]]
CUTS = 8
PREFETCH = 50
AWAY_SECONDS = float(os.environ.get("SAGA_WORKER_TEST_AWAY_SECONDS", "8"))  # 60 in the long campaign


@pytest.fixture
def own_place(place: Place, private_postgres: EmbeddedPostgres) -> Place:
    """On a PostgreSQL of this test alone."""
    return replace(place, database_url=private_postgres.url)


@pytest.mark.slow
async def test_connections_cut_in_the_middle_of_publishes_and_acks_lose_nothing(
    place: Place, eventually: Eventually
) -> None:
    events, again = load(60, seed=5)
    async with FaultProxy.before(place.amqp_url) as proxy, Campaign(place, CHECKOUT, SETTINGS) as run:
        through = {"SAGA_WORKER_AMQP_URL": proxy.rewrite(place.amqp_url)}
        await asyncio.gather(run.start_participants(), run.start_workers("one", "two", variables=through))
        publishing = asyncio.create_task(run.publish(events))
        run.faults = await cut_repeatedly(proxy, times=CUTS)
        await publishing
        await run.publish(again)
        await run.until_quiet()
        outcome = await run.outcome(acknowledged=60, faults=CUTS, undoable=UNDOABLE)

        assert not outcome.broken
        assert sum((await run.statuses()).values()) == 60
        await run.stop("one", "two")


async def cut_repeatedly(proxy: FaultProxy, *, times: int) -> int:
    """RST on all connections, every 0.3 to 2 s; counts the times at which there were some."""
    choice = random.Random(times)
    cut = 0
    while cut < times:
        await asyncio.sleep(choice.uniform(0.3, 2.0))
        cut += proxy.reset() > 0
    return cut


@pytest.mark.slow
@pytest.mark.postgres_server
async def test_a_crash_of_postgresql_loses_and_doubles_nothing(
    own_place: Place, private_postgres: EmbeddedPostgres, eventually: Eventually
) -> None:
    """features: M28"""
    await upgrade(own_place.database_url)
    events, again = load(60, seed=7)
    async with Campaign(own_place, CHECKOUT, SETTINGS) as run:
        await asyncio.gather(run.start_participants(), run.start_workers("one", "two"))
        publishing = asyncio.create_task(run.publish(events))
        for rows in (20, 120):
            await eventually(lambda rows=rows: run.value(f"SELECT count(*) >= {rows} FROM saga_worker.v_inbox"), 30)
            await asyncio.to_thread(private_postgres.stop, "immediate")
            await asyncio.to_thread(private_postgres.start)
            run.faults += 1
        await publishing
        await run.publish(again)
        await run.until_quiet()
        outcome = await run.outcome(acknowledged=60, faults=2, undoable=UNDOABLE)

        assert not outcome.broken
        assert sum((await run.statuses()).values()) == 60
        assert await run.value("SELECT current_setting('fsync')") == "on"
        await run.stop("one", "two")


@pytest.mark.slow
@pytest.mark.postgres_server
async def test_while_postgresql_is_away_messages_stay_in_the_queue_and_service_resumes_alone(
    own_place: Place, private_postgres: EmbeddedPostgres, eventually: Eventually
) -> None:
    await upgrade(own_place.database_url)
    accounts = [f"a{n}" for n in range(400)]
    opened = [Event(f"open-{account}", "tally_opened", {"account": account}) for account in accounts]
    async with FaultProxy.before(own_place.amqp_url) as proxy, Campaign(own_place, TALLY) as run:
        through = {"SAGA_WORKER_AMQP_URL": proxy.rewrite(own_place.amqp_url), "SAGA_WORKER_PREFETCH": str(PREFETCH)}
        await run.start_workers("one", "two", variables=through)
        await run.publish(opened[:100])
        await run.until_quiet(may_wait=True)

        await asyncio.to_thread(private_postgres.stop, "fast")
        run.faults += 1
        await run.publish(opened[100:])
        for name in ("one", "two"):
            await run.processes.until_said(name, "database_lost", 30)
        before, logged = (deliveries(proxy), proxy.accepted), log_lines(run)
        await asyncio.sleep(AWAY_SECONDS)  # the length of the fault: a storm needs time to show
        assert proxy.accepted == before[1], "nobody connected anew"
        assert deliveries(proxy) - before[0] <= 4 * AWAY_SECONDS, "heartbeats, and no redelivery storm"
        assert log_lines(run) - logged < 2 * 5 * AWAY_SECONDS, "nor a storm of log lines"
        assert await run.left_in_queue() >= 300 - 2 * PREFETCH, "they stay there"

        await asyncio.to_thread(private_postgres.start)
        await run.until_quiet(may_wait=True)
        outcome = await run.outcome(acknowledged=400)
        assert not outcome.broken
        assert await run.states() == {"done": 400}
        assert run.processes.running == ["one", "two"], "the very processes that saw it go"
        await run.stop("one", "two")


def deliveries(proxy: FaultProxy) -> int:
    """Packets from the broker to the workers."""
    return sum(connection.packets[Direction.TO_CLIENT] for connection in proxy.connections)


def log_lines(run: Campaign) -> int:
    return sum(len(run.processes.log(name).splitlines()) for name in ("one", "two"))
