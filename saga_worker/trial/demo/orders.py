"""What the demo's shop sells: orders of every fate, mixed so that each kind occurs.

Pure: a number of orders in, the events that the shop publishes out, in three waves. Which fate an order meets is
decided by its data alone (card, amount, currency, goods), and by what is published about it before and after.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from saga_worker.trial.answers import DECLINED_CARD, REVIEW_FROM_CENTS, SLOW_CARD

SOURCE: Final = "shop"
KNOWN_CURRENCY: Final = "EUR"
POISON_CURRENCY: Final = "SEK"  # the first release has no rate for it
GOOD_CARD: Final = "tok_visa"
DUPLICATES: Final = 0.05
SEED: Final = 4711


class Kind(StrEnum):
    """What is special about an order."""

    PLAIN = "plain"
    DECLINED = "card declined"
    POISON = "unknown currency"
    SLOW = "paid too late"
    SOLD_OUT = "sold out"
    REVIEWED = "reviewed"
    REVIEWED_EARLY = "reviewed before it was placed"
    FRAUD = "found fraudulent"
    FORGOTTEN = "never reviewed"
    CANCELLED_EARLY = "cancelled before it was placed"


# Each kind occurs at least once, as far as there are orders; what is left is plain.
SHARES: Final[Mapping[Kind, float]] = {
    Kind.POISON: 0.02,
    Kind.DECLINED: 0.10,
    Kind.SLOW: 0.02,
    Kind.REVIEWED_EARLY: 0.02,
    Kind.CANCELLED_EARLY: 0.02,
    Kind.SOLD_OUT: 0.02,
    Kind.REVIEWED: 0.03,
    Kind.FRAUD: 0.01,
    Kind.FORGOTTEN: 0.01,
}


@dataclass(frozen=True, slots=True)
class ShopEvent:
    """One event as it goes over the wire."""

    id: str
    type: str
    body: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Waves:
    """What overtakes its order, the orders themselves (some twice), and what comes after them."""

    early: Sequence[ShopEvent]
    orders: Sequence[ShopEvent]
    late: Sequence[ShopEvent]


def plan(count: int, *, seed: int = SEED) -> Waves:
    """The same for the same arguments."""
    choice = random.Random(seed)
    kinds = _kinds(count)
    choice.shuffle(kinds)
    orders = [(f"order-{number:05}", kind) for number, kind in enumerate(kinds, 1)]
    placed = [_placed(order_id, kind, choice) for order_id, kind in orders]
    again = choice.sample(placed, max(1, round(DUPLICATES * count)))
    return Waves(
        early=[event for order_id, kind in orders for event in _before(order_id, kind)],
        orders=placed + again,
        late=[event for order_id, kind in orders for event in _after(order_id, kind)],
    )


def _kinds(count: int) -> list[Kind]:
    special = [kind for kind in SHARES for _ in range(max(1, round(SHARES[kind] * count)))]
    if len(special) >= count:  # a tiny demo shows one of each before it shows a second
        special = [Kind.PLAIN, *dict.fromkeys(special)][:count]
    return special + [Kind.PLAIN] * (count - len(special))


def _placed(order_id: str, kind: Kind, choice: random.Random) -> ShopEvent:
    suspicious = kind in (Kind.REVIEWED, Kind.REVIEWED_EARLY, Kind.FRAUD, Kind.FORGOTTEN)
    cards = {Kind.DECLINED: DECLINED_CARD, Kind.SLOW: SLOW_CARD}
    return _event(
        order_id,
        "order_placed",
        lines={"sold-out-lamp" if kind is Kind.SOLD_OUT else "book": choice.randint(1, 3)},
        cents=REVIEW_FROM_CENTS + 100 if suspicious else choice.randint(500, REVIEW_FROM_CENTS - 1),
        currency=POISON_CURRENCY if kind is Kind.POISON else KNOWN_CURRENCY,
        card=cards.get(kind, GOOD_CARD),
    )


def _before(order_id: str, kind: Kind) -> list[ShopEvent]:
    if kind is Kind.REVIEWED_EARLY:
        return [_event(order_id, "fraud_reviewed", fraud=False, reviewer="Grace")]
    if kind is Kind.CANCELLED_EARLY:
        return [_event(order_id, "order_cancelled", by="the customer")]
    return []


def _after(order_id: str, kind: Kind) -> list[ShopEvent]:
    if kind in (Kind.REVIEWED, Kind.FRAUD):
        return [_event(order_id, "fraud_reviewed", fraud=kind is Kind.FRAUD, reviewer="Ada")]
    return []


def _event(order_id: str, type: str, **data: object) -> ShopEvent:
    body = json.dumps({"order_id": order_id, **data}, separators=(",", ":")).encode()
    return ShopEvent(f"{order_id}-{type}", type, body)
