"""Reusable activities in the pure core: their models, maps, recorded input and output; in virtual time, no server."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from saga_worker import (
    Activity,
    ActivityContext,
    Event,
    Retry,
    Saga,
    days,
    seconds,
)
from saga_worker.saga.inputs import RunActivity
from saga_worker.testing import SagaTest


class Ordered(Event):
    order: str
    cents: int = 100


class Order(BaseModel):
    order: str
    cents: int
    payment: str | None = None


class Charge(BaseModel):
    order: str
    cents: int


class Charged(BaseModel):
    payment: str


class Parcel(BaseModel):
    order: str
    paid_by: str


class Shipped(BaseModel):
    tracking: str


class Card(Activity[Charge, Charged], timeout=seconds(10), retry=Retry.exponential(3)):
    """Its gateway comes from outside."""

    def __init__(self, gateway: list[str]) -> None:
        self.gateway = gateway

    async def execute(self, inp: Charge) -> Charged:
        self.gateway.append(f"charge {inp.order} {inp.cents}")
        return Charged(payment=f"p-{inp.order}")

    async def compensate(self, inp: Charge, out: Charged) -> None:
        self.gateway.append(f"give back {inp.cents} of {out.payment}")


class Carrier(Activity[Parcel, Shipped], timeout=seconds(10)):
    async def execute(self, inp: Parcel, ctx: ActivityContext) -> Shipped:
        return Shipped(tracking=f"{inp.order} {ctx.attempt}")


def shop(name: str = "shop", card: Activity[Charge, Charged] | None = None) -> tuple[Saga[Order], Any, Any]:
    """Charge, then ship what was paid."""
    saga = Saga(name, state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    charge = saga.step(card or Card([]), input=lambda order: Charge(order=order.order, cents=order.cents))
    ship = saga.step(Carrier(), after=charge, input=lambda charged: Parcel(order="o", paid_by=charged.payment))
    saga.flow(charge, ship)
    return saga, charge, ship


def inputs(told: SagaTest[Any]) -> list[bytes]:
    return [effect.input for effect in told.one.effects if isinstance(effect, RunActivity)]


def test_a_class_knows_its_models() -> None:
    """features: 1, 15"""
    assert (Card.input_model, Card.output_model) == (Charge, Charged)
    saga, charge, _ = shop()
    assert list(saga.steps) == ["card", "carrier"]
    assert charge.source == f"{__file__}:{shop.__code__.co_firstlineno + 4}"
    saga.check()


def test_what_went_in_and_came_out_is_recorded_for_those_who_ask() -> None:
    """features: 3, 10"""
    saga, charge, ship = shop()
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(charge).result(Charged(payment="p-1"))
    told.expect_activity(ship).fail("no carrier").expect_activity(charge, undo=True)

    assert inputs(told) == [
        b'{"input":{"order":"o","cents":100}}',
        b'{"input":{"order":"o","paid_by":"p-1"}}',
        b'{"input":{"order":"o","cents":100},"output":{"payment":"p-1"}}',
    ]
    told.result().expect_status("compensated")
