"""What can be proved of a definition before it runs: one planted fault each, named with its step and its remedy.

features: L17
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import (
    Command,
    DefinitionError,
    Event,
    Message,
    Rejected,
    Retry,
    Rollback,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    parallel,
    pivot,
)
from saga_worker.saga.handlers import fields_set
from saga_worker.saga.hints import hints, notes


class Asked(Event):
    key: str


class Heard(Event):
    key: str


class Told(Event):
    key: str


class Price(Message):
    cents: int


class AskPrice(Command[Price, Rejected]):
    key: str


class Forget(UndoOf[AskPrice]):
    key: str


class Deal(BaseModel):
    key: str
    cents: int = 0
    tries: int = 0
    notes: list[str] = []


def deal(fault: str = "") -> Saga[Deal]:
    """Two prices are asked beside each other; once they are confirmed the deal is told."""
    saga = Saga("deal", state=Deal, deadline=None if fault == "a wait without bound" else days(1))

    @saga.starts_on(Asked, key=lambda e: e.key)
    def asked(event: Asked) -> Deal:
        return Deal(key=event.key)

    @saga.command("one", timeout=minutes(1))
    def one(state: Deal) -> AskPrice:
        return AskPrice(key=state.key)

    @one.reply
    def one_said(state: Deal, reply: Price) -> Verdict:
        state.cents = reply.cents
        state.tries += 1
        return Rollback("beginning", "too dear") if reply.cents > 9 else None

    if fault != "a missing undo":

        @one.undo
        def forget(state: Deal) -> Forget:
            return Forget(key=state.key)

    @saga.command("other", timeout=minutes(1), undo=Undo.NONE)
    def other(state: Deal) -> AskPrice:
        return AskPrice(key=state.key)

    if fault == "branches that set one field":

        @other.reply
        def overwrite(state: Deal, reply: Price) -> Verdict:
            state.notes, state.cents = [], reply.cents
            return None

    elif fault != "an unhandled reply":

        @other.reply
        def other_said(state: Deal, reply: Price) -> Verdict:
            state.tries += 1
            state.notes.append("other")
            return None

    confirmed = saga.wait("confirmed")

    if fault == "an unknown savepoint":

        @confirmed.on(Heard, key=lambda e: e.key)
        def not_heard(state: Deal, event: Heard) -> Verdict:
            return Rollback("begining", "not heard")

    else:

        @confirmed.on(Heard, key=lambda e: e.key)
        def heard(state: Deal, event: Heard) -> Verdict:
            return None

    retry = None if fault == "a rejection past the pivot" else Retry.exponential(3)

    @saga.command("third", timeout=minutes(1), retry=retry, undo=Undo.NONE)
    def seal(state: Deal) -> AskPrice:
        return AskPrice(key=state.key)

    @seal.reply
    def sealed(state: Deal, reply: Price) -> Verdict:
        return None

    @saga.emit
    def tell(state: Deal) -> Told:
        return Told(key=state.key)

    rest = (seal,) if fault == "an unreachable step" else (seal, tell)
    saga.flow(saga.savepoint("beginning"), parallel(one, other), pivot(confirmed), *rest)
    return saga


ERRORS = {
    "a wait without bound": "wait confirmed may last for ever; give it a timeout=…",
    "a missing undo": "step one may have to be undone before the pivot; declare @one.undo",
    "an unhandled reply": "step other does not handle its reply price; declare a handler with @other.reply",
    "an unreachable step": "step tell is unreachable; place it in deal.flow(…) or drop it",
}
HINTS = {
    "an unknown savepoint": "rolled back to the savepoint begining, which it does not have (there are: beginning)",
    "a rejection past the pivot": "step seal stands past the pivot, and when it is rejected only an operator is left;"
    " give it a retry=…, or go on with @seal.rejected",
    "branches that set one field": "the branches of one and other both set cents, and whoever is answered last wins",
}


def test_a_sound_definition_has_neither_problems_nor_hints() -> None:
    saga = deal()
    saga.check()

    assert list(hints(saga)) == []


@pytest.mark.parametrize("fault", ERRORS)
def test_what_cannot_work_is_refused_and_named(fault: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        deal(fault).check()

    (line,) = str(refused.value).splitlines()
    assert ERRORS[fault] in line
    assert "test_prover.py:" in line and "saga deal" in line


@pytest.mark.parametrize("fault", HINTS)
def test_what_may_be_forgotten_is_hinted_at(fault: str) -> None:
    saga = deal(fault)
    saga.check()

    (line,) = hints(saga)
    assert HINTS[fault] in line
    assert "test_prover.py:" in line and "saga deal" in line


def test_an_event_that_nobody_takes_is_noted_unless_a_definition_takes_it() -> None:
    listener = Saga("listener", state=Deal)

    @listener.starts_on(Told, key=lambda e: e.key)
    def told(event: Told) -> Deal:
        return Deal(key=event.key)

    (line,) = notes([deal()])
    assert "saga deal publishes told, which no definition here takes" in line
    assert list(notes([deal(), listener])) == []


def plainly(state: Any, event: Any) -> None:
    state.a = event.b
    event.c = state.d


def in_pairs(state: Any, event: Any) -> None:
    state.a, state.b = event.a, event


def of_another(state: Any, event: Any) -> None:
    other = state
    other.a = 1
    state.a.b = 1
    state.a[0] = 1
    state.a += 1
    state.a.append(1)
    plainly(state, event)


@pytest.mark.parametrize(
    ("handler", "fields"), [(plainly, {"a"}), (in_pairs, {"a", "b"}), (of_another, set())],
)  # fmt: skip
def test_what_a_handler_sets_is_read_off_its_code(handler: Callable[..., Any], fields: set[str]) -> None:
    assert fields_set(handler) == fields
