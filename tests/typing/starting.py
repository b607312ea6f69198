"""Starting sagas from a program: what a type checker knows of the event, the state and the result."""

from __future__ import annotations

from typing import assert_type

from pydantic import BaseModel

from saga_worker import Event, Saga, SecondStart, days
from saga_worker.client import Client, Run, Snapshot


class Ordered(Event):
    order: str


class Paid(Event):
    order: str


class Order(BaseModel):
    order: str


class Receipt(BaseModel):
    order: str


def receipt(order: Order) -> Receipt:
    return Receipt(order=order.order)


shop = Saga("shop", state=Order, deadline=days(1), second_start=SecondStart.JOIN, result=receipt)


@shop.starts_on(Ordered, key=lambda e: e.order)
def ordered(event: Ordered) -> Order:
    return Order(order=event.order)


paid = shop.wait("paid")


@paid.on(Paid, key=lambda e: e.order)
def is_paid(order: Order, event: Paid) -> None: ...


shop.flow(paid)
assert_type(ordered(Ordered(order="o")), Order)

plain = Saga("plain", state=Order, deadline=days(1))


@plain.starts_on(Ordered, key=lambda e: e.order)
def also(event: Ordered) -> Order:
    return Order(order=event.order)


async def buy(client: Client) -> None:
    run = await client.start(ordered, Ordered(order="o"), idempotency_key="i")
    assert_type(run, Run[Order, Receipt])
    ended = await run.ended(30)
    assert_type(ended.state, Order)
    assert_type(ended.result, Receipt | None)
    assert_type(await client.get(shop, "o"), Snapshot[Order, Receipt] | None)
    assert_type((await client.start_and_wait(shop, Ordered(order="o"), timeout=3)).result, Receipt | None)
    assert_type((await client.send(also, Ordered(order="o"))).saga.name, str)
