"""Reusable activities on a real database: what is recorded outlives the worker, and one object serves many sagas."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import Activity, ActivityContext, Event, Saga, TerminalError, days, seconds
from tests.stages.own_work_harness import Stages, event, stages


class Ordered(Event):
    order: str
    cents: int = 100


class Order(BaseModel):
    order: str
    cents: int


class Charge(BaseModel):
    order: str
    cents: int


class Charged(BaseModel):
    payment: str


class Parcel(BaseModel):
    paid_by: str


class Shipped(BaseModel):
    tracking: str


class Gateway:
    """What is outside: told by the activities that were given it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.opened = asyncio.Event()
        self.opened.set()
        self.keys: set[str] = set()
        self.undo_hangs = False


class Card(Activity[Charge, Charged], timeout=seconds(30)):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        await self.gateway.opened.wait()
        self.gateway.keys.add(ctx.idempotency_key)
        self.gateway.told.append(("charged", inp.order, inp.cents))
        return Charged(payment=f"p-{inp.order}")

    async def compensate(self, inp: Charge, out: Charged) -> None:
        if self.gateway.undo_hangs:
            await asyncio.Event().wait()
        self.gateway.told.append(("gave back", out.payment, inp.cents))


class Carrier(Activity[Parcel, Shipped], timeout=seconds(30)):
    """Fails for good where it was told to."""

    def __init__(self, gateway: Gateway, *, refuses: bool = False) -> None:
        self.gateway = gateway
        self.refuses = refuses

    async def execute(self, inp: Parcel) -> Shipped:
        self.gateway.told.append(("ship", inp.paid_by, 0))
        if self.refuses:
            raise TerminalError("no carrier")
        return Shipped(tracking=f"t-{inp.paid_by}")


def shop(name: str, card: Card, carrier: Carrier) -> Saga[Order]:
    saga = Saga(name, state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    charge = saga.step(card, input=lambda order: Charge(order=order.order, cents=order.cents))
    ship = saga.step(carrier, after=charge, input=lambda charged: Parcel(paid_by=charged.payment))
    saga.flow(charge, ship)
    return saga


async def progress(s: Stages, key: str) -> dict[str, Any]:
    text = (
        "SELECT convert_from(progress, 'UTF8')::json #>> '{recorded}' AS recorded FROM saga_worker.saga WHERE key = $1"
    )
    return (await s.query(text, key))[0]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
async def test_a_class_is_a_step(database_url: str, fast: bool) -> None:
    """features: 1, 7, 10"""
    gateway = Gateway()
    async with stages(database_url, shop("shop", Card(gateway), Carrier(gateway)), fast=fast) as s:
        await s.store(event(Ordered(order="a"), "a", "1", consumer="shop"))
        await s.until_status("completed", "a")

        assert gateway.told == [("charged", "a", 100), ("ship", "p-a", 0)]
        assert await progress(s, "a") == {"recorded": None}, "nobody will ask for it any more"


async def test_compensation_gets_what_was_recorded_also_from_another_worker(database_url: str) -> None:
    """features: 3, 7, 146"""
    gateway, later = Gateway(), Gateway()
    saga = shop("shop", Card(gateway), Carrier(gateway, refuses=True))
    async with stages(database_url, saga) as s:
        gateway.undo_hangs = True
        await s.store(event(Ordered(order="a", cents=7), "a", "1", consumer="shop"))
        await s.until("SELECT * FROM saga_worker.v_activity WHERE step = 'card' AND undoes = 1 AND state = 'running'")
        await s.end_lease()
    assert [what for what, *_ in gateway.told] == ["charged", "ship"]

    async with stages(database_url, shop("shop", Card(later), Carrier(later))) as s:
        await s.sweep()
        saga_row = await s.until_status("compensated", "a")

        assert later.told == [("gave back", "p-a", 7)]
        assert saga_row["reason"] == "carrier failed: no carrier"
        assert await progress(s, "a") == {"recorded": None}


async def test_one_object_serves_many_sagas_of_two_definitions_at_once(database_url: str) -> None:
    """features: 7"""
    gateway = Gateway()
    gateway.opened.clear()
    card, carrier = Card(gateway), Carrier(gateway)
    async with stages(database_url, shop("shop", card, carrier), shop("kiosk", card, carrier)) as s:
        keys = [f"o{n}" for n in range(20)]
        await s.store(
            *(
                event(Ordered(order=f"{where}-{key}", cents=n), f"{where}-{key}", key, consumer=where)
                for where in ("shop", "kiosk")
                for n, key in enumerate(keys)
            )
        )
        await s.until("SELECT 1 FROM saga_worker.v_activity WHERE state = 'running' HAVING count(*) = 40")
        gateway.opened.set()
        await s.until("SELECT 1 FROM saga_worker.v_saga WHERE status = 'completed' HAVING count(*) = 40")

        orders = {(f"{where}-{key}", n) for where in ("shop", "kiosk") for n, key in enumerate(keys)}
        assert {(order, cents) for what, order, cents in gateway.told if what == "charged"} == orders
        assert {paid for what, paid, _ in gateway.told if what == "ship"} == {f"p-{order}" for order, _ in orders}
        assert len(gateway.keys) == len(gateway.told) / 2 == 40
