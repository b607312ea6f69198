"""Starting sagas from a program: what a type checker has to refuse."""

from __future__ import annotations

from starting import Order, Ordered, Paid, Receipt, ordered, shop

from saga_worker import Saga
from saga_worker.client import Client


def of_a_receipt(receipt: Receipt) -> Receipt:
    return receipt


wrong_result = Saga("wrong", state=Order, result=of_a_receipt)  # error: the result is made of the state


async def buy(client: Client) -> None:
    await client.start(ordered, Paid(order="o"))  # error: another event starts it
    await client.send(ordered, Order(order="o"))  # error: the state is no event
    await client.start_and_wait(ordered, Ordered(order="o"))  # error: nobody waits for ever
    ended = await client.start_and_wait(ordered, Ordered(order="o"), timeout=3)
    print(ended.state.price)  # error: the state has no such field
    print(ended.result.order)  # error: there may be none
    await client.get(shop, 1.5)  # error: a key is no float
