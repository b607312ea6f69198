"""`CrashMatrix`: our own stories keep their promises whatever happens twice, and planted faults are found.

features: L16
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel

from definitions.account_transfer import transfer
from definitions.approval_chain import claims
from definitions.checkout import OrderPlaced, checkout
from definitions.group_trip import TripPlanned, booking, coach, trip
from definitions.loan_application import loan
from definitions.model_deployment import deployment
from definitions.subscription_renewal import renewal
from saga_worker import (
    Command,
    Compensate,
    Done,
    Event,
    Message,
    Rejected,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    parallel,
    pivot,
    seconds,
)
from saga_worker.testing import CrashMatrix
from saga_worker.testing.history import CounterExample
from saga_worker.testing.samples import sample


class Asked(Event):
    key: str
    cents: int = 1


class Withdrawn(Event):
    key: str


class Delivered(Event):
    key: str


class Held(Message):
    room: str


class Hold(Command[Held, Rejected]):
    key: str


class Free(UndoOf[Hold, Done, Rejected]):
    room: str  # which only the reply says


class FreeAny(UndoOf[Hold, Done, Rejected]):
    room: str | None


class Price(Message):
    cents: int


class AskPrice(Command[Price, Rejected]):
    key: str


class Order(BaseModel):
    key: str
    room: str | None = None
    cents: int = 0
    is_withdrawn: bool = False


def order_saga(
    *, undo_needs_room: bool = False, withdraws_once: bool = False, one_field: bool = False, counts: Any = None
) -> Saga[Order]:
    """A room is held beside a price that is asked; then both are for good. Each argument plants one fault."""
    saga = Saga("order", state=Order, deadline=days(2))

    @saga.starts_on(Asked, key=lambda e: e.key)
    def asked(event: Asked) -> Order:
        return Order(key=event.key, cents=next(counts) if counts is not None else 0)

    @saga.on(Withdrawn, key=lambda e: e.key)
    def withdrawn(state: Order, event: Withdrawn) -> Verdict:
        if withdraws_once and state.is_withdrawn:
            raise RuntimeError("withdrawn twice")
        state.is_withdrawn = True
        return None

    @saga.command("rooms", timeout=minutes(1), undo_retry=Retry.fixed(2, seconds(5)))
    def hold(state: Order) -> Hold:
        return Hold(key=state.key)

    @hold.reply
    def held(state: Order, reply: Held) -> Verdict:
        state.room = reply.room
        if one_field:
            state.cents = 7
        return Compensate("withdrawn") if state.is_withdrawn else None

    if undo_needs_room:

        @hold.undo
        def free(state: Order) -> Free:
            return Free(room=state.room)  # the planted fault  # pyright: ignore[reportArgumentType]

    else:

        @hold.undo
        def free_any(state: Order) -> FreeAny:
            return FreeAny(room=state.room)

    @saga.command("prices", timeout=minutes(1), undo=Undo.NONE)
    def ask_price(state: Order) -> AskPrice:
        return AskPrice(key=state.key)

    @ask_price.reply
    def priced(state: Order, reply: Price) -> Verdict:
        state.cents = reply.cents
        return None

    last = saga.wait("delivered", timeout=days(1))

    @last.on(Delivered, key=lambda e: e.key)
    def delivered(state: Order, event: Delivered) -> None: ...

    saga.flow(parallel(hold, ask_price), pivot(last))
    return saga


MatrixOf = Callable[[], CrashMatrix[Any]]
STORIES: dict[str, MatrixOf] = {
    "account_transfer": lambda: CrashMatrix(transfer),
    "approval_chain": lambda: CrashMatrix(claims),
    "checkout": lambda: CrashMatrix(checkout, start=OrderPlaced(order_id="4711", lines={"tea": 1}, cents=9, card="c")),
    "coach_hire": lambda: CrashMatrix(coach),
    "group_trip": lambda: CrashMatrix(
        trip, start=TripPlanned(trip="t", travellers=["a", "b"], cents_each=1), faults=1
    ),
    "loan_application": lambda: CrashMatrix(loan),
    "model_deployment": lambda: CrashMatrix(deployment),
    "subscription_renewal": lambda: CrashMatrix(renewal, longest=18),
    "traveller_booking": lambda: CrashMatrix(booking),
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_our_stories_keep_their_promises_whatever_happens(story: str) -> None:
    explored = STORIES[story]().run()

    assert explored.histories > 3


def test_a_saga_without_a_fault_is_gone_through_to_the_end() -> None:
    explored = CrashMatrix(order_saga()).run()

    assert explored.histories > 50 and explored.cut == 0


PLANTED: dict[str, tuple[Callable[[], Saga[Any]], str, str]] = {
    "an undo that needs what only the reply says": (
        lambda: order_saga(undo_needs_room=True), "ValidationError of Free", "✗",
    ),
    "a handler that breaks on a repetition": (
        lambda: order_saga(withdraws_once=True), "RuntimeError: withdrawn twice", "comes once more",
    ),
    "branches that write one field": (
        lambda: order_saga(one_field=True), "cents is", "in both orders",
    ),
    "a handler that is another one each time": (
        lambda: order_saga(counts=count()), "I7: the history does not give the stored saga", "arrives",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_told(fault: str) -> None:
    make, sentence, line = PLANTED[fault]

    with pytest.raises(CounterExample) as found:
        CrashMatrix(make()).run()

    told = str(found.value)
    assert sentence in told
    assert line in told.partition("The story")[2]
    assert "The state: " in told and "hold: " in told


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Callable[[], None]]]:
    """Ways to break the core."""

    def never(*_: object) -> bool:
        return False

    def always(*_: object) -> bool:
        return True

    yield {
        "what is only possible is not taken back": lambda: monkeypatch.setattr(
            "saga_worker.saga.draft.is_undone_at_once", never
        ),
        "an event moves a saga that is over": lambda: monkeypatch.setattr(
            "saga_worker.saga.decide.event.is_over", never
        ),
        "losing the pivot goes back": lambda: monkeypatch.setattr(
            "saga_worker.saga.draft.Draft.past_pivot", property(never)
        ),
        "a late success is undone again": lambda: monkeypatch.setattr(
            "saga_worker.saga.draft.Draft.must_be_undone", always
        ),
    }


@pytest.mark.parametrize(
    "mutant",
    [
        "what is only possible is not taken back", "an event moves a saga that is over", "losing the pivot goes back",
        "a late success is undone again",
    ],
)  # fmt: skip
def test_a_broken_core_is_found(mutant: str, mutants: dict[str, Callable[[], None]]) -> None:
    matrix = CrashMatrix(checkout)
    mutants[mutant]()

    with pytest.raises((CounterExample, AssertionError)):
        matrix.run()


def test_what_cannot_be_made_up_has_to_be_given() -> None:
    class Strict(Event):
        key: str
        code: str

        def model_post_init(self, context: object, /) -> None:
            if len(self.code) != 4:
                raise ValueError("a code has four letters")

    with pytest.raises(ValueError, match=r"no example of Strict .* give one in samples"):
        sample(Strict)


def test_too_much_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="more than 50 steps: give fewer faults"):
        CrashMatrix(checkout, most=50).run()
