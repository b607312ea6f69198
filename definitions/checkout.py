"""An order from the click on "buy" to the parcel: score it, keep the goods, price it, take the money, ship.

Whatever fails before the parcel leaves is taken back, newest first. After that the order only goes forward.
"""

from __future__ import annotations

import os
from typing import Final

from pydantic import BaseModel

from saga_worker import (
    ActivityContext,
    Command,
    Compensate,
    Event,
    Message,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    pivot,
    seconds,
    when,
)

# -- what the shop may set, without touching the story --------------------------------------------------------------

PAYMENT_TIMEOUT: Final = seconds(float(os.environ.get("CHECKOUT_PAYMENT_TIMEOUT_SECONDS", "60")))
REVIEW_TIMEOUT: Final = seconds(float(os.environ.get("CHECKOUT_REVIEW_TIMEOUT_SECONDS", "172800")))
REMINDERS: Final = 2

# A release that misses a rate raises on the first order in that currency; the next release knows it.
CURRENCIES: Final = os.environ.get("CHECKOUT_CURRENCIES", "EUR,SEK,USD").split(",")
RATES: Final = {"EUR": 1.0, "SEK": 0.09, "USD": 0.9}

REBATE_FROM_PIECES: Final = 100
REBATE: Final = 0.05

# -- what happens, and what the others are asked for ----------------------------------------------------------------


class OrderPlaced(Event):
    order_id: str
    lines: dict[str, int]
    cents: int
    currency: str = "EUR"
    card: str


class OrderCancelled(Event):
    order_id: str
    by: str


class FraudReviewed(Event):
    order_id: str
    fraud: bool
    reviewer: str


class ReviewOverdue(Event):
    order_id: str
    case: str


class OrderShipped(Event):
    order_id: str
    parcels: list[str]


class Cleared(Message): ...


class Suspicious(Message):
    case: str


class Fraud(Message):
    rule: str


class ScoreOrder(Command[Cleared | Suspicious, Fraud]):
    order_id: str
    cents: int


class StockReserved(Message):
    reservation: str


class OutOfStock(Message):
    skus: list[str]


class ReserveStock(Command[StockReserved, OutOfStock]):
    order_id: str
    lines: dict[str, int]


class ReleaseStock(UndoOf[ReserveStock]):
    order_id: str
    reservation: str | None


class Charged(Message):
    payment: str


class CardDeclined(Message):
    code: str


class ChargeCard(Command[Charged, CardDeclined]):
    order_id: str
    cents: int
    card: str


class CancelCharge(UndoOf[ChargeCard]):
    order_id: str
    payment: str | None


class Shipped(Message):
    parcels: list[str]


class ShipOrder(Command[Shipped]):
    order_id: str
    reservation: str


class Quote(BaseModel):
    cents: int


class Checkout(BaseModel):
    order_id: str
    lines: dict[str, int]
    cents: int
    card: str
    case: str | None = None
    reservation: str | None = None
    payment: str | None = None
    parcels: list[str] = []


# -- the story ------------------------------------------------------------------------------------------------------

checkout = Saga("checkout", state=Checkout, deadline=days(10))


@checkout.starts_on(OrderPlaced, key=lambda e: e.order_id)
def placed(event: OrderPlaced) -> Checkout:
    cents = in_euro_cents(event.cents, event.currency)
    return Checkout(order_id=event.order_id, lines=event.lines, cents=cents, card=event.card)


def in_euro_cents(cents: int, currency: str) -> int:
    if currency not in CURRENCIES:
        raise ValueError(f"this release has no rate for the currency {currency}")
    return round(cents * RATES[currency])


@checkout.on(OrderCancelled, key=lambda e: e.order_id)  # at any time; ignored once the parcel has left
def cancelled(order: Checkout, event: OrderCancelled) -> Verdict:
    return Compensate(f"cancelled by {event.by}")


@checkout.command("fraud", timeout=minutes(1), retry=Retry.exponential(3), undo=Undo.NONE)
def score(order: Checkout) -> ScoreOrder:
    return ScoreOrder(order_id=order.order_id, cents=order.cents)


@score.reply
def scored(order: Checkout, reply: Cleared | Suspicious) -> Verdict:
    if isinstance(reply, Suspicious):
        order.case = reply.case
    return None


@score.rejected
def found_fraudulent(order: Checkout, why: Fraud) -> Verdict:
    return Compensate(f"fraud: {why.rule}")


@checkout.command("inventory", timeout=minutes(1), retry=Retry.exponential(3))
def reserve(order: Checkout) -> ReserveStock:
    return ReserveStock(order_id=order.order_id, lines=order.lines)


@reserve.reply
def reserved(order: Checkout, reply: StockReserved) -> None:
    order.reservation = reply.reservation


@reserve.rejected
def sold_out(order: Checkout, why: OutOfStock) -> Verdict:
    return Compensate(f"out of stock: {', '.join(why.skus)}")


@reserve.undo
def release(order: Checkout) -> ReleaseStock:  # the reservation is None if nobody told us how it went
    return ReleaseStock(order_id=order.order_id, reservation=order.reservation)


review = checkout.wait("fraud review", timeout=REVIEW_TIMEOUT)  # nobody looked: the order is taken back


@review.on(FraudReviewed, key=lambda e: e.order_id)  # may be here before the wait: then it is kept for it
def reviewed(order: Checkout, event: FraudReviewed) -> Verdict:
    return Compensate(f"fraud, says {event.reviewer}") if event.fraud else None


@review.every(REVIEW_TIMEOUT / (REMINDERS + 1), times=REMINDERS)
def remind(order: Checkout) -> ReviewOverdue:
    return ReviewOverdue(order_id=order.order_id, case=order.case or "")


@checkout.activity(timeout=seconds(10), retry=Retry.exponential(5), undo=Undo.NONE)
async def price(order: Checkout, ctx: ActivityContext) -> Quote:
    """Runs in the worker, outside any transaction; a shop would ask its price service, by `ctx.idempotency_key`."""
    pieces = sum(order.lines.values())
    return Quote(cents=round(order.cents * (1 - REBATE)) if pieces >= REBATE_FROM_PIECES else order.cents)


@price.result
def priced(order: Checkout, quote: Quote) -> None:
    order.cents = quote.cents


@checkout.command("payment", timeout=PAYMENT_TIMEOUT, undo=Undo.HYBRID)  # no answer may mean charged: taken back, too
def charge(order: Checkout) -> ChargeCard:
    return ChargeCard(order_id=order.order_id, cents=order.cents, card=order.card)


@charge.reply
def charged(order: Checkout, reply: Charged) -> None:
    order.payment = reply.payment


@charge.rejected
def declined(order: Checkout, why: CardDeclined) -> Verdict:
    return Compensate(f"card declined: {why.code}")


@charge.undo
def cancel_charge(order: Checkout) -> CancelCharge:
    return CancelCharge(order_id=order.order_id, payment=order.payment)


@checkout.command("shipping", timeout=minutes(10), retry=Retry.exponential(5))
def ship(order: Checkout) -> ShipOrder:
    return ShipOrder(order_id=order.order_id, reservation=order.reservation or "")


@ship.reply
def shipped(order: Checkout, reply: Shipped) -> None:
    order.parcels = reply.parcels


@checkout.emit
def announce(order: Checkout) -> OrderShipped:
    return OrderShipped(order_id=order.order_id, parcels=order.parcels)


checkout.flow(
    score,
    reserve,
    when(lambda order: order.case is not None, review),
    price,
    charge,
    pivot(ship),  # from here the order only goes forward
    announce,
)
