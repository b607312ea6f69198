"""The loan application told as stories, also with the bank's events in the wrong order. In virtual time, no server."""

from __future__ import annotations

import random

import pytest

from definitions.loan_application import (
    OPEN_AT_MOST,
    Activated,
    BankEvent,
    Cancelled,
    CheckCredit,
    CreditChecked,
    Declined,
    LoanApplication,
    OfferMoved,
    PayOut,
    ReleaseHold,
    StateReached,
    Submitted,
    WorkDone,
    loan,
)
from saga_worker import Done, Rejected, hours, minutes
from saga_worker.saga.messages import wire_types
from saga_worker.testing import SagaTest

COMMON = {"application": "173688", "lifecycle:transition": "COMPLETE"}
SUBMITTED = Submitted(**COMMON, AMOUNT_REQ="20000", REG_DATE="2011-10-01")
CHECKED = CreditChecked(hold="h-1")


def moved(model: type[BankEvent]) -> BankEvent:
    return model.model_validate(COMMON)


def checked() -> SagaTest[LoanApplication]:
    return SagaTest(loan).given(SUBMITTED).expect(CheckCredit).reply(CHECKED).expect_status("waiting")


def test_an_activated_loan_is_paid_out() -> None:
    told = checked().given(moved(Activated))

    told.expect(PayOut(application="173688", amount="20000")).reply(Done()).expect_status("completed").expect_nothing()
    assert told.state.outcome == "activated"


@pytest.mark.parametrize(("model", "outcome"), [(Declined, "declined"), (Cancelled, "cancelled")])
def test_a_refused_application_gives_the_hold_back(model: type[BankEvent], outcome: str) -> None:
    told = checked().given(moved(model))

    told.expect(ReleaseHold(application="173688", hold="h-1")).reply(Done())
    told.expect_status("compensated").expect_nothing()
    assert told.state.outcome == outcome


def test_a_hold_that_nobody_has_confirmed_yet_is_given_back_too() -> None:
    told = SagaTest(loan).given(SUBMITTED).expect(CheckCredit).given(moved(Declined))
    told.expect(ReleaseHold(application="173688", hold=None)).reply(Done()).expect_status("compensated")

    told.late_reply(CHECKED, to=CheckCredit).expect_outcome("applied: late_reply").expect_nothing()
    assert (told.state.outcome, told.unsettled) == ("declined", 0)


def test_all_but_the_ends_only_leave_their_trace() -> None:
    told = checked().given(moved(StateReached), moved(OfferMoved), moved(OfferMoved), moved(WorkDone))

    told.expect_status("waiting").expect_nothing()
    assert (told.state.reached, told.state.offers_moved, told.state.work_done) == (["A_PARTLYSUBMITTED"], 2, 1)


def test_every_type_of_the_bank_is_taken() -> None:
    models = (Submitted, Declined, Cancelled, Activated, StateReached, OfferMoved, WorkDone)

    assert len({type_ for model in models for type_ in wire_types(model)}) == 24


@pytest.mark.parametrize("end", [Declined, Cancelled, Activated])
@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_the_events_decides_nothing(end: type[BankEvent], seed: int) -> None:
    events = [SUBMITTED, moved(StateReached), moved(OfferMoved), moved(WorkDone), moved(end)]
    random.Random(seed).shuffle(events)
    told = SagaTest(loan)
    for event in events:
        told.event(event)
    told.expect(CheckCredit)
    if end is Activated:
        told.reply(CHECKED).expect(PayOut).reply(Done())
    else:
        told.expect(ReleaseHold).reply(Done())

    told.expect_status("completed" if end is Activated else "compensated").expect_nothing()
    assert told.state.outcome == end.__name__.lower()


def test_an_application_that_nobody_decides_ends_at_its_deadline() -> None:
    told = checked().advance(OPEN_AT_MOST - hours(1)).expect_status("waiting").expect_nothing()

    told.advance(hours(2)).expect(ReleaseHold).reply(Done()).expect_status("compensated")
    assert told.state.outcome is None


def test_a_credit_check_without_an_answer_is_asked_again_under_the_same_id() -> None:
    told = SagaTest(loan).given(SUBMITTED).advance(minutes(15))

    assert [sent.seq for sent in told.one.commands()] == [1, 1]
    told.expect(CheckCredit).expect(CheckCredit).reply(CHECKED).expect_status("waiting")


def test_a_pay_out_that_is_refused_gives_the_hold_back() -> None:
    told = checked().given(moved(Activated)).expect(PayOut).reject(Rejected(reason="account closed"))

    told.expect(ReleaseHold(application="173688", hold="h-1")).reply(Done()).expect_status("compensated")


def test_a_pay_out_without_an_answer_calls_somebody_and_is_never_taken_back() -> None:
    told = checked().given(moved(Activated)).advance(hours(3))
    assert [type(message) for message in told.sent] == [CheckCredit] + 5 * [PayOut]
    told.expect_status("running").expect_attention("no_answer: pay_out")

    told.event(moved(Declined)).expect_outcome("ignored: after_pivot")
    told.reply(Done()).expect_status("completed").expect_attention()
