"""How the trial's participants decide: a command's data in, one answer per command id out.

Guarantees that the same id always gets the same answer and has its effect once, and that an undo which overtakes its
command wins. No I/O; hands `Answer` values to `participants`, which writes them down before it sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

REVIEW_FROM_CENTS: Final = 50_000
FRAUD_FROM_CENTS: Final = 1_000_000
DECLINED_CARD: Final = "tok_declined"
SLOW_CARD: Final = "tok_slow"

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply or rejection. `acted`: the participant did what it was told; `slow`: it says so only much later."""

    type: str
    data: Data = field(default_factory=dict)
    acted: bool = True
    slow: bool = False


def _refused(type: str, **data: object) -> Answer:
    return Answer(type, data, acted=False)


def _score(order: Data) -> Answer:
    if order["cents"] >= FRAUD_FROM_CENTS:
        return _refused("fraud", rule="amount")
    if order["cents"] >= REVIEW_FROM_CENTS:
        return Answer("suspicious", {"case": f"case-{order['order_id']}"})
    return Answer("cleared")


def _reserve(order: Data) -> Answer:
    if sold_out := [sku for sku in order["lines"] if sku.startswith("sold-out")]:
        return _refused("out_of_stock", skus=sold_out)
    return Answer("stock_reserved", {"reservation": f"shelf-{order['order_id']}"})


def _charge(order: Data) -> Answer:
    if order["card"] == DECLINED_CARD:
        return _refused("card_declined", code="insufficient_funds")
    return Answer("charged", {"payment": f"payment-{order['order_id']}"}, slow=order["card"] == SLOW_CARD)


def _ship(order: Data) -> Answer:
    return Answer("shipped", {"parcels": [f"parcel-{order['order_id']}"]})


def _check_credit(application: Data) -> Answer:
    return Answer("credit_checked", {"hold": f"hold-{application['application']}"})


DECISIONS: Final[Mapping[str, Callable[[Data], Answer]]] = {
    "score_order": _score,
    "reserve_stock": _reserve,
    "charge_card": _charge,
    "ship_order": _ship,
    "check_credit": _check_credit,
}
# What a command is told whose undo was here first.
TOO_LATE: Final[Mapping[str, Answer]] = {
    "score_order": _refused("fraud", rule="withdrawn"),
    "reserve_stock": _refused("out_of_stock", skus=[]),
    "charge_card": _refused("card_declined", code="withdrawn"),
}
WITHDRAWN: Final = _refused("rejected", reason="taken back before it arrived")
DONE: Final = Answer("done")


@dataclass(slots=True)
class Memory:
    """What a participant knows of its commands: every answer by id, and what was taken back."""

    answers: dict[str, Answer] = field(default_factory=dict)
    taken_back: set[str] = field(default_factory=set)

    def answer(self, message_id: str, type: str, data: Data, *, undoes: str | None) -> tuple[Answer, bool]:
        """The answer, and whether something was done because of this very delivery."""
        if known := self.answers.get(message_id):
            return known, False
        answer = self._decide(message_id, type, data, undoes)
        self.answers[message_id] = answer
        if undoes is not None:
            self.taken_back.add(undoes)
        return answer, answer.acted

    def _decide(self, message_id: str, type: str, data: Data, undoes: str | None) -> Answer:
        if undoes is not None:
            stands = undoes in self.answers and self.answers[undoes].acted and undoes not in self.taken_back
            return DONE if stands else Answer("done", acted=False)
        if message_id in self.taken_back:
            return TOO_LATE.get(type, WITHDRAWN)
        decide = DECISIONS.get(type)
        return decide(data) if decide is not None else DONE

    def recall(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up what an earlier process wrote into its ledger."""
        for line in lines:
            answer = line.get("answer")
            if answer is None or line["message_id"] in self.answers:
                continue
            self.answers[line["message_id"]] = Answer(**answer)
            if line["undoes"] is not None:
                self.taken_back.add(line["undoes"])
