"""What ends a wait and what leaves it open: filters beyond the key, an operator's word; and no event leaves traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import to_json

from saga_worker import (
    Compensate,
    DefinitionError,
    Done,
    Event,
    OnTimeout,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    repeat_until,
)
from saga_worker.saga.fold import Limits
from saga_worker.saga.messages import Command
from saga_worker.saga.records import dump_progress
from saga_worker.saga.retry import Retry
from saga_worker.testing import SagaTest

CANARY = "c4n4ry"


class Ordered(Event):
    order: str
    cents: int = 100
    round: int = 1


class Paid(Event):
    order: str
    cents: int
    note: str = ""


class Checked(Event):
    order: str
    round: int
    is_good: bool = True


class Pack(Command):
    order: str


class Unpack(UndoOf[Pack]):
    order: str


class Ship(Command):
    order: str


class Order(BaseModel):
    order: str
    cents: int
    round: int = 1
    paid: list[int] = []


def orders(
    *, where: Callable[[Order, Paid], bool] | None = lambda order, event: event.cents == order.cents,
    tip: Callable[[Order, Paid], bool] | None = None,
) -> Saga[Order]:  # fmt: skip
    """Packed, then paid, and with `tip` paid once more; then shipped."""
    saga = Saga("orders", state=Order)

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Order:
        return Order(order=event.order, cents=event.cents)

    @saga.command("stock", timeout=minutes(1))
    def pack(order: Order) -> Pack:
        return Pack(order=order.order)

    @pack.undo
    def unpack(order: Order) -> Unpack:
        return Unpack(order=order.order)

    payment = saga.wait("payment", timeout=days(2))

    @payment.on(Paid, key=lambda e: e.order, where=where)
    def paid(order: Order, event: Paid) -> Verdict:
        order.paid.append(event.cents)
        return Compensate("bounced") if event.note == "bounced" else None

    more = []
    if tip is not None:
        tips = saga.wait("tip", timeout=days(1), on_timeout=OnTimeout.CONTINUE)

        @tips.on(Paid, key=lambda e: e.order, where=tip)
        def tipped(order: Order, event: Paid) -> None:
            order.paid.append(-event.cents)

        more.append(tips)

    @saga.command("post", timeout=minutes(1), undo=Undo.NONE)
    def ship(order: Order) -> Ship:
        return Ship(order=order.order)

    saga.flow(pack, payment, *more, ship)
    return saga


def at_payment(saga: Saga[Order]) -> SagaTest[Order]:
    test = SagaTest(saga).given(Ordered(order="o")).expect(Pack).reply(Done())
    return test.expect_status("waiting").expect_nothing()


def paid(cents: int, note: str = "") -> Paid:
    return Paid(order="o", cents=cents, note=note)


# -- filters ----------------------------------------------------------------------------------------------------------


def test_an_event_that_the_filter_turns_away_leaves_the_wait_open() -> None:
    """features: 95"""
    test = at_payment(orders())

    test.event(paid(99)).expect_outcome("ignored: filtered").expect_nothing().expect_status("waiting")
    assert test.state.paid == []
    test.given(paid(100)).expect(Ship)
    assert test.state.paid == [100]


def test_a_wait_whose_filter_turned_everything_away_ends_by_its_time() -> None:
    """features: 51, 95"""
    test = at_payment(orders())

    test.event(paid(99)).advance(days(2)).expect(Unpack)
    test.expect_status("compensating", reason="nothing came to end the wait payment")


def test_an_event_that_comes_before_its_wait_is_judged_when_the_wait_is_reached() -> None:
    """features: 72, 95"""
    test = SagaTest(orders()).given(Ordered(order="o")).expect(Pack)
    test.event(paid(99)).expect_outcome("parked: not_expected_yet")
    test.event(paid(100)).expect_outcome("parked: not_expected_yet")

    test.reply(Done()).expect(Ship)

    assert test.state.paid == [100]
    assert {row.reason for row in test.one.rows.values() if row.type == "paid"} == {"filtered", None}


def test_what_one_wait_turns_away_is_kept_for_a_later_one() -> None:
    """features: 95"""
    test = at_payment(orders(tip=lambda order, event: event.cents < order.cents))
    test.event(paid(5)).expect_outcome("parked: not_expected_yet")

    test.given(paid(100)).expect(Ship)

    assert test.state.paid == [100, -5]


def test_of_two_open_waits_the_one_whose_filter_says_yes_takes_the_event() -> None:
    """features: 95"""
    saga = Saga("orders", state=Order, deadline=days(1))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Order:
        return Order(order=event.order, cents=event.cents)

    large, small = saga.wait("large"), saga.wait("small")

    @large.on(Paid, key=lambda e: e.order, where=lambda order, event: event.cents >= order.cents)
    def much(order: Order, event: Paid) -> None:
        order.paid.append(event.cents)

    @small.on(Paid, key=lambda e: e.order, where=lambda order, event: event.cents < order.cents)
    def little(order: Order, event: Paid) -> None:
        order.paid.append(-event.cents)

    saga.flow(parallel(large, small))
    test = SagaTest(saga).given(Ordered(order="o"), paid(5))

    test.event(paid(6)).expect_outcome("ignored: filtered")  # the wait that would take it is over
    test.given(paid(100)).expect_status("completed")
    assert test.state.paid == [-5, 100]


def test_in_a_loop_an_event_that_is_turned_away_may_be_meant_for_a_later_round() -> None:
    """features: 95"""
    saga = Saga("orders", state=Order, deadline=days(1))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Order:
        return Order(order=event.order, cents=event.cents)

    check = saga.wait("check")

    @check.on(Checked, key=lambda e: e.order, where=lambda order, event: event.round == order.round)
    def checked(order: Order, event: Checked) -> None:
        order.round += 1

    saga.flow(repeat_until(lambda order: order.round == 4, check, times=3, name="three checks"))
    test = SagaTest(saga).given(Ordered(order="o"))

    for number in (3, 2):
        test.event(Checked(order="o", round=number)).expect_outcome("parked: not_expected_yet")
    test.given(Checked(order="o", round=1)).expect_status("completed")

    assert [entry.input_kind for entry in test.one.journal] == ["event"] * 4


def test_a_filter_that_raises_is_told_with_its_line_and_holds_up_its_saga_only() -> None:
    """features: 95"""

    def broken(order: Order, event: Paid) -> bool:
        raise RuntimeError("no idea")

    limits = Limits(attempts=Retry.none())
    test = SagaTest(orders(where=broken), tolerant=True, limits=limits).given(Ordered(order="o"))
    test.expect(Pack).reply(Done())

    test.event(paid(100)).expect_outcome("dead: handler_error").expect_attention("dead_letter")

    (error,) = test.one.errors.values()
    assert error.startswith("RuntimeError: no idea at test_waits.py:") and error.endswith("in broken")


def test_what_a_filter_does_to_the_state_of_an_event_that_it_turns_away_is_forgotten() -> None:
    def greedy(order: Order, event: Paid) -> bool:
        order.paid.append(0)
        return False

    test = at_payment(orders(where=greedy))

    test.event(paid(100)).expect_outcome("ignored: filtered")
    assert test.state.paid == []


def test_a_filter_that_cannot_be_called_is_refused() -> None:
    """features: 16"""
    wrong: Any = lambda event: True  # noqa: E731

    with pytest.raises(DefinitionError, match=r"test_waits.py:\d+: this function is called as <lambda>\(state"):
        orders(where=wrong)


# -- an operator's word -----------------------------------------------------------------------------------------------


def wake(test: SagaTest[Any], step: object) -> SagaTest[Any]:
    return test.operator("wake", to_json({"step": step} if step is not None else {}))


def test_an_operator_ends_a_wait_without_its_event() -> None:
    """features: 96"""
    test = at_payment(orders())

    wake(test, "payment").expect_outcome("applied").expect(Ship)

    assert test.state.paid == []  # no handler has run
    test.event(paid(100)).expect_outcome("ignored: too_late")
    assert set(test.one.instance.progress.timers) == {"timeout:2"}  # type: ignore[union-attr]


def test_an_operator_ends_a_sleep_before_its_time() -> None:
    """features: 96"""
    saga = Saga("orders", state=Order)

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Order:
        return Order(order=event.order, cents=event.cents)

    @saga.command("post", timeout=minutes(1), undo=Undo.NONE)
    def ship(order: Order) -> Ship:
        return Ship(order=order.order)

    saga.flow(saga.sleep("rest", hours(10)), ship)
    test = SagaTest(saga).given(Ordered(order="o")).expect_status("waiting").expect_nothing()

    wake(test, "rest").expect_outcome("applied").expect(Ship).reply(Done()).expect_status("completed")
    test.advance(hours(11)).expect_nothing()


def test_only_an_open_wait_or_sleep_can_be_ended() -> None:
    """features: 96"""
    test = SagaTest(orders(), tolerant=True).given(Ordered(order="o")).expect(Pack)

    wake(test, "payment").expect_outcome("ignored: not_waiting")  # not reached yet
    wake(test, "pack").expect_outcome("ignored: not_waiting")  # a command
    wake(test, "nobody").expect_outcome("ignored: not_waiting")
    wake(test, None).expect_outcome("dead: bad_operator_command")
    test.reply(Done())
    wake(test, "payment").expect(Ship).reply(Done())
    wake(test, "payment").expect_outcome("ignored: saga_finished")
    assert test.status == "completed"


def test_a_wait_that_is_the_pivot_is_passed_by_an_operator_too() -> None:
    saga = Saga("orders", state=Order, deadline=days(1))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Order:
        return Order(order=event.order, cents=event.cents)

    payment, check = saga.wait("payment"), saga.wait("check")

    @payment.on(Paid, key=lambda e: e.order)
    def paid(order: Order, event: Paid) -> None: ...

    @check.on(Checked, key=lambda e: e.order)
    def checked(order: Order, event: Checked) -> Verdict:
        return Compensate("bad")

    saga.flow(pivot(payment), check)
    test = SagaTest(saga).given(Ordered(order="o"))

    wake(test, "payment").given(Checked(order="o", round=1)).expect_status("completed")
    test.expect_attention("cannot_compensate: check")


def test_a_saga_that_would_try_again_is_made_to_wait_for_an_operator_instead() -> None:
    """features: 93"""
    saga = Saga("orders", state=Order)

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Order:
        return Order(order=event.order, cents=event.cents)

    @saga.command("stock", timeout=minutes(1), retry=Retry.fixed(3, minutes(10)), undo=Undo.NONE)
    def pack(order: Order) -> Pack:
        return Pack(order=order.order)

    payment = saga.wait("payment", timeout=hours(1))

    @payment.on(Paid, key=lambda e: e.order)
    def paid_for(order: Order, event: Paid) -> None:
        order.paid.append(event.cents)

    saga.flow(pack, payment)
    test = SagaTest(saga).given(Ordered(order="o")).expect(Pack).advance(minutes(2))  # silence: again in ten minutes

    test.operator("pause").advance(days(1)).expect_nothing().expect_status("paused")
    test.event(paid(100)).expect_outcome("held: paused")
    test.operator("resume").advance(minutes(0)).expect(Pack)  # the retry that was due meanwhile
    test.reply(Done()).expect_status("completed")
    assert test.state.paid == [100]


def test_a_paused_wait_is_ended_neither_by_its_event_nor_by_its_time() -> None:
    """features: 93"""
    test = at_payment(orders())

    test.operator("pause").advance(days(1))
    test.event(paid(100)).expect_outcome("held: paused").advance(days(3))
    wake(test, "payment").expect_outcome("ignored: paused").expect_nothing()
    test.operator("resume").expect(Ship)  # the event came first, whatever the time is
    assert test.state.paid == [100]


# -- no traces --------------------------------------------------------------------------------------------------------


def traces(test: SagaTest[Any]) -> list[str]:
    """Where the canary is found in what is stored of the saga, or goes out."""
    instance = test.one.instance
    assert instance is not None
    stored = [instance.state.decode(), dump_progress(instance.progress).decode(), str(instance.reason)]
    return [text for text in [*stored, *map(str, test.one.effects), *map(str, test.one.journal)] if CANARY in text]


def test_an_event_is_seen_by_its_handler_and_by_nothing_that_comes_after_it() -> None:
    """features: 91"""
    test = at_payment(orders(tip=lambda order, event: CANARY not in event.note and event.cents < order.cents))

    test.given(paid(100, CANARY))
    assert traces(test) == []
    test.given(paid(5)).expect(Ship)  # the second wait knows its own event only
    assert test.state == Order(order="o", cents=100, paid=[100, -5])
    test.reply(Done()).expect_status("completed")
    assert traces(test) == []


def test_an_undo_sees_nothing_of_the_event_that_the_saga_failed_on() -> None:
    """features: 91"""
    saga = orders(where=None)
    seen: list[Order] = []
    pack: Any = saga.steps["pack"]
    made = pack.make_undo

    def look(order: Order) -> Unpack:
        seen.append(order.model_copy(deep=True))
        unpack: Unpack = made(order)
        return unpack

    pack.make_undo = look
    test = at_payment(saga)

    test.given(paid(100, "bounced")).expect(Unpack(order="o"))

    assert seen == [Order(order="o", cents=100, paid=[100])]  # what the handler kept, and no event
    test.reply(Done()).expect_status("compensated", reason="bounced")
