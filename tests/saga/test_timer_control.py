"""An operator moves an armed timer: now, another time, not by itself; under the epoch that was seen, or not at all."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic_core import to_json

from saga_worker import days, hours, minutes, seconds
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import Given, OperatorCommand, Refused
from saga_worker.saga.instance import NEVER
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import BROKEN, Begun, DoA, DoB, Signal, State, Told, UndoA, Yes, line, waits
from tests.saga.test_decide_operator import died


def told(test: SagaTest[State], command: str, timer: str, **arguments: object) -> SagaTest[State]:
    return test.operator(command, to_json({"timer": timer, **arguments}))


def due(test: SagaTest[State], timer: str) -> object:
    assert test.one.instance is not None
    return test.one.instance.progress.timers[timer].due_at


def at_a() -> SagaTest[State]:
    return SagaTest(line()).given(Begun()).expect(DoA)


def test_a_timer_is_fired_at_once_by_the_same_act() -> None:
    """features: L9"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)

    told(test, "timer_fire", "timeout:2:2").expect(UndoA).expect_status("compensating")
    told(test, "timer_fire", "timeout:2:2").expect_outcome("ignored: timer_not_armed").expect_nothing()


def test_what_is_ready_wins_against_a_timer_that_is_fired() -> None:
    """features: L9"""
    test = at_a()
    told(test.operator("pause").reply(Yes()), "timer_fire", "timeout:1:1").expect_nothing()

    test.operator("resume").expect(DoB).expect_nothing()


def test_a_timer_is_moved_away_and_nearer() -> None:
    """features: L9"""
    test = told(at_a(), "timer_move", "timeout:1:1", after_seconds=3600).advance(minutes(59)).expect_nothing()
    test.advance(minutes(1) + seconds(10)).expect(DoA)

    nearer = told(at_a(), "timer_move", "timeout:1:1", due_at=(START + seconds(1)).isoformat())
    nearer.advance(seconds(11)).expect(DoA)


def test_a_timer_that_was_armed_anew_is_another_one() -> None:
    """features: L9"""
    test = at_a().advance(minutes(1) + seconds(10)).expect(DoA)

    told(test, "timer_cancel", "timeout:1:1").expect_outcome("ignored: timer_not_armed")
    told(test, "timer_move", "timeout:1:2", after_seconds=1).expect_outcome("ignored: timer_not_armed")

    assert due(test, "timeout:1") == test.one.now + minutes(1)


def test_a_cancelled_timer_does_not_fire_nor_is_it_tried_again_but_can_be_moved() -> None:
    """features: L9"""
    test = SagaTest(waits(timeout=hours(1))).given(Begun()).expect(Told)
    told(test, "timer_cancel", "wait:first:2").advance(days(5)).expect_status("waiting").expect_nothing()
    told(test, "timer_cancel", "deadline:1").advance(days(50)).expect_status("waiting").expect_attention()
    assert due(test, "deadline") == NEVER
    test.operator("retry").expect_outcome("ignored: nothing_to_retry")

    told(test, "timer_move", "wait:first:2", after_seconds=60).advance(minutes(1)).expect_status("compensated")


def test_an_event_ends_a_wait_whose_timer_was_cancelled() -> None:
    """features: L9"""
    test = told(SagaTest(waits()).given(Begun()), "timer_cancel", "deadline:1")

    test.given(Begun()).expect(Told).expect(DoA).reply(Yes()).given(Signal()).expect_status("completed")


def test_a_timer_that_kept_failing_is_off_the_list_when_it_is_cancelled() -> None:
    test = SagaTest(line(), tolerant=True).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    BROKEN.add("undo_a")
    try:
        test.advance(minutes(2))
    finally:
        BROKEN.clear()
    assert test.attention[0].startswith("timer_failed: timeout:2: ")

    told(test, "timer_cancel", "timeout:2:2").expect_attention().advance(days(1)).expect_nothing()

    told(test, "timer_fire", "timeout:2:2").expect(UndoA)


def test_a_timer_that_killed_its_workers_fires_again_when_an_operator_says_so() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    for _ in range(4):
        test.operator("worker_killed", died("timeout:2:2", alone=True))
    assert test.attention and due(test, "timeout:2") == NEVER

    told(test, "timer_fire", "timeout:2:2").expect(UndoA).expect_attention()


def test_the_timers_of_a_paused_saga_are_moved_and_fire_when_it_is_resumed() -> None:
    test = at_a().operator("pause").advance(minutes(5))

    told(test, "timer_move", "timeout:1:1", after_seconds=60).operator("resume").expect_nothing()

    test.advance(minutes(1) + seconds(10)).expect(DoA)


@pytest.mark.parametrize(
    "when",
    [
        {}, {"after_seconds": "5"}, {"after_seconds": 1e300}, {"after_seconds": float("9e9") * 1e3}, {"due_at": 7},
        {"due_at": "noon"}, {"due_at": "2026-11-20T08:00:00"}, {"due_at": "9999-12-31T00:00:00Z"},
    ],
)  # fmt: skip
def test_a_time_that_is_none_is_refused(when: dict[str, object]) -> None:
    test = at_a()
    command = OperatorCommand("timer_move", to_json({"timer": "timeout:1:1", **when}))

    outcome = decide(line(), test.one.instance, command, Given(START, 0.0, SAGA_ID)).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "bad_operator_command"


def test_a_time_in_the_past_is_now() -> None:
    test = told(at_a(), "timer_move", "timeout:1:1", due_at=(START - timedelta(days=1)).isoformat())

    test.advance(seconds(10)).expect(DoA)
