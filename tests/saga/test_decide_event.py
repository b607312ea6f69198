"""An event meets an open saga: taken, early, too late, or of no use; what it may still change after the pivot."""

from __future__ import annotations

from datetime import timedelta

import pytest

from saga_worker import Event, Saga, days, hours, minutes
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import EventArrived, Given, Ignored, Raised, Refused
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import (
    Begun,
    Cancel,
    DoA,
    DoB,
    DoP,
    DoQ,
    Overdue,
    Signal,
    State,
    Told,
    UndoA,
    UndoB,
    Yes,
    line,
    waits,
)


def at_review() -> SagaTest[State]:
    test = SagaTest(line()).given(Begun(review=True)).expect(DoA).reply(Yes()).expect(DoB).reply(Yes())
    return test.expect_status("waiting").expect_nothing()


def at_pivot(saga: Saga[State] | None = None) -> SagaTest[State]:
    return SagaTest(saga or line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP)


def test_an_arm_of_the_open_wait_ends_it() -> None:
    """features: 72, 81, 83"""
    test = at_review().given(Signal()).expect(DoP).expect_status("running")

    assert test.state.seen == ["begun", "a", "b", "signal"]
    assert test.one.instance is not None and set(test.one.instance.progress.timers) == {"timeout:3"}


def test_an_arm_may_send_the_saga_back() -> None:
    """features: 83"""
    test = at_review().given(Signal(then="compensate"))

    test.expect(UndoB).expect_nothing().expect_status("compensating", reason="signal says so")


def test_an_arm_may_end_the_saga_where_it_stands() -> None:
    at_review().given(Signal(then="complete")).expect_nothing().expect_status("completed", reason="signal says so")


def test_an_event_before_its_wait_is_parked_and_taken_up_when_the_wait_opens() -> None:
    """features: 72, 87; L3"""
    test = SagaTest(line()).given(Begun(review=True)).expect(DoA)
    test.event(Signal()).expect_outcome("parked: not_expected_yet")
    test.reply(Yes()).expect(DoB).expect_nothing()

    test.reply(Yes()).expect(DoP).expect_status("running")
    assert test.state.seen == ["begun", "a", "b", "signal"]


def test_an_event_whose_wait_is_behind_the_saga_is_too_late() -> None:
    at_review().given(Signal()).event(Signal()).expect_outcome("ignored: too_late")


def test_an_event_whose_wait_was_left_out_is_too_late() -> None:
    at_pivot().event(Signal()).expect_outcome("ignored: too_late")


def test_a_parked_event_is_too_late_as_soon_as_the_flow_passes_its_wait() -> None:
    test = SagaTest(line()).given(Begun()).event(Signal()).expect_outcome("parked: not_expected_yet")

    test.reply(Yes()).reply(Yes())

    assert test.one.rows[2].reason == "too_late"


@pytest.mark.parametrize("event", [Signal(), Cancel()])
def test_an_event_for_a_saga_that_is_over_is_saga_finished(event: Event) -> None:
    test = SagaTest(line()).given(Begun(), Cancel(then="complete")).event(event)

    test.expect_outcome("ignored: saga_finished").expect_status("completed")


@pytest.mark.parametrize("event", [Signal(), Cancel()])
def test_an_event_for_a_saga_that_goes_back_is_ignored(event: Event) -> None:
    test = SagaTest(line()).given(Begun(), Cancel()).expect(DoA).expect(UndoA).event(event)

    test.expect_outcome("ignored: compensating").expect_nothing().expect_status("compensating")


def test_an_event_that_no_version_handles_any_more_is_ignored() -> None:
    """features: 87"""
    test = SagaTest(line()).given(Begun())

    decision = decide(line(), test.one.instance, EventArrived("gone", "k", b"{}"), Given(START, 0.0, SAGA_ID))

    assert decision.outcome == Ignored("not_handled")


def test_an_event_at_any_time_changes_the_state_and_nothing_else() -> None:
    """features: 118"""
    test = SagaTest(line()).given(Begun()).expect(DoA).given(Cancel(then="go")).expect_nothing()

    assert test.state.seen == ["begun", "cancel"]
    test.expect_status("running").reply(Yes()).expect(DoB)


