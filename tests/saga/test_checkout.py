"""The checkout told as stories: what each service answers, and what the shop does then. In virtual time, no server."""

from __future__ import annotations

from datetime import timedelta

from definitions.checkout import (
    REMINDERS,
    REVIEW_TIMEOUT,
    CancelCharge,
    CardDeclined,
    ChargeCard,
    Charged,
    Checkout,
    Cleared,
    Fraud,
    FraudReviewed,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    OutOfStock,
    Quote,
    ReleaseStock,
    ReserveStock,
    ReviewOverdue,
    ScoreOrder,
    ShipOrder,
    Shipped,
    StockReserved,
    Suspicious,
    checkout,
    price,
)
from saga_worker import Done, minutes
from saga_worker.testing import SagaTest

PLACED = OrderPlaced(order_id="4711", lines={"tea": 2}, cents=1999, card="tok_1")
RESERVED = StockReserved(reservation="shelf 7")
CHARGED = Charged(payment="p-1")
QUOTE = Quote(cents=1999)
RELEASED = ReleaseStock(order_id="4711", reservation="shelf 7")


def order() -> SagaTest[Checkout]:
    return SagaTest(checkout).given(PLACED)


def reserved_order() -> SagaTest[Checkout]:
    """Its goods are kept, and its price is known."""
    told = order().expect(ScoreOrder).reply(Cleared()).expect(ReserveStock).reply(RESERVED)
    return told.expect_activity(price).result(QUOTE)


def reviewed_order() -> SagaTest[Checkout]:
    """Suspicious, and kept until somebody has looked at it."""
    told = order().expect(ScoreOrder).reply(Suspicious(case="c-1")).expect(ReserveStock).reply(RESERVED)
    return told.expect_status("waiting").expect_nothing()


def shipping_order() -> SagaTest[Checkout]:
    return reserved_order().expect(ChargeCard).reply(CHARGED).expect(ShipOrder)


def test_an_order_that_nobody_objects_to_is_shipped() -> None:
    """features: 10"""
    told = order().expect(ScoreOrder(order_id="4711", cents=1999)).reply(Cleared())
    told.expect(ReserveStock(order_id="4711", lines={"tea": 2})).reply(RESERVED).expect_activity(price).result(QUOTE)
    told.expect(ChargeCard(order_id="4711", cents=1999, card="tok_1")).reply(CHARGED)
    told.expect(ShipOrder(order_id="4711", reservation="shelf 7")).reply(Shipped(parcels=["a", "b"]))

    told.expect(OrderShipped(order_id="4711", parcels=["a", "b"])).expect_status("completed").expect_nothing()
    assert (told.state.payment, told.state.parcels, told.unsettled) == ("p-1", ["a", "b"], 0)


def test_a_declined_card_releases_the_stock() -> None:
    told = reserved_order().expect(ChargeCard).reject(CardDeclined(code="expired"))

    told.expect_status("compensating").expect(RELEASED).reply(Done())
    told.expect_status("compensated", reason="card declined: expired").expect_nothing()


def test_a_fraud_ends_the_order_before_anything_was_done() -> None:
    told = order().expect(ScoreOrder).reject(Fraud(rule="stolen card"))

    told.expect_status("compensated", reason="fraud: stolen card").expect_nothing()


def test_goods_that_are_sold_out_leave_nothing_to_release() -> None:
    told = order().expect(ScoreOrder).reply(Cleared()).expect(ReserveStock).reject(OutOfStock(skus=["tea"]))

    told.expect_status("compensated", reason="out of stock: tea").expect_nothing()


def test_an_order_in_a_foreign_currency_is_charged_in_euro() -> None:
    told = SagaTest(checkout).given(PLACED.model_copy(update={"cents": 10_000, "currency": "SEK"}))

    told.expect(ScoreOrder(order_id="4711", cents=900))


def test_a_suspicious_order_goes_on_when_the_reviewer_clears_it() -> None:
    """features: 143"""
    told = reviewed_order().given(FraudReviewed(order_id="4711", fraud=False, reviewer="ann"))

    told.expect_activity(price).result(QUOTE).expect(ChargeCard).reply(CHARGED).expect(ShipOrder)


def test_a_suspicious_order_is_taken_back_when_the_reviewer_finds_fraud() -> None:
    told = reviewed_order().given(FraudReviewed(order_id="4711", fraud=True, reviewer="ann"))

    told.expect(RELEASED).reply(Done()).expect_status("compensated", reason="fraud, says ann").expect_nothing()


def test_a_reviewer_is_reminded_and_then_given_up() -> None:
    told = reviewed_order()
    for _ in range(REMINDERS):
        told.advance(REVIEW_TIMEOUT / (REMINDERS + 1)).expect(ReviewOverdue(order_id="4711", case="c-1"))
    told.expect_status("waiting").advance(REVIEW_TIMEOUT / (REMINDERS + 1) + timedelta(seconds=1))

    told.expect(RELEASED).reply(Done()).expect_status("compensated").expect_nothing()


def test_a_review_that_comes_before_its_time_is_kept_for_it() -> None:
    told = order().event(FraudReviewed(order_id="4711", fraud=False, reviewer="ann"))
    told.expect_outcome("parked: not_expected_yet")
    told.expect(ScoreOrder).reply(Suspicious(case="c-1")).expect(ReserveStock).reply(RESERVED)

    told.expect_activity(price).result(QUOTE).expect(ChargeCard).expect_status("running")


def test_a_review_of_an_order_that_needs_none_is_ignored() -> None:
    told = reserved_order().event(FraudReviewed(order_id="4711", fraud=True, reviewer="ann"))

    told.expect_outcome("ignored: too_late").expect(ChargeCard).expect_nothing()


def test_a_cancelled_order_takes_everything_back_newest_first() -> None:
    """features: 3, 40, 43, 47"""
    told = reserved_order().expect(ChargeCard).event(OrderCancelled(order_id="4711", by="customer"))
    told.expect(CancelCharge(order_id="4711", payment=None)).reply(Done())  # nobody said yet how the charge went

    told.expect(RELEASED).reply(Done())
    told.expect_status("compensated", reason="cancelled by customer").expect_nothing()


def test_once_shipping_is_asked_for_a_cancellation_changes_nothing() -> None:
    cancelled = OrderCancelled(order_id="4711", by="customer")
    told = shipping_order().event(cancelled).expect_outcome("ignored: after_pivot")
    told.reply(Shipped(parcels=["a"])).expect(OrderShipped).expect_status("completed")

    told.again().event(cancelled).expect_outcome("ignored: saga_finished").expect_nothing()


def test_a_charge_without_an_answer_is_taken_back_whether_or_not_it_was_made() -> None:
    told = reserved_order().expect(ChargeCard).advance(minutes(2))
    told.expect(CancelCharge(order_id="4711", payment=None)).reply(Done()).expect(RELEASED).reply(Done())
    told.expect_status("compensated").expect_nothing()

    told.late_reply(CHARGED, to=ChargeCard).expect_outcome("applied: late_reply")
    told.expect_status("compensated").expect_nothing()


def test_shipping_is_asked_again_until_it_answers_or_somebody_is_called() -> None:
    told = shipping_order()
    told.advance(timedelta(hours=2))

    assert [type(message) for message in told.sent].count(ShipOrder) == 5
    told.expect_status("running").expect_attention("no_answer: ship")
    told.reply(Shipped(parcels=["a"])).expect_status("completed").expect_attention()


def test_a_reply_that_is_repeated_changes_nothing() -> None:
    told = reserved_order().again()

    told.expect_outcome("ignored: duplicate_reply").expect(ChargeCard).expect_nothing()
