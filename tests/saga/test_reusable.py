"""Reusable activities in the pure core: their models, maps, recorded input and output; in virtual time, no server."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET
from pydantic import BaseModel

from saga_worker import (
    Activity,
    ActivityContext,
    ActivityFailed,
    Compensate,
    DefinitionError,
    Entity,
    Event,
    Outputs,
    Retry,
    Rollback,
    Saga,
    TerminalError,
    Verdict,
    WaitFor,
    days,
    minutes,
    parallel,
    pivot,
    repeat_until,
    seconds,
)
from saga_worker.saga.inputs import RunActivity
from saga_worker.saga.records import dump_progress
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


# -- entered again with an event ------------------------------------------------------------------------------------


class Paid(Event, type="x.ok"):
    order: str
    by: str


class Declined(Event, type="x.no"):
    order: str


class Bank(Activity[Charge, Charged], timeout=seconds(10)):
    """Asks, and waits for what the bank says."""

    async def execute(self, inp: Charge, event: Paid | Declined | None = None) -> Charged | WaitFor:
        match event:
            case None:
                return WaitFor(Paid, Declined, timeout=minutes(5))
            case Paid():
                return Charged(payment=event.by)
            case Declined():
                raise TerminalError("declined")


class Authorize(Bank):
    async def compensate(self, inp: Charge, out: Charged | None) -> None: ...


class Patient(Bank):
    """Is taken back only for what it has said to have done."""

    async def compensate(self, inp: Charge, out: Charged) -> None: ...


WAITS = WaitFor(Paid, Declined, timeout=minutes(5))
PART = WaitFor(Paid, timeout=minutes(5), so_far=Charged(payment="asked"))
OK, NO, BY = Paid(order="o", by="visa"), Declined(order="o"), Charged(payment="visa")
IN = Charge(order="o", cents=100)


def bank(work: Activity[Charge, Charged] | None = None) -> tuple[SagaTest[Order], Any, Any]:
    saga, pay, ship = shop(card=work or Authorize())
    pay.resumes_on(Paid, key=lambda e: e.order).resumes_on(Declined, key=lambda e: e.order)
    return SagaTest(saga).given(Ordered(order="o")).expect_activity(pay, input=IN), pay, ship


def test_an_activity_waits_and_is_entered_again_with_the_event() -> None:
    """features: 2, 83"""
    told, pay, ship = bank()
    told.result(WAITS).expect_status("waiting").expect_nothing()

    told.given(OK).expect_activity(pay, input=IN, event=OK).expect_status("running")
    told.result(BY).expect_activity(ship, input=Parcel(order="o", paid_by="visa"))
    told.result(Shipped(tracking="t")).expect_status("completed").expect_nothing()
    assert told.one.instance is not None and told.one.instance.progress.recorded is UNSET


def test_it_may_wait_again_and_each_entry_has_a_number_of_its_own() -> None:
    """features: 83"""
    told, pay, _ = bank()
    told.result(WAITS).given(OK).result(WAITS).expect_status("waiting").given(NO).result(BY)

    entries = [effect for effect in told._activities() if effect.step == pay.id]
    assert [effect.seq for effect in entries] == [1, 2, 3] and {effect.run for effect in entries} == {1}
    assert [b"event" in effect.input for effect in entries] == [False, True, True]


def test_the_events_that_were_taken_are_known_to_later_steps() -> None:
    """features: 12, 90, 170"""
    seen: list[Any] = []

    def parcel(order: Order, outputs: Outputs) -> Parcel:
        seen.append(outputs.events)
        return Parcel(order=outputs.events[0].payload["by"], paid_by=outputs.events[-1].type)

    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    pay = saga.step(Authorize(), input=lambda order: Charge(order=order.order, cents=1), name="pay")
    pay.resumes_on(Paid, key=lambda e: e.order).resumes_on(Declined, key=lambda e: e.order)
    ship = saga.step(Carrier(), input=parcel)
    saga.flow(pay, ship)
    told = SagaTest(saga).given(Ordered(order="o")).result(WAITS).given(OK).result(WAITS).given(NO).result(BY)

    told.expect_activity(pay).expect_activity(pay).expect_activity(pay)
    told.expect_activity(ship, input=Parcel(order="visa", paid_by="x.no"))
    assert seen == [(("x.ok", {"order": "o", "by": "visa"}), ("x.no", {"order": "o"}))]
    told.result(Shipped(tracking="t")).expect_status("completed")
    assert told.one.instance is not None and told.one.instance.progress.recorded is UNSET


def test_an_event_that_comes_while_an_entry_runs_is_kept_for_the_wait() -> None:
    """features: 72"""
    told, pay, _ = bank()
    told.event(OK).expect_outcome("parked: not_expected_yet").expect_nothing()
    told.result(WAITS).expect_activity(pay, event=OK).expect_status("running")


def test_an_event_of_another_type_than_it_waits_for_is_kept() -> None:
    told, pay, _ = bank()
    told.result(PART).event(NO).expect_outcome("parked: not_expected_yet").given(OK).expect_activity(pay, event=OK)
    told.result(WAITS).expect_activity(pay, event=NO)


def test_a_wait_in_vain_compensates_and_may_have_had_an_effect() -> None:
    """features: 51, 73"""
    told, pay, _ = bank()
    told.result(WAITS).advance(minutes(6)).expect_status(
        "compensating", reason="nothing came to end the wait authorize"
    )
    told.expect_activity(pay, undo=True, input=IN).result().expect_status("compensated").expect_nothing()
    assert b"output" not in told._activities()[-1].input and told.unsettled == 0


def test_one_that_is_taken_back_only_for_what_was_done_has_no_undo_while_it_waits() -> None:
    told, _, _ = bank(Patient())
    told.result(WAITS).advance(minutes(6)).expect_status("compensated").expect_nothing()
    assert told.unsettled == 0


def test_what_it_said_to_have_done_so_far_is_taken_back() -> None:
    told, pay, _ = bank(Patient())
    told.result(PART).advance(minutes(6)).expect_activity(pay, undo=True, output=Charged(payment="asked"))
    told.result().expect_status("compensated").expect_nothing()


def test_of_all_entries_one_undo_takes_back_the_step() -> None:
    """features: 3"""
    told, pay, ship = bank()
    told.result(WAITS).given(OK).result(BY).expect_activity(pay).expect_activity(ship).fail("no carrier")
    told.expect_activity(pay, undo=True, input=IN, output=BY).result().expect_status("compensated").expect_nothing()


@pytest.mark.parametrize("lost", [False, True])
def test_an_entry_that_fails_leaves_what_the_one_before_may_have_done(lost: bool) -> None:
    told, pay, _ = bank()
    told.result(PART).given(OK).expect_activity(pay).fail("declined", lost=lost)
    told.expect_activity(pay, undo=True, output=Charged(payment="asked")).result()
    told.expect_status("compensated").expect_nothing()
    assert told.unsettled == 0


def test_a_strict_entry_that_is_lost_is_watched_and_what_was_done_before_is_taken_back() -> None:
    told, pay, _ = bank(Patient())
    told.result(PART).given(OK).expect_activity(pay).fail("gone", lost=True)
    told.expect_activity(pay, undo=True, output=Charged(payment="asked")).result().expect_status("compensated")
    assert told.unsettled == 1
    told.expect_nothing()


def test_a_late_success_of_a_later_entry_is_taken_back_too() -> None:
    """features: L1"""
    told, pay, _ = bank(Patient())
    told.result(PART).given(OK).expect_activity(pay, event=OK).advance(days(2)).expect_status("compensating")
    told.expect_activity(pay, undo=True, output=Charged(payment="asked"))
    undo_of_part = told._activities()[-1]
    told._end_activity(told._activities()[1], "activity_done", b'{"payment":"visa"}', "late")
    told.expect_activity(pay, undo=True, output=BY).result().expect_status("compensated")
    told._end_activity(undo_of_part, "activity_done", b"{}", "undone").expect_nothing()
    assert told.unsettled == 0 and recorded(told) == []


@pytest.mark.parametrize("is_pivot", [False, True])
def test_past_the_pivot_a_wait_in_vain_asks_for_attention_and_goes_on(is_pivot: bool) -> None:
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    pay = saga.step(Authorize(), input=lambda order: Charge(order=order.order, cents=1), name="pay")
    pay.resumes_on(Paid, key=lambda e: e.order)
    first = saga.sleep("first", seconds(1))
    saga.flow(first, pivot(pay)) if is_pivot else saga.flow(pivot(first), pay)
    told = SagaTest(saga).given(Ordered(order="o")).advance(seconds(1)).expect_activity(pay)
    told.result(WaitFor(Paid, timeout=minutes(1))).advance(minutes(2))
    told.expect_attention("wait_expired: pay").operator("retry").expect_attention().advance(minutes(2))
    told.expect_attention("wait_expired: pay").given(OK).expect_attention().expect_activity(pay, event=OK)
    if is_pivot:  # its own failure leads back
        told.fail("declined").expect_activity(pay, undo=True).result().expect_status("compensated")
        return
    told.fail("mended later").expect_attention("rejected_after_pivot: pay").operator("retry").expect_attention()
    told.expect_activity(pay, event=OK).result(BY).expect_status("completed").expect_nothing()


def test_what_may_wait_says_for_what() -> None:
    """features: 81"""
    saga, _, _ = shop(card=Authorize())
    with pytest.raises(DefinitionError, match="step authorize may wait, and no event is declared"):
        saga.check()
    with pytest.raises(DefinitionError, match="step carrier never waits"):
        shop()[2].resumes_on(Paid, key=lambda e: e.order)
    with pytest.raises(TypeError):
        WaitFor(timeout=minutes(1))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="above zero"):
        WaitFor(Paid, timeout=minutes(0))
    told, _, _ = bank()
    with pytest.raises(AssertionError, match="waits for ordered"):
        told.result(WaitFor(Ordered, timeout=minutes(1)))


# -- a failure with a part ------------------------------------------------------------------------------------------


def test_the_undo_of_a_step_that_failed_in_part_gets_the_part() -> None:
    """features: 39"""
    saga, charge, _ = shop()
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(charge)
    told.fail("authorized, not captured", partial=Charged(payment="auth-1"))
    told.expect_status("compensating", reason="card failed: authorized, not captured")
    told.expect_activity(charge, undo=True, input=IN, output=Charged(payment="auth-1"))
    told.result().expect_status("compensated").expect_nothing()
    assert told.unsettled == 0


def test_a_late_failure_with_a_part_is_taken_back_too() -> None:
    """features: 39, L1"""
    saga, charge, _ = shop()
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(charge).advance(days(2))
    told.expect_status("compensated")
    told.fail("authorized, not captured", partial=Charged(payment="auth-1"))
    told.expect_activity(charge, undo=True, output=Charged(payment="auth-1")).result().expect_nothing()
    assert told.unsettled == 0


def test_the_failure_handler_of_another_activity_is_told_the_part() -> None:
    """features: 39"""
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))

    @saga.activity(timeout=seconds(5))
    async def pay(order: Order, ctx: ActivityContext) -> Charged:
        raise AssertionError("the core runs nothing")

    pay.result(lambda order, charged: None)

    @pay.failed
    def not_paid(order: Order, why: ActivityFailed) -> Verdict:
        assert why.partial is not None
        order.payment = why.partial["payment"]
        return Compensate(why.error)

    @pay.undo
    async def give_back(order: Order, ctx: ActivityContext) -> None: ...

    saga.flow(pay)
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(pay).fail("half", partial=Charged(payment="a"))
    told.expect_activity(pay, undo=True).result().expect_status("compensated", reason="half").expect_nothing()
    assert b'"payment":"a"' in told._activities()[-1].input


# -- what stays recorded ---------------------------------------------------------------------------------------------


def recorded(told: SagaTest[Any]) -> list[int]:
    assert told.one.instance is not None
    found = told.one.instance.progress.recorded
    return [] if found is UNSET else sorted(found)


def test_a_saga_that_has_failed_and_may_be_retried_keeps_what_later_steps_ask_for() -> None:
    """features: 18"""
    saga = Saga("shop", state=Order, deadline=days(1), compensate=False)
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    charge = saga.step(Card([]), input=lambda order: IN)
    first = saga.step(Carrier(), after=charge, input=lambda charged: Parcel(order="o", paid_by=charged.payment))
    last = saga.step(
        Carrier(), after=charge, input=lambda charged: Parcel(order="o", paid_by=charged.payment), name="last"
    )
    saga.flow(charge, first, last)
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(charge).result(BY).expect_activity(first)
    told.fail("no carrier").expect_status("failed").operator("retry").expect_activity(first)
    told.result(Shipped(tracking="t")).expect_activity(last, input=Parcel(order="o", paid_by="visa"))
    told.result(Shipped(tracking="t")).expect_status("completed")
    assert recorded(told) == []


def test_a_saga_without_reusable_activities_pays_nothing_for_them() -> None:
    saga = Saga("plain", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    saga.flow(saga.sleep("a while", days(1)))
    told = SagaTest(saga).given(Ordered(order="o"))
    assert told.one.instance is not None
    stored = dump_progress(told.one.instance.progress)
    assert b"recorded" not in stored and b"begun" not in stored


def test_outputs_that_nobody_asks_for_are_forgotten_with_their_step() -> None:
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    parcel = Parcel(order="o", paid_by="p")
    steps = [saga.step(Carrier(), input=lambda order: parcel, name=f"step {n}") for n in range(3)]
    saga.flow(*steps)
    told = SagaTest(saga).given(Ordered(order="o"))
    for n in range(3):
        assert recorded(told) == [n + 1]
        told.result(Shipped(tracking="t"))
    assert recorded(told) == []


def test_of_a_loop_the_last_output_is_known_and_each_round_is_taken_back_with_its_own() -> None:
    """features: 3, 10"""
    rounds: list[str] = []
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))

    def once_more(order: Order, charged: Charged) -> None:
        order.cents += 1

    charge = saga.step(Card([]), input=lambda o: Charge(order=o.order, cents=o.cents), result=once_more)
    ship = saga.step(Carrier(), after=charge, input=lambda charged: Parcel(order="o", paid_by=charged.payment))
    saga.flow(repeat_until(lambda order: order.cents == 103, charge, times=5, name="thrice"), ship)
    told = SagaTest(saga).given(Ordered(order="o"))
    for payment in ("a", "b", "c"):
        told.expect_activity(charge).result(Charged(payment=payment))
    told.expect_activity(ship, input=Parcel(order="o", paid_by="c")).fail("no carrier")
    for payment, cents in (("c", 102), ("b", 101), ("a", 100)):
        told.expect_activity(
            charge, undo=True, input=Charge(order="o", cents=cents), output=Charged(payment=payment)
        ).result()
        rounds.append(payment)
    told.expect_status("compensated").expect_nothing()
    assert recorded(told) == [] and rounds == ["c", "b", "a"]


def test_a_branch_that_lost_its_join_is_taken_back_with_what_it_recorded_while_the_saga_goes_on() -> None:
    """features: L2"""
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    quick = saga.step(Card([]), input=lambda order: IN, name="quick")
    slow = saga.step(Card([]), input=lambda order: IN, name="slow")
    ship = saga.step(Carrier(), after=quick, input=lambda charged: Parcel(order="o", paid_by=charged.payment))
    saga.flow(parallel(quick, slow, join="any"), ship)
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(quick).expect_activity(slow)
    told.result(BY, of=quick).expect_activity(ship)
    told.result(Shipped(tracking="t"), of=ship).expect_status("completed")
    told.result(Charged(payment="late"), of=slow).expect_activity(slow, undo=True, output=Charged(payment="late"))
    assert recorded(told) == [2]
    told.result().expect_nothing()
    assert recorded(told) == [] and told.unsettled == 0


def test_after_a_rollback_the_outputs_before_the_savepoint_are_known_and_the_others_are_not() -> None:
    """features: L8"""
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    seen: list[list[str]] = []

    def parcel(order: Order, outputs: Outputs) -> Parcel:
        seen.append(sorted(outputs.by_id()))
        return Parcel(order="o", paid_by="")

    first = saga.step(Card([]), input=lambda order: IN, name="first")
    here = saga.savepoint("here")
    second = saga.step(Card([]), input=lambda order: IN, name="second")
    ship = saga.step(Carrier(), input=parcel)
    ship.failed(lambda order, why: Rollback("here", "another way"))
    again = saga.step(Carrier(), input=parcel, name="again")
    saga.flow(first, here, again, second, ship)
    told = SagaTest(saga).given(Ordered(order="o")).result(BY).result(Shipped(tracking="t")).result(BY)
    told.fail("no carrier").result().expect_status("running")
    assert seen == [["first"], ["again", "first", "second"], ["again", "first"]]


class Opened(Event):
    order: str


def test_an_entity_forgets_what_was_recorded_when_it_comes_to_rest() -> None:
    entity = Entity("till", state=Till)
    entity.on(Opened, key=lambda e: e.order)(lambda till, event: None)
    pay = entity.step(Authorize(), input=lambda till: IN, name="pay").resumes_on(Paid, key=lambda e: e.order)
    ship = entity.step(Carrier(), after=pay, input=lambda charged: Parcel(order="o", paid_by=charged.payment))
    entity.flow(pay, ship)
    told = SagaTest(entity)
    for payment in ("a", "b"):
        told.given(Opened(order="o")).expect_activity(pay).result(PART).given(OK).expect_activity(pay, event=OK)
        told.result(Charged(payment=payment)).expect_activity(ship, input=Parcel(order="o", paid_by=payment))
        told.result(Shipped(tracking="t")).expect_status("waiting").expect_nothing()
        assert recorded(told) == []
    told.given(Opened(order="o")).expect_activity(pay).result(PART).given(OK).expect_activity(pay).fail("no")
    told.expect_activity(pay, undo=True, output=Charged(payment="asked")).result().expect_status("waiting")
    assert recorded(told) == [] and told.unsettled == 0


class Till(BaseModel):
    opened: int = 0
