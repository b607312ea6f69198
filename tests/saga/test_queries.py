"""Queries: what an author lets others ask of a saga's state, on the pure core."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import BaseModel, Field

from saga_worker import DefinitionError, Done, Event, Query, Saga, Undo, UndoOf, minutes
from saga_worker.saga.asking import answer
from saga_worker.saga.errors import QueryFailed
from saga_worker.saga.messages import Command
from saga_worker.testing import SagaTest


class OrderPlaced(Event):
    order: str


class Pack(Command):
    order: str


class Unpack(UndoOf[Pack]):
    order: str


class Order(BaseModel):
    order: str
    packed: list[str] = Field(default_factory=list, alias="wrapped")

    model_config = {"populate_by_name": True}


class Progress(BaseModel):
    packed: int


def orders() -> tuple[Saga[Order], Query[Order, Progress]]:
    saga = Saga("orders", state=Order)

    @saga.starts_on(OrderPlaced, key=lambda e: e.order)
    def placed(event: OrderPlaced) -> Order:
        return Order(order=event.order)

    @saga.command("stock", timeout=minutes(1), undo=Undo.NONE)
    def pack(order: Order) -> Pack:
        return Pack(order=order.order)

    @pack.reply
    def packed(order: Order, reply: Done) -> None:
        order.packed.append("box")

    @saga.query
    def progress(order: Order) -> Progress:
        found = Progress(packed=len(order.packed))
        order.packed.clear()  # of a copy
        return found

    saga.flow(pack)
    return saga, progress


def test_a_query_answers_from_the_state_and_changes_nothing() -> None:
    """features: 70"""
    saga, progress = orders()
    test = SagaTest(saga).given(OrderPlaced(order="o"))

    before = test.ask(progress)
    test.expect(Pack).reply(Done())

    assert (before, test.ask(progress), test.ask(progress)) == (Progress(packed=0), *[Progress(packed=1)] * 2)
    assert test.state.packed == ["box"]
    test.expect_status("completed")


def test_a_query_may_answer_with_the_state_itself_and_have_another_name() -> None:
    saga, _ = orders()

    @saga.query(name="all of it")
    def whole(order: Order) -> Order:
        return order

    assert saga.queries["all of it"] is whole
    assert SagaTest(saga).given(OrderPlaced(order="o")).ask(whole) == Order(order="o")


def test_what_a_query_raises_is_told_with_its_line_and_without_values() -> None:
    """features: 70"""
    saga, _ = orders()

    @saga.query
    def broken(order: Order) -> Progress:
        return Progress(packed=["secret"][len(order.packed)])  # pyright: ignore[reportArgumentType]

    with pytest.raises(
        QueryFailed, match=r"^Query broken of orders, version 1: ValidationError of Progress: packed: int_"
    ) as told:
        answer(broken, b'{"order": "secret"}')

    assert "test_queries.py" in str(told.value) and "secret" not in str(told.value)


def test_a_state_that_does_not_fit_and_an_answer_of_another_class_are_told() -> None:
    saga, progress = orders()

    @saga.query
    def other(order: Order) -> Progress:
        return cast(Progress, order)

    with pytest.raises(QueryFailed, match=r"ValidationError of Order: order: missing at test_queries.py"):
        answer(progress, b"{}")
    with pytest.raises(QueryFailed, match="it returned Order; return Progress"):
        answer(other, b'{"order": "o"}')


def test_wrong_queries_are_refused_where_they_stand() -> None:
    """features: 16"""
    saga, _ = orders()

    def number(order: Order) -> int:
        return 1

    async def later(order: Order) -> Progress:
        return Progress(packed=1)

    def progress(order: Order) -> Progress:
        return Progress(packed=1)

    def two(order: Order, other: Order) -> Progress:
        return Progress(packed=1)

    wrong: Any = saga.query
    with pytest.raises(DefinitionError, match=r"test_queries.py:\d+: query number: annotate number's function"):
        wrong(number)
    with pytest.raises(DefinitionError, match="make it a plain function"):
        wrong(later)
    with pytest.raises(DefinitionError, match=r"the query progress is asked at .* already"):
        wrong(progress)
    with pytest.raises(DefinitionError, match=r"is called as two\(state\)"):
        wrong(two)
    with pytest.raises(DefinitionError, match="a query made of a lambda has no name"):
        wrong(lambda order: Progress(packed=1))
