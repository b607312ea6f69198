"""What an operator or the relay says: try again, look again, a destination is gone or back."""

from __future__ import annotations

import pytest

from saga_worker import days, hours, minutes, seconds
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import Given, OperatorCommand, Refused
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import BROKEN, Begun, DoA, DoB, DoP, DoQ, No, Signal, State, Told, UndoA, Yes, line, waits


@pytest.fixture
def broken() -> object:
    yield BROKEN
    BROKEN.clear()


def at_q() -> SagaTest[State]:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP)
    return test.reply(Yes()).expect(DoQ)


def test_nothing_to_retry_changes_nothing() -> None:
    """features: 61"""
    SagaTest(line()).given(Begun()).expect(DoA).operator("retry").expect_outcome("ignored: nothing_to_retry")


def test_a_rejection_past_the_pivot_is_tried_again_under_a_new_id() -> None:
    """features: 18; L7"""
    test = at_q().reject(No()).expect_attention("rejected_after_pivot: q")

    test.operator("retry").expect(DoQ(step="q", seen=["begun", "a", "b", "p", "no q"])).expect_attention()

    assert test.one.commands()[-1].seq == 5
    test.reply(Yes()).expect(Told).expect_status("completed")


def test_silence_past_the_pivot_is_tried_again_under_the_same_id() -> None:
    test = at_q().advance(minutes(1)).expect_attention("no_answer: q")

    test.operator("retry").expect(DoQ).expect_attention()

    assert [c.seq for c in test.one.commands()][-2:] == [4, 4]
    test.advance(minutes(1)).expect_attention("no_answer: q")


def test_a_retry_while_a_retry_is_under_way_changes_nothing() -> None:
    test = at_q().advance(minutes(1)).operator("retry").expect(DoQ)

    test.operator("retry").expect_outcome("ignored: nothing_to_retry").expect_nothing()


def test_a_watch_that_ended_is_taken_up_again() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).advance(minutes(1)).expect(UndoA)
    test.reply(Yes()).advance(days(14)).expect_attention("unsettled_expired: b")

    test.operator("retry").expect_outcome("applied").expect_attention().expect_nothing()

    test.advance(days(14)).expect_attention("unsettled_expired: b")


def test_a_wait_that_expired_past_the_pivot_gets_its_time_once_more() -> None:
    saga = waits(pivot_on="emit", timeout=hours(1))
    test = (
        SagaTest(saga).given(Begun(), Begun()).reply(Yes()).advance(hours(1)).expect_attention("wait_expired: second")
    )

    test.operator("retry").expect_outcome("applied").expect_attention()

    test.advance(hours(1)).expect_attention("wait_expired: second").given(Signal()).expect_status("completed")


def test_a_deadline_that_passed_behind_the_pivot_is_set_once_more() -> None:
    test = SagaTest(waits(pivot_on="emit")).given(Begun(), Begun()).reply(Yes()).advance(days(10))
    test.expect_status("waiting").expect_attention("deadline_passed")

    test.operator("retry").expect_outcome("applied").expect_attention()

    test.advance(days(10)).expect_attention("deadline_passed")


def test_what_cannot_be_compensated_is_acknowledged() -> None:
    test = at_q()
    test.reply(Yes(then="compensate")).expect(Told).expect_status("completed").expect_attention("cannot_compensate: q")

    test.operator("retry").expect_outcome("applied").expect_attention().expect_status("completed").expect_nothing()


def test_a_timer_that_keeps_failing_is_tried_again_at_once(broken: set[str]) -> None:
    test = SagaTest(line(), tolerant=True).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    broken.add("undo_a")
    test.advance(minutes(2))
    assert test.attention[0].startswith("timer_failed: timeout:2: ")

    broken.clear()
    test.operator("retry").expect_outcome("applied").expect(UndoA).expect_attention()


def test_a_destination_that_cannot_be_reached_is_listed_once_and_taken_off_again() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).operator("undeliverable", b'{"destination": "dest-a"}')
    test.expect_outcome("applied").expect_attention("undeliverable: dest-a")
    test.operator("undeliverable", b'{"destination": "dest-a"}').expect_outcome("ignored: listed_already")

    test.operator("delivered", b'{"destination": "dest-a"}').expect_outcome("applied").expect_attention()
    test.operator("delivered", b'{"destination": "dest-a"}').expect_outcome("ignored: not_listed")
    test.expect_status("running").expect_nothing()


def test_a_step_and_a_destination_of_one_name_are_told_apart() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP)
    test.advance(minutes(1)).operator("undeliverable", b'{"destination": "p"}')
    test.expect_attention("no_answer: p", "undeliverable: p")

    test.operator("delivered", b'{"destination": "p"}').expect_attention("no_answer: p")
    test.operator("undeliverable", b'{"destination": "p"}').reply(Yes()).expect_attention("undeliverable: p")


def died(timer: str, *, alone: bool) -> bytes:
    return b'{"timer": "%s", "alone": %s}' % (timer.encode(), b"true" if alone else b"false")


def test_a_timer_that_killed_alone_too_often_never_fires_until_an_operator_says_so() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    for _ in range(5):  # how many died of a batch that it was in, says nothing about it
        test.operator("worker_killed", died("timeout:2:2", alone=False)).expect_outcome("applied").expect_attention()
    for _ in range(2):
        test.operator("worker_killed", died("timeout:2:2", alone=True)).expect_attention()
    test.operator("worker_killed", died("timeout:2:2", alone=True))
    test.expect_attention("timer_failed: timeout:2: 3 workers died of it, alone")
    # One more had it in hand when it was listed, and is found dead only now: that says nothing new.
    test.operator("worker_killed", died("timeout:2:2", alone=True)).expect_outcome("ignored: listed_already")
    test.expect_attention("timer_failed: timeout:2: 3 workers died of it, alone")

    test.advance(days(3)).expect_nothing().expect_status("running")

    test.operator("retry").expect_outcome("applied").expect(UndoA).expect_attention()


def test_a_timer_that_fired_or_was_armed_anew_since_the_death_is_not_accused() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA)

    for timer in ("timeout:1:7", "timeout:9:1", "nonsense"):
        test.operator("worker_killed", died(timer, alone=True)).expect_outcome("ignored: timer_not_armed")


def test_looking_again_changes_nothing() -> None:
    """features: 61"""
    SagaTest(line()).given(Begun()).operator("recheck").expect_outcome("ignored: rechecked")


@pytest.mark.parametrize(
    ("type_", "body", "reason"),
    [
        ("explode", b"{}", "unknown_operator_command"),
        ("undeliverable", b"{}", "bad_operator_command"),
        ("undeliverable", b"[]", "bad_operator_command"),
        ("delivered", b"no json", "bad_operator_command"),
    ],
)
def test_a_command_that_nobody_can_follow_is_refused(type_: str, body: bytes, reason: str) -> None:
    test = SagaTest(line()).given(Begun())

    outcome = decide(line(), test.one.instance, OperatorCommand(type_, body), Given(START, 0.0, SAGA_ID)).outcome

    assert isinstance(outcome, Refused) and outcome.reason == reason


def test_an_operator_is_heard_behind_a_dead_row() -> None:
    test = SagaTest(line(), tolerant=True).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).advance(minutes(1))
    test.expect(UndoA).advance(minutes(3)).expect(UndoA).late_reply(Yes(then="raise"), to=DoB).advance(seconds(20))
    test.expect_attention("undo_failed: a", "dead_letter")

    test.operator("retry").expect(UndoA).expect_attention("dead_letter")
