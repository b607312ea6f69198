"""Queries on a real database: beside a step that runs, past a lock of others, from Python and the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from pydantic import BaseModel

from saga_worker import Query, Saga, queries
from saga_worker.saga.errors import QueryRefused
from saga_worker.saga.instance import Fate
from saga_worker.saga.routing import command_id, ref_of
from saga_worker.sql.connection import single_connection
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_saga, command, on, progress
from tests.stages.own_work_harness import Trip, TripAsked, World, event, stages, trip_saga
from tests.stages.pool_harness import CardSent, Closed, Deposited, Opened, harness, reply, row
from tests.stages.test_activities import Gate

LOCK = "SELECT 1 FROM saga_worker.saga WHERE key = '4711' FOR UPDATE"
CHECKOUT = """
from pydantic import BaseModel
from saga_worker import Event, Saga

class OrderPlaced(Event):
    order_id: str

class Order(BaseModel):
    order_id: str

class Where(BaseModel):
    order: str
    letters: int

checkout = Saga("checkout", state=Order)

@checkout.starts_on(OrderPlaced, key=lambda e: e.order_id)
def placed(event: OrderPlaced) -> Order:
    return Order(order_id=event.order_id)

@checkout.query
def where(order: Order) -> Where:
    return Where(order=order.order_id, letters=len(order.order_id))

@checkout.query
def broken(order: Order) -> Where:
    raise RuntimeError("nobody knows")

@checkout.emit
def done(order: Order) -> OrderPlaced:
    return OrderPlaced(order_id=order.order_id)

checkout.flow(done)
"""


class Priced(BaseModel):
    cents: int


def asked(saga: Saga[Trip]) -> Query[Trip, Priced]:
    @saga.query
    def price(trip: Trip) -> Priced:
        return Priced(cents=trip.cents)

    return price


async def test_a_query_is_answered_while_an_activity_of_the_saga_runs(database_url: str) -> None:
    """features: 70, 143"""
    gate = Gate()
    world = World(ends={"seat": gate})
    saga = trip_saga(world)
    price = asked(saga)

    async with stages(database_url, saga) as worker, single_connection(database_url) as connection:
        await worker.store(event(TripAsked(trip="t"), "t", "1"))
        async with asyncio.timeout(30):
            await gate.entered.wait()
        before = await worker.query("SELECT * FROM saga_worker.v_saga")
        async with asyncio.timeout(5):
            answers = [await queries.ask(connection, price, "t") for _ in range(3)]
        is_running = not gate.opened.is_set()
        after = await worker.query("SELECT * FROM saga_worker.v_saga")
        gate.opened.set()
        await worker.until_status("completed")
        at_the_end = await queries.ask(connection, price, "t")

    assert answers == [Priced(cents=101)] * 3 and is_running
    assert before == after
    assert at_the_end == Priced(cents=101)


async def test_only_a_saga_of_the_version_of_the_query_is_asked(database_url: str) -> None:
    newer = Saga("checkout", state=Trip, version=2)
    price = asked(newer)

    connection = await asyncpg.connect(database_url)
    await add_saga(connection, "4711", progress())
    await connection.close()
    async with single_connection(database_url) as ours:
        with pytest.raises(QueryRefused, match="checkout/4711 runs by version 1 of its definition, and this query"):
            await queries.ask(ours, price, "4711")
        with pytest.raises(QueryRefused, match="There is no saga checkout/4712"):
            await queries.ask(ours, price, "4712")
        with pytest.raises(QueryRefused, match="checkout: The key is an integer"):
            await queries.ask(ours, price, 4712)


@pytest.fixture
def checkout(tmp_path: Path, database: str) -> str:
    """The place of the definition of a saga that is stored."""
    (tmp_path / "checkout.py").write_text(CHECKOUT)
    on(database, lambda c: add_saga(c, "4711", progress(command(1, "done", Fate.SENT), active={"done": 1})))
    return str(tmp_path / "checkout.py")


def test_the_command_line_asks_without_waiting_for_a_lock(run: Run, database: str, checkout: str) -> None:
    """features: 70, 143; M19"""

    async def beside_a_lock(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute(LOCK)
            async with asyncio.timeout(30):
                ran = await asyncio.to_thread(
                    run, "saga", "query", "checkout/4711", "where", "--definitions", checkout, "--json"
                )
        assert (ran.code, ran.documents) == (0, [{"order": "4711", "letters": 4}])

    on(database, beside_a_lock)


def test_the_command_line_says_what_cannot_be_asked(run: Run, database: str, checkout: str) -> None:
    def ask(name: str, question: str) -> str:
        ran = run("saga", "query", name, question, "--definitions", checkout)
        assert (ran.code, ran.out) == (1, "")
        return ran.err

    assert "There is no saga checkout/nobody" in ask("checkout/nobody", "where")
    assert "checkout 1 has no query when; it has: where, broken" in ask("checkout/4711", "when")
    assert "Query broken of checkout, version 1: RuntimeError: nobody knows at checkout.py:" in ask(
        "checkout/4711", "broken"
    )


def test_an_answer_for_people_is_a_line_for_each_field(run: Run, database: str, checkout: str) -> None:
    ran = run("saga", "query", "checkout/4711", "where", "--definitions", checkout)

    assert ran.out.split() == ["order", "4711", "letters", "4"]


# -- the events that a saga has taken ---------------------------------------------------------------------------------


async def test_the_events_that_a_saga_has_taken_are_listed_in_their_order(run: Run, database: str) -> None:
    """features: 90, 92"""
    async with harness(database) as h:
        for number, message in enumerate([Deposited(account="7", cents=5), Opened(account="7")]):
            await h.store(row(message, "7", message_id=str(number)))  # the first is early
        await h.drain()
        card = reply(CardSent(number="1"), command_id(ref_of("account", "7"), 1), "7", message_id="card")
        await h.store(row(Opened(account="7"), "7", message_id="2"), card)  # a second start is ignored
        await h.store(row(Deposited(account="7", cents=6), "7", message_id="3"))
        await h.store(row(Closed(account="7"), "7", message_id="4"))
        await h.drain()
        seen = await asyncio.to_thread(run, "saga", "events", "account/7", "--json")
        newest = await asyncio.to_thread(run, "saga", "events", "account/7", "--limit", "1")
        await h.query("DELETE FROM saga_worker.inbox WHERE message_id = '0'")  # as the retention does
        later = await asyncio.to_thread(run, "saga", "events", "account/7", "--json")
        nobody = await asyncio.to_thread(run, "saga", "events", "account/8")

    assert [(event["message_id"], event["type"], event["body"]) for event in seen.documents] == [
        ("1", "opened", {"account": "7"}),
        ("0", "deposited", {"account": "7", "cents": 5}),
        ("3", "deposited", {"account": "7", "cents": 6}),
        ("4", "closed", {"account": "7"}),
    ]
    assert "closed" in newest.out and "deposited" not in newest.out
    assert [event["type"] for event in later.documents] == ["opened", None, "deposited", "closed"]
    assert (nobody.code, "There is no saga account/8" in nobody.err) == (1, True)
