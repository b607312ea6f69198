"""Reusable activities in every form, as a type checker has to accept them."""

from __future__ import annotations

from abc import ABC
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel
from tenacity import stop_after_delay, wait_fixed

from saga_worker import (
    Activity,
    ActivityContext,
    Event,
    Outputs,
    Retry,
    Saga,
    TerminalError,
    Undo,
    Verdict,
    WaitFor,
    activity,
    days,
    minutes,
    pivot,
    seconds,
    when,
)

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class OrderPlaced(Event):
    order: str


class OrderPaid(Event):
    order: str
    in_full: bool


class Charge(BaseModel):
    order: str
    cents: int


class Charged(BaseModel):
    payment: str


class Parcel(BaseModel):
    paid_by: str


class Shipped(BaseModel):
    tracking: str


class Order(BaseModel):
    order: str
    cents: int
    payment: str | None = None
    tracking: str | None = None


class Gateway(Protocol):
    async def charge(self, order: str, cents: int, key: str) -> str: ...


class ChargeCard(
    Activity[Charge, Charged], timeout=seconds(10), retry=Retry.exponential(None, within=minutes(5)), undo=Undo.STRICT
):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def execute(self, inp: Charge, ctx: ActivityContext) -> Charged:
        if inp.cents == 0:
            raise TerminalError("nothing to charge", partial=Charged(payment=""))
        return Charged(payment=await self.gateway.charge(inp.order, inp.cents, ctx.idempotency_key))

    async def compensate(self, inp: Charge, out: Charged) -> None: ...


class Asked(Activity[Charge, Charged], timeout=seconds(10)):
    """May wait, and tells by the event."""

    async def execute(self, inp: Charge, event: OrderPaid | None = None) -> Charged | WaitFor:
        if event is None:
            return WaitFor(OrderPaid, OrderPlaced, timeout=days(1), so_far=Charged(payment="asked"))
        return Charged(payment=str(event.in_full))

    async def compensate(self, inp: Charge, out: Charged | None, ctx: ActivityContext) -> None: ...


class AskedByType(Activity[Charge, Charged], timeout=seconds(10)):
    async def execute(
        self, inp: Charge, event_type: str | None = None, event_payload: dict[str, Any] | None = None
    ) -> Charged | WaitFor:
        if event_payload is None:
            return WaitFor(OrderPaid, timeout=days(1))
        return Charged(payment=event_payload["order"])


class Logged(Activity[In, Out], ABC, Generic[In, Out]):
    """A base for others."""


class Ship(Logged[Parcel, Shipped], timeout=seconds(10), concurrency=5):
    async def execute(self, inp: Parcel) -> Shipped:
        return Shipped(tracking=inp.paid_by)


@activity
async def weigh(inp: Parcel) -> Shipped:
    return Shipped(tracking="")


@activity(timeout=seconds(1), undo=Undo.STRICT, name="label")
async def print_label(inp: Parcel, ctx: ActivityContext) -> Shipped:
    return Shipped(tracking=ctx.saga_key)


@print_label.undo
async def void_label(inp: Parcel, out: Shipped) -> None: ...


async def ask_courier(inp: Parcel) -> Shipped:
    return Shipped(tracking="")


async def send_away(inp: Parcel, out: Shipped | None) -> None: ...


courier = activity(ask_courier, compensate=send_away, timeout=minutes(1))

orders = Saga("orders", state=Order, deadline=days(1))


def keep(order: Order, charged: Charged) -> None:
    order.payment = charged.payment


def parcel(order: Order, outputs: Outputs) -> Parcel:
    return Parcel(paid_by=outputs[charged].payment if charged in outputs else str(outputs.by_id()))


class CardGateway:
    async def charge(self, order: str, cents: int, key: str) -> str:
        return key


def custom(failures: int, elapsed: timedelta) -> timedelta | None:
    return seconds(failures) if elapsed < minutes(1) else None


charged = orders.step(
    ChargeCard(CardGateway()), input=lambda order: Charge(order=order.order, cents=order.cents), result=keep
)
asked = orders.step(Asked(), input=lambda order: {"order": order.order, "cents": order.cents}, name="ask")
asked.resumes_on(OrderPaid, key=lambda event: event.order).resumes_on(OrderPlaced, key=lambda event: event.order)
by_type = orders.step(AskedByType(), input=lambda order: Charge(order=order.order, cents=1), retry=Retry.by(custom))
by_type.resumes_on(OrderPaid, key=lambda event: event.order, where=lambda order, event: event.in_full)
shipped = orders.step(Ship(), after=charged, input=lambda charged: Parcel(paid_by=charged.payment))
weighed = orders.step(weigh, after=shipped, input=lambda shipped: {"paid_by": shipped.tracking}, timeout=seconds(1))
labelled = orders.step(print_label, input=parcel)
fetched = orders.step(
    courier,
    input=parcel,
    undo=Undo.HYBRID,
    retry=Retry.of(wait=wait_fixed(1), stop=stop_after_delay(60)),
    undo_retry=Retry.fixed(None, seconds(1), within=days(1)),
)


@shipped.result
def on_its_way(order: Order, shipped: Shipped) -> Verdict:
    order.tracking = shipped.tracking
    return None


@orders.starts_on(OrderPlaced, key=lambda event: event.order)
def ordered(event: OrderPlaced) -> Order:
    return Order(order=event.order, cents=1)


orders.flow(charged, asked, when(lambda order: order.cents > 1, by_type), shipped, weighed, labelled, pivot(fetched))
