"""What the author's code may raise or return by mistake: always an outcome for its row, never an end of the worker."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import Command, Event, Saga, UndoOf
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import EventArrived, Given, Raised
from saga_worker.testing.one_saga import SAGA_ID, START

GIVEN = Given(START, 0.0, SAGA_ID)


class Begun(Event):
    key: str


class Told(Event):
    key: str


class Work(Command):
    key: str


class Unwork(UndoOf[Work]):
    key: str


class State(BaseModel):
    key: str


def saga_that(
    *, starts: Any = lambda event: State(key=event.key), works: Any = lambda state: Work(key="k")
) -> Saga[State]:
    saga = Saga("s", state=State, deadline=timedelta(days=1))

    @saga.starts_on(Begun, key=lambda e: e.key)
    def begun(event: Begun) -> State:
        made: State = starts(event)
        return made

    @saga.command("x", timeout=timedelta(minutes=1))
    def work(state: State) -> Work:
        made: Work = works(state)
        return made

    saga.flow(work)
    return saga


def start(saga: Saga[State]) -> Raised:
    outcome = decide(saga, None, EventArrived("begun", "k", b'{"key": "k"}'), GIVEN).outcome
    assert isinstance(outcome, Raised)
    return outcome


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), BaseException("base")]
)
def test_whatever_a_handler_raises_is_an_error_of_the_handler(error: BaseException) -> None:
    def starts(event: Begun) -> State:
        raise error

    assert start(saga_that(starts=starts)).error.startswith(type(error).__name__)


@pytest.mark.parametrize("made", [Unwork(key="k"), Told(key="k"), None, "work"], ids=lambda made: type(made).__name__)
def test_a_maker_that_makes_something_else_is_an_error_of_the_maker(made: object) -> None:
    """features: 13"""
    error = start(saga_that(works=lambda state: made)).error

    assert "return Work, as it is annotated" in error