def test_an_event_that_compensates_before_the_pivot_takes_back_what_is_in_flight() -> None:
    """features: 47"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).given(Cancel())

    test.expect(UndoA).expect_nothing().expect_status("compensating", reason="cancel says so")
    assert test.unsettled == 1  # b is strict: it may have worked, and is watched


def test_an_event_that_compensates_while_the_pivot_is_out_is_ignored_with_its_changes() -> None:
    test = at_pivot().event(Cancel()).expect_outcome("ignored: after_pivot").expect_nothing().expect_status("running")

    assert test.state.seen == ["begun", "a", "b"]


def test_an_event_that_compensates_after_the_pivot_is_ignored() -> None:
    at_pivot().reply(Yes()).expect(DoQ).event(Cancel()).expect_outcome("ignored: after_pivot").expect_nothing()


def test_an_event_that_completes_is_followed_after_the_pivot() -> None:
    at_pivot().given(Cancel(then="complete")).expect_nothing().expect_status("completed")


def test_a_wait_that_is_the_pivot_can_still_be_left_backwards() -> None:
    test = SagaTest(waits(pivot_on="wait")).given(Begun(), Begun()).expect(DoA).reply(Yes()).expect_status("waiting")

    test.given(Cancel()).expect(UndoA).expect_status("compensating")


def test_an_arm_of_a_pivot_wait_can_send_the_saga_back() -> None:
    test = SagaTest(waits(pivot_on="wait")).given(Begun(), Begun()).expect(DoA).reply(Yes())

    test.given(Signal(then="compensate")).expect(UndoA).expect_status("compensating")


def test_a_published_event_can_be_the_pivot() -> None:
    test = SagaTest(waits(pivot_on="emit")).given(Begun(), Begun()).expect(DoA).reply(Yes()).expect(Told)

    test.event(Cancel()).expect_outcome("ignored: after_pivot").expect_status("waiting")


def test_an_arm_that_compensates_after_the_pivot_goes_on_and_asks_for_attention() -> None:
    test = SagaTest(waits(pivot_on="emit")).given(Begun(), Begun()).expect(DoA).reply(Yes()).expect(Told)

    test.given(Signal(then="compensate")).expect_nothing().expect_status("completed")

    test.expect_attention("cannot_compensate: second")
    assert test.state.seen[-1] == "signal"


def test_the_key_in_the_model_has_to_be_the_key_of_the_route() -> None:
    """features: 87, 95"""
    test = SagaTest(line()).given(Begun())
    event = EventArrived("cancel", "other", b'{"key": "k"}')

    outcome = decide(line(), test.one.instance, event, Given(START, 0.0, SAGA_ID)).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "key_mismatch"


def test_an_event_that_does_not_fit_its_model_is_refused_and_blocks_nobody() -> None:
    """features: 22"""
    test = SagaTest(line(), tolerant=True).given(Begun())
    test.one.store(0, "cancel", b'{"key": "k", "then": "secret"}', message_id="bad")  # type: ignore[arg-type]
    test.one.drain()

    assert test.one.rows[2].reason == "schema_mismatch"
    test.given(Cancel(then="go")).expect_attention()


def test_a_verdict_that_is_none_is_an_error_of_the_author() -> None:
    test = SagaTest(line()).given(Begun())
    event = EventArrived("cancel", "k", b'{"key": "k", "then": "nonsense"}')

    outcome = decide(line(), test.one.instance, event, Given(START, 0.0, SAGA_ID)).outcome

    assert isinstance(outcome, Raised) and "return Compensate, Complete, Rollback or None" in outcome.error
    assert " at scripted.py:" in outcome.error, "the handler that returned it, not the line of ours that complains"


def test_a_handler_that_raises_leaves_no_trace_in_the_state() -> None:
    """features: 118"""
    test = SagaTest(line(), tolerant=True).given(Begun())
    before = test.one.instance

    test.event(Cancel(then="raise")).expect_outcome("waiting to be tried again").expect(DoA).expect_nothing()

    assert test.one.instance == before


@pytest.mark.parametrize("reminders", [1, 2, 3])
def test_a_wait_reminds_as_often_as_it_says(reminders: int) -> None:
    test = at_review().advance(hours(6) * reminders)

    assert test.published == [Overdue(key="k")] * reminders
    test.expect_status("waiting")


def test_reminders_end_with_their_count_and_with_their_wait() -> None:
    test = at_review().advance(days(1.9))
    assert len(test.published) == 3

    test = at_review().advance(hours(7)).given(Signal()).expect(DoP)
    assert len(test.published) == 1
    assert test.one.instance is not None and set(test.one.instance.progress.timers) == {"timeout:4"}


def test_after_a_pause_of_the_worker_reminders_do_not_come_in_a_burst() -> None:
    test = at_review()
    test.one.now += hours(17)  # nobody looked for so long

    test.advance(timedelta(0))

    assert len(test.published) == 1
    test.advance(hours(6))
    assert len(test.published) == 2


def test_two_waits_for_the_same_event_take_one_each() -> None:
    """features: 83, 90"""
    saga = Saga("twice", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
    one, two = saga.wait("one", timeout=minutes(1)), saga.wait("two", timeout=minutes(1))
    one.on(Signal, key=lambda e: e.key)(lambda state, event: state.seen.append("one"))
    two.on(Signal, key=lambda e: e.key)(lambda state, event: state.seen.append("two"))
    saga.flow(one, two)

    test = SagaTest(saga).event(Signal()).event(Signal()).given(Begun()).expect_status("completed")

    assert test.state.seen == ["one", "two"]


class Opened(Event):
    key: str


class Forced(Event):
    key: str


@pytest.mark.parametrize("ends", [Opened(key="k"), Forced(key="k")], ids=["opened", "forced"])
def test_each_type_that_a_wait_lists_ends_it_and_no_other_one_is_taken(ends: Event) -> None:
    """features: 94"""
    saga = Saga("door", state=State, deadline=days(1))
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
    door = saga.wait("door")
    door.on(Opened, key=lambda e: e.key)(lambda state, event: None)
    door.on(Forced, key=lambda e: e.key)(lambda state, event: None)
    saga.flow(door)
    test = SagaTest(saga).given(Begun())
    other = EventArrived("signal", "k", b'{"key": "k"}')

    outcome = decide(saga, test.one.instance, other, Given(START, 0.0, SAGA_ID)).outcome
    assert isinstance(outcome, Ignored) and outcome.reason == "not_handled"
    test.expect_status("waiting").event(ends).expect_status("completed")
