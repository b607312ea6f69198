"""Entities through whole workers on real servers: one event at a time for a key, and state that sagas share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker.client import Client
from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]

EVENTS: Final = 100
METER: Final = """
import asyncio
from pathlib import Path

from pydantic import BaseModel

from saga_worker import ActivityContext, Entity, Event, Undo, minutes

LOG = Path(__file__).parent / "log"
LOG.touch()

class Read(Event):
    meter: str
    number: int

class Meter(BaseModel):
    meter: str = ""
    numbers: list[int] = []
    stored: int = 0

class Stored(BaseModel):
    number: int

def note(word: str, meter: Meter) -> None:
    with LOG.open("a") as log:
        log.write(f"{word} {meter.meter} {meter.numbers[-1]}\\n")

async def both_are_inside() -> None:
    while not {"enter a 0", "enter b 0"} <= set(LOG.read_text().splitlines()):
        await asyncio.sleep(0.01)

meter = Entity("meter", state=Meter)

@meter.on(Read, key=lambda e: e.meter)
def read(meter: Meter, event: Read) -> None:
    meter.meter = event.meter
    meter.numbers.append(event.number)

@meter.activity(timeout=minutes(1), undo=Undo.NONE)
async def store(meter: Meter, ctx: ActivityContext) -> Stored:
    note("enter", meter)
    if len(meter.numbers) == 1:
        await both_are_inside()
    await asyncio.sleep(0)
    note("leave", meter)
    return Stored(number=meter.numbers[-1])

@store.result
def stored(meter: Meter, result: Stored) -> None:
    meter.stored += 1

meter.flow(store)
"""
SHOP: Final = """
from pydantic import BaseModel

from saga_worker import Complete, Entity, Event, Saga, Verdict, days

class OrderPlaced(Event):
    order: str
    customer: str
    cents: int

class Earned(Event):
    customer: str
    order: str
    cents: int

class Noted(Event):
    order: str
    total: int

class Left(Event):
    customer: str

class Customer(BaseModel):
    total: int = 0
    orders: list[str] = []

class Order(BaseModel):
    order: str
    customer: str
    cents: int
    total: int = 0

class Total(BaseModel):
    total: int

customer = Entity("customer", state=Customer)

@customer.on(Earned, key=lambda e: e.customer)
def earned(customer: Customer, event: Earned) -> None:
    customer.total += event.cents
    customer.orders.append(event.order)

@customer.on(Left, key=lambda e: e.customer)
def left(customer: Customer, event: Left) -> Verdict:
    return Complete("has left")

@customer.emit
def noted(customer: Customer) -> Noted:
    return Noted(order=customer.orders[-1], total=customer.total)

@customer.query
def total(customer: Customer) -> Total:
    return Total(total=customer.total)

customer.flow(noted)

order = Saga("order", state=Order, deadline=days(1))

@order.starts_on(OrderPlaced, key=lambda e: e.order)
def placed(event: OrderPlaced) -> Order:
    return Order(order=event.order, customer=event.customer, cents=event.cents)

@order.emit
def earn(order: Order) -> Earned:
    return Earned(customer=order.customer, order=order.order, cents=order.cents)

points = order.wait("points")

@points.on(Noted, key=lambda e: e.order)
def known(order: Order, event: Noted) -> None:
    order.total = event.total

order.flow(earn, points)
"""


@pytest.mark.slow
async def test_a_hundred_events_of_one_key_never_overlap_and_those_of_two_keys_do(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, tmp_path: Path
) -> None:
    """features: 69"""
    place = tmp_path / "meter.py"
    place.write_text(METER)
    for _ in range(2):
        await workers.start(place)
    for number in range(EVENTS):
        for key in ("a", "b"):
            await wire.publish("read", {"meter": key, "number": number}, id=f"{key}{number}")

    async def all_are_stored() -> bool:
        states = [await records.saga(key, "meter") for key in ("a", "b")]
        return all(s is not None and json.loads(s["state"])["stored"] == EVENTS for s in states)

    await eventually(all_are_stored, deadline=120)
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]

    for key in ("a", "b"):
        words = [(word, int(number)) for word, which, number in log if which == key]
        assert words == [(word, number) for number in range(EVENTS) for word in ("enter", "leave")]
    assert overlaps([(word, key) for word, key, _ in log]) >= 1
    saga = await records.saga("a", "meter")
    assert saga is not None and saga["revision"] == 2 * EVENTS
    progress = await records.value("SELECT max(length(progress)) FROM saga_worker.saga")
    assert progress < 1000  # of an entity at rest nothing is left of its hundred rounds


def overlaps(log: list[tuple[str, str]]) -> int:
    """How often one key entered while another was inside."""
    inside: set[str] = set()
    found = 0
    for word, key in log:
        found += word == "enter" and bool(inside - {key})
        inside = inside | {key} if word == "enter" else inside - {key}
    return found


@pytest.mark.slow
async def test_what_one_saga_leaves_with_a_key_the_next_one_finds_there(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, tmp_path: Path
) -> None:
    """features: 70, 71"""
    place = tmp_path / "shop.py"
    place.write_text(SHOP)
    worker = await workers.start(place)
    customer = worker.registry.latest("customer")
    assert customer is not None
    total: Any = customer.queries["total"]

    async def totals(*orders: str) -> list[int] | None:
        found = []
        for order in orders:
            saga = await records.saga(order, "order")
            if saga is None or saga["status"] != "completed":
                return None
            found.append(json.loads(saga["state"])["total"])
        return found

    async with Client(workers.settings()) as client:
        await wire.publish("order_placed", {"order": "1", "customer": "ann", "cents": 5}, id="1")
        first = await eventually(lambda: totals("1"))
        await wire.publish("order_placed", {"order": "2", "customer": "ann", "cents": 7}, id="2")
        await wire.publish("order_placed", {"order": "3", "customer": "bob", "cents": 1}, id="3")
        later = await eventually(lambda: totals("2", "3"))
        known = await client.ask(total, "ann")
        await wire.publish("left", {"customer": "ann"}, id="4")

        async def has_left() -> bool:
            return await records.status("ann", "customer") == "completed"

        await eventually(has_left)
        await wire.publish("order_placed", {"order": "5", "customer": "ann", "cents": 2}, id="5")
        anew = await eventually(lambda: totals("5"))
        again = await client.ask(total, "ann")

    assert (first, later, known.total) == ([5], [12, 1], 12)
    assert (anew, again.total) == ([2], 2)
