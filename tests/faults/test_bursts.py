"""P04, P15: many copies of one event at once, and many events of one saga at once, through several workers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.request import urlopen

import aio_pika
import pytest

from saga_worker.testing.ledgers import Ledger
from tests.faults.campaign import TALLY, Campaign, Event, Place

Eventually = Callable[..., Awaitable[Any]]
COPIES = 10


async def publish_at_once(run: Campaign, events: Sequence[Event], *, copies: int) -> None:
    """Each event once per connection, all connections at the same time."""
    with Ledger(run.producer) as ledger:
        _write(ledger, events, "intent", copies)
        await asyncio.gather(*(_publish_all(run, events) for _ in range(copies)))
        _write(ledger, events, "ok", copies)


def _write(ledger: Ledger, events: Sequence[Event], outcome: str, copies: int) -> None:
    lines = [
        {"source": e.source, "id": e.id, "type": e.type, "sha256": hashlib.sha256(e.body).hexdigest(),
         "outcome": outcome}
        for e in events
    ]  # fmt: skip
    for _ in range(copies):
        ledger.append(lines)


async def _publish_all(run: Campaign, events: Sequence[Event]) -> None:
    async with await aio_pika.connect(run.place.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(f"{run.place.namespace}.events", ensure=False)
        await asyncio.gather(*(exchange.publish(_message(e), e.type, mandatory=True) for e in events))


def _message(event: Event) -> aio_pika.Message:
    return aio_pika.Message(
        event.body, message_id=event.id, type=event.type, app_id=event.source, content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )  # fmt: skip


def duplicates_counted(port: int) -> int:
    """What a worker's own metric says."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        found = re.search(r"^saga_worker_inbox_duplicates_total ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def seen(run: Campaign) -> dict[str, list[int]]:
    """What each account has counted, in the order in which it did."""
    rows = await run.fetch("SELECT key, state -> 'seen' AS seen FROM saga_worker.v_saga")
    return {row["key"]: json.loads(row["seen"]) for row in rows}


@pytest.mark.slow
async def test_ten_copies_at_once_through_three_consumers_are_applied_once(
    place: Place, eventually: Eventually
) -> None:
    accounts = [f"a{n}" for n in range(10)]
    events = [Event(f"open-{account}", "tally_opened", {"account": account}) for account in accounts]
    events += [Event(f"{account}-{n}", "counted", {"account": account, "n": n}) for account in accounts for n in (1, 2)]
    copies = len(events) * (COPIES - 1)
    workers = ["w1", "w2", "w3"]
    # A small prefetch spreads the copies over the consumers.
    async with Campaign(place, TALLY, {"SAGA_WORKER_PREFETCH": "20"}) as run:
        await run.start_workers(*workers, variables={"SAGA_WORKER_HTTP_BIND": "0"})
        ports = [int(run.processes.lines(name, "health_served")[0]["port"]) for name in workers]
        await publish_at_once(run, events, copies=COPIES)
        run.faults += copies

        await eventually(lambda: sum(map(duplicates_counted, ports)) == copies, 30)
        await run.until_quiet(may_wait=True)
        outcome = await run.outcome(acknowledged=len(events), faults=copies)
        assert not outcome.broken
        assert outcome.report.repeated == copies
        assert await run.states() == {"done": len(events)}, "no error, no dead letter, no second row"
        assert {key: sorted(counted) for key, counted in (await seen(run)).items()} == {key: [1, 2] for key in accounts}
        assert all(duplicates_counted(port) for port in ports), "every consumer met some"
        await run.stop(*workers)


@pytest.mark.slow
async def test_fifty_events_of_a_saga_at_once_are_applied_one_after_the_other_by_four_workers(place: Place) -> None:
    """features: 69; M37"""
    hot, others = ["h1", "h2", "h3"], [f"o{n}" for n in range(20)]
    events = [Event(f"open-{account}", "tally_opened", {"account": account}) for account in (*hot, *others)]
    events += [Event(f"{account}-{n}", "counted", {"account": account, "n": n}) for account in hot for n in range(50)]
    events += [Event(f"{account}-0", "counted", {"account": account, "n": 0}) for account in others]
    async with Campaign(place, TALLY, {"SAGA_WORKER_PREFETCH": "3"}) as run:
        workers = ["w1", "w2", "w3", "w4"]
        await run.start_workers(*workers)
        await publish_at_once(run, events, copies=1)
        await run.until_quiet(may_wait=True)
        run.faults += len(hot)
        outcome = await run.outcome(acknowledged=len(events), faults=len(hot))

        assert not outcome.broken
        counted = {account: sorted(numbers) for account, numbers in (await seen(run)).items()}
        assert counted == {key: list(range(50)) for key in hot} | {key: [0] for key in others}
        for chain in await run.fetch(
            "SELECT array_agg(revision ORDER BY revision) FROM saga_worker.v_journal GROUP BY saga_id"
        ):
            assert chain[0] == list(range(1, len(chain[0]) + 1))
        assert await run.value("SELECT count(DISTINCT worker) FROM saga_worker.v_journal") > 1
        await run.stop(*workers)


async def test_a_worker_has_no_more_in_hand_than_it_is_about_to_store(place: Place, eventually: Eventually) -> None:
    """All of it counts as delivered in vain when the worker dies, and after 20 times the broker gives it up."""
    async with Campaign(place, TALLY, {"SAGA_WORKER_BATCH_SIZE": "2"}) as run:
        await run.start_worker("one", fault="consumer.before_insert=sleep:120")
        await run.publish([Event(f"open-{n}", "tally_opened", {"account": f"a{n}"}) for n in range(100)])

        await eventually(lambda: is_left(run, 100 - 20 * 2))
        await run.kill("one")


async def is_left(run: Campaign, count: int) -> bool:
    return await run.left_in_queue() == count
