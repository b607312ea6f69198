"""A saga begins: once per key, with the state its author made, or not at all."""

from __future__ import annotations

from datetime import timedelta

import pytest

from saga_worker import Event, Saga, days, minutes
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import (
    EventArrived,
    Given,
    Ignored,
    OperatorCommand,
    Raised,
    Refused,
    ReplyArrived,
    TimerFired,
)
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import Begun, Cancel, DoA, Signal, State, Told, line, waits

GIVEN = Given(START, 0.0, SAGA_ID)


def test_a_start_makes_the_state_and_opens_the_first_step() -> None:
    """features: 11"""
    test = SagaTest(line()).given(Begun())

    test.expect(DoA(step="a", seen=["begun"])).expect_nothing().expect_status("running")
    assert test.state == State(key="k", seen=["begun"])
    assert test.one.instance is not None
    assert (test.one.instance.revision, test.one.instance.saga_id, test.one.instance.started_at) == (1, SAGA_ID, START)


def test_a_start_whose_first_step_waits_is_waiting_and_has_published_what_came_before() -> None:
    """features: 81, 82, 134"""
    SagaTest(waits()).given(Begun()).expect(Told).expect_nothing().expect_status("waiting")


def test_a_flow_of_events_only_ends_in_the_step_that_starts_it() -> None:
    saga = Saga("short", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
    saga.flow(saga.emit(_told))

    test = SagaTest(saga).given(Begun()).expect(Told).expect_status("completed")

    assert test.one.instance is not None and test.one.instance.finished_at == START


def _told(state: State) -> Told:
    return Told(key=state.key, seen=[])


def test_a_second_start_is_ignored_whether_the_saga_is_open_or_over() -> None:
    """features: 55, 66"""
    test = SagaTest(line()).given(Begun()).event(Begun(review=True)).expect_outcome("ignored: duplicate_start")
    test.event(Cancel()).expect_status("compensating").event(Begun()).expect_outcome("ignored: duplicate_start")

    assert test.state.review is False


def test_a_second_start_that_an_open_wait_takes_ends_that_wait() -> None:
    SagaTest(waits()).given(Begun()).given(Begun()).expect(Told).expect(DoA).expect_status("running")


def test_an_event_before_its_start_is_parked_and_taken_up_with_the_start() -> None:
    """features: L3"""
    test = SagaTest(waits()).event(Cancel(then="go")).expect_outcome("parked: unknown_saga")
    test.given(Begun())

    assert test.state.seen == ["begun", "cancel"]


def test_a_start_that_raises_leaves_nothing_behind() -> None:
    """features: M4"""
    test = SagaTest(line(), tolerant=True).event(Begun(then="raise")).expect_outcome("waiting to be tried again")

    test.expect_status("absent").expect_nothing()
    assert test.one.journal == []


@pytest.mark.parametrize("then", ["raise", "assert"])
def test_what_the_author_raises_is_an_outcome_with_the_authors_line(then: str) -> None:
    body = f'{{"key": "k", "then": "{then}"}}'.encode()
    decision = decide(line(), None, EventArrived("begun", "k", body), GIVEN)

    assert decision.instance is None
    assert isinstance(decision.outcome, Raised)
    assert " at scripted.py:" in decision.outcome.error and "in answer" in decision.outcome.error


def test_a_start_that_returns_something_else_is_an_error_of_the_author() -> None:
    saga = Saga("wrong", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: event)  # type: ignore[arg-type,return-value]
    saga.flow(saga.emit(_told))

    outcome = decide(saga, None, EventArrived("begun", "k", b'{"key": "k"}'), GIVEN).outcome

    assert isinstance(outcome, Raised) and "the start handler returned Begun; return State" in outcome.error


def test_a_key_that_is_not_the_one_it_was_routed_by_is_refused() -> None:
    outcome = decide(line(), None, EventArrived("begun", "other", b'{"key": "k"}'), GIVEN).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "key_mismatch"


def test_a_start_that_does_not_fit_its_model_is_refused_without_its_values() -> None:
    """features: 1, 22"""
    outcome = decide(line(), None, EventArrived("begun", "k", b'{"key": "k", "review": "secret"}'), GIVEN).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "schema_mismatch"
    assert "review: bool_parsing" in outcome.error and "secret" not in outcome.error


def test_a_reply_to_a_saga_that_does_not_exist_is_refused() -> None:
    outcome = decide(line(), None, ReplyArrived(1, "yes", b"{}"), GIVEN).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "unknown_command"


@pytest.mark.parametrize("said", [OperatorCommand("retry", b"{}"), TimerFired("deadline", 1)])
def test_an_operator_or_a_timer_without_saga_is_ignored(said: OperatorCommand | TimerFired) -> None:
    assert decide(line(), None, said, GIVEN).outcome == Ignored("unknown_saga")


def test_the_deadline_is_armed_by_the_start() -> None:
    test = SagaTest(waits()).given(Begun())

    assert test.one.instance is not None
    assert test.one.instance.progress.timers["deadline"].due_at == START + days(10)


def test_the_state_is_stored_by_field_names_and_read_back_the_same_way() -> None:
    from pydantic import BaseModel, Field

    class Aliased(BaseModel):
        order: str = Field(alias="orderId")
        seen: int = 0

    saga = Saga("aliased", state=Aliased)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: Aliased(orderId=event.key))

    @saga.on(Cancel, key=lambda e: e.key)
    def count(state: Aliased, event: Cancel) -> None:
        state.seen += 1

    wait = saga.wait("for ever", timeout=minutes(5))
    wait.on(Signal, key=lambda e: e.key)(lambda state, event: None)
    saga.flow(wait)

    test = SagaTest(saga).given(Begun(), Cancel(), Cancel())

    assert test.state.seen == 2
    assert test.one.instance is not None and b'"order":"k"' in test.one.instance.state


def test_a_state_that_could_not_be_read_back_is_the_error_of_the_handler_that_made_it() -> None:
    saga = Saga("spoiled", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))

    @saga.on(Cancel, key=lambda e: e.key)
    def spoil(state: State, event: Cancel) -> None:
        state.seen = "secret"  # type: ignore[assignment]  # pydantic does not look at assignments

    wait = saga.wait("for ever", timeout=minutes(5))
    wait.on(Signal, key=lambda e: e.key)(lambda state, event: None)
    saga.flow(wait)

    test = SagaTest(saga, tolerant=True).given(Begun()).event(Cancel())
    test.expect_outcome("waiting to be tried again")

    assert "seen: list_type" in test.one.errors[2] and "secret" not in test.one.errors[2]
    assert test.state.seen == []


@pytest.mark.parametrize(("text", "fits"), [("a\0b", False), ("a\\u0000b", True), ("a\\\0b", False)])
def test_only_a_real_nul_in_the_state_is_refused(text: str, fits: bool) -> None:
    class Named(Event):
        key: str
        name: str

    class Name(State):
        name: str

    saga = Saga("named", state=Name)
    saga.starts_on(Named, key=lambda e: e.key)(lambda event: Name(key=event.key, name=event.name))
    saga.flow(saga.emit(_told))

    test = SagaTest(saga, tolerant=True).event(Named(key="k", name=text))

    test.expect_outcome("applied" if fits else "waiting to be tried again")


def test_time_is_the_one_given_never_the_clock_of_the_machine() -> None:
    decision = decide(line(), None, EventArrived("begun", "k", b'{"key": "k"}'), GIVEN)

    assert decision.instance is not None
    assert decision.instance.updated_at == START
    assert decision.instance.progress.timers["timeout:1"].due_at == START + timedelta(minutes=1)
