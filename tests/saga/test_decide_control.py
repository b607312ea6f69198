"""An operator takes the course of a saga in hand: pause and resume, go back, end it, say what was undone outside."""

from __future__ import annotations

import pytest

from saga_worker import days, hours, minutes, seconds
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import CancelActivity, Given, OperatorCommand, Refused
from saga_worker.saga.rows import Role, RowState
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import (
    Begun,
    Cancel,
    DoA,
    DoB,
    DoC,
    DoP,
    No,
    Signal,
    State,
    Told,
    UndoA,
    UndoB,
    UndoC,
    Yes,
    forked,
    line,
    waits,
)
from tests.saga.test_own_work import Story

WHY = b'{"why": "the customer has called"}'
STEP_A, STEP_B = b'{"step": "a"}', b'{"step": "b"}'


def at_p(*, pivoted: bool = True) -> SagaTest[State]:
    test = SagaTest(line(pivoted=pivoted)).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes())
    return test.expect(DoP)


def test_compensating_from_outside_undoes_newest_first_and_begins_no_further_step() -> None:
    """features: 47"""
    test = at_p(pivoted=False)

    test.operator("compensate", WHY).expect_status(
        "compensating", reason="taken back by an operator: the customer has called"
    )

    test.expect(UndoB).reply(Yes(), to=UndoB).expect(UndoA).reply(Yes(), to=UndoA)
    test.expect_status("compensated").reply(Yes(), to=DoP).expect_nothing()


def test_nothing_is_compensated_past_the_pivot_nor_twice_nor_after_the_end() -> None:
    """features: 47"""
    at_p().operator("compensate", WHY).expect_outcome("ignored: after_pivot").expect_status("running").expect_nothing()

    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).operator("compensate", WHY)
    test.expect(UndoA).operator("compensate", WHY).expect_outcome("ignored: compensating").expect_nothing()
    test.reply(Yes(), to=UndoA).expect_status("compensated")
    test.operator("compensate", WHY).expect_outcome("ignored: saga_finished")


def test_a_paused_saga_says_nothing_and_takes_up_everything_in_order_when_it_is_resumed() -> None:
    test = SagaTest(line()).given(Begun(review=True)).expect(DoA).operator("pause").expect_status("paused")

    test.reply(Yes()).expect_outcome("held: paused").advance(hours(1)).expect_nothing()
    test.event(Cancel(then="go")).expect_outcome("held: paused")
    test.operator("pause").expect_outcome("ignored: paused")
    test.operator("retry").expect_outcome("ignored: paused").expect_nothing()

    test.operator("resume").expect(DoB).expect_status("running").expect_nothing()
    assert test.state.seen == ["begun", "a", "cancel"]
    test.operator("resume").expect_outcome("ignored: not_paused")


def test_what_was_held_is_not_overtaken_by_what_comes_with_the_resumption() -> None:
    """A younger row in the very transaction that resumes the saga has its turn after all that were held."""
    test = SagaTest(waits()).given(Begun()).operator("pause")
    test.event(Begun()).expect_outcome("held: paused")
    for type_ in ("resume", "pause", "resume"):
        test.one.store(Role.OPERATOR, type_, b"{}", message_id=f"o{len(test.one.rows)}")
    held = test.one.in_state(RowState.HELD)
    test.event(Cancel(then="go")).expect(Told).expect(DoA)

    assert test.state.seen == ["begun", "begun again", "cancel"]
    assert [entry.inbox_id for entry in test.one.journal][-2:] == [held[0].id, len(test.one.rows)]


def test_time_goes_on_in_a_pause_and_due_timers_fire_after_what_was_held() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).operator("pause").advance(days(1))
    test.operator("resume").expect_nothing()  # the time-out has fired, and the command rests before its next try
    test.advance(seconds(10)).expect(DoA).operator("pause").advance(minutes(5)).reply(Yes())

    test.operator("resume").expect(DoB).expect_nothing()


def test_a_saga_that_goes_back_can_be_paused_and_goes_on_going_back() -> None:
    test = at_p(pivoted=False).operator("compensate", WHY).expect(UndoB).operator("pause").expect_status("paused")
    test.operator("compensate", WHY).expect_outcome("ignored: compensating")

    test.reply(Yes(), to=UndoB).expect_outcome("held: paused").expect_nothing()

    test.operator("resume").expect(UndoA).expect_status("compensating")
    test.operator("pause").reply(Yes(), to=UndoA).operator("resume").expect_status("compensated")


def test_a_paused_saga_can_be_taken_back() -> None:
    """features: 47"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).operator("pause")

    test.operator("compensate", WHY).expect(UndoA).expect_status("compensating")

    nothing_done = SagaTest(waits()).given(Begun()).operator("pause").operator("compensate", WHY)
    nothing_done.expect_status("compensated")


def test_what_lost_its_join_is_taken_back_after_a_pause() -> None:
    """a is done and c is asked when the review ends the race; an undo that is refused meanwhile waits for the end."""
    test = SagaTest(forked(join="any")).given(Begun(review=True)).expect(DoA).expect(DoC).reply(Yes(), to=DoA)
    test.given(Signal()).expect(DoP).expect(UndoC).expect(UndoA)
    test.reject(No(), to=UndoC).operator("pause").advance(minutes(1)).expect_nothing()
    test.operator("mark_undone", STEP_A).expect_nothing().expect_status("paused")

    test.operator("resume").expect(UndoC).expect_status("running").expect_nothing()


def test_a_savepoint_is_not_left_in_a_pause() -> None:
    """What was done since it is said to be undone outside: only the resumption lets the flow begin again."""
    test = SagaTest(forked(marked=True, pivoted=False)).given(Begun(review=True)).expect(DoA).expect(DoC)
    test.reply(Yes(), to=DoA).reply(Yes(then="rollback"), to=DoC).expect(UndoC).expect(UndoA).operator("pause")

    test.operator("mark_undone", STEP_A).operator("mark_undone", b'{"step": "c"}').expect_nothing()

    test.operator("resume").expect(DoA).expect(DoC).expect_status("running")


def test_a_cancelled_saga_ends_failed_and_leaves_what_it_did() -> None:
    test = (
        at_p()
        .operator("cancel", WHY)
        .expect_status("failed", reason="cancelled by an operator: the customer has called")
    )

    test.expect_nothing().advance(days(30)).expect_nothing()
    assert test.unsettled == 0
    test.reply(Yes(), to=DoP).expect_outcome("applied: late_reply").expect_nothing().expect_status("failed")
    test.operator("cancel", WHY).expect_outcome("ignored: saga_finished")
    test.operator("retry").expect_outcome("ignored: nothing_to_retry")


def test_a_saga_that_goes_back_stops_when_it_is_cancelled_and_hears_of_its_undos_all_the_same() -> None:
    test = at_p(pivoted=False).operator("compensate", WHY).expect(UndoB).reject(No(), to=UndoB)

    test.operator("cancel", WHY).expect_status("failed").advance(days(1)).expect_nothing().expect_attention()

    unanswered = at_p(pivoted=False).operator("compensate", WHY).expect(UndoB).operator("cancel", WHY)
    unanswered.reply(Yes(), to=UndoB).expect_outcome("applied: late_reply").expect_nothing()
    assert unanswered.one.instance is not None
    assert [c.undone for c in unanswered.one.instance.progress.commands.values()][:2] == [False, True]


def test_a_step_that_was_undone_outside_is_not_undone_again() -> None:
    """features: 48"""
    test = at_p(pivoted=False).operator("mark_undone", STEP_B).expect_outcome("applied").expect_status("running")

    test.operator("compensate", WHY).expect(UndoA).reply(Yes(), to=UndoA).expect_status("compensated").expect_nothing()

    test.operator("mark_undone", STEP_A).expect_outcome("ignored: nothing_to_mark")


def test_it_can_be_asked_whether_a_step_was_undone() -> None:
    """features: 48"""
    test = at_p(pivoted=False)
    assert [test.was_undone(step) for step in ("a", "b", "p")] == [False, False, False]
    test.operator("mark_undone", STEP_B)
    assert [test.was_undone(step) for step in ("a", "b", "p")] == [False, True, False]

    test.operator("compensate", WHY).expect(UndoA)
    assert not test.was_undone("a")
    test.reply(Yes(), to=UndoA)
    assert [test.was_undone(step) for step in ("a", "b", "p")] == [True, True, False]


def test_an_undo_that_nobody_answers_is_not_waited_for_when_it_was_done_outside() -> None:
    """features: 48"""
    test = at_p(pivoted=False).operator("compensate", WHY).expect(UndoB)

    test.operator("mark_undone", STEP_B).expect(UndoA).advance(seconds(30)).expect_nothing()

    test.reply(Yes(), to=UndoB).expect_outcome("applied: late_reply").expect_nothing()
    test.reply(Yes(), to=UndoA).expect_status("compensated")


def test_an_undo_that_failed_for_good_is_settled_by_word_of_an_operator() -> None:
    """features: 45; 48"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).operator("compensate", WHY)
    test.expect(UndoA).reject(No()).advance(seconds(5)).expect(UndoA).reject(No()).expect_attention("undo_failed: a")

    test.operator("mark_undone", STEP_A).expect_attention().expect_status("compensated").expect_nothing()
    assert test.unsettled == 1  # b, strict, is on watch: nobody knows whether it was done
    test.operator("mark_undone", STEP_B)
    assert test.unsettled == 0
    test.late_reply(Yes(), to=DoB).expect_outcome("applied: late_reply").expect_nothing()
    test.advance(days(15)).expect_attention()


def test_a_step_that_nobody_watches_any_more_is_settled_by_word_of_an_operator() -> None:
    """features: 48; L1"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).advance(minutes(1)).expect(UndoA)
    test.reply(Yes()).advance(days(14)).expect_attention("unsettled_expired: b")

    test.operator("mark_undone", STEP_B).expect_attention().expect_status("compensated")

    assert test.unsettled == 0


def test_an_activity_gets_no_further_attempt_once_its_saga_is_cancelled() -> None:
    """features: 48"""
    story = Story()
    test = story.begun().operator("cancel", WHY).expect_status("failed").expect_nothing()
    assert test.one.effects[-1] == CancelActivity(1)

    undone_story = Story()
    undone = undone_story.shelved()
    undone.operator("compensate", WHY).operator("mark_undone", b'{"step": "shelve"}')
    undone.expect_activity(undone_story.weigh, undo=True)
    undone.operator("mark_undone", b'{"step": "weigh"}').expect_status("compensated")
    assert undone.one.effects[-1] == CancelActivity(5)


@pytest.mark.parametrize("body", [b"{}", b'{"step": 7}', b"[]", b"no json"])
def test_marking_needs_a_step(body: bytes) -> None:
    test = SagaTest(line()).given(Begun())
    command = OperatorCommand("mark_undone", body)

    outcome = decide(line(), test.one.instance, command, Given(START, 0.0, SAGA_ID)).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "bad_operator_command"


def test_a_saga_that_does_not_exist_takes_nothing() -> None:
    command = OperatorCommand("compensate", WHY)

    assert str(decide(line(), None, command, Given(START, 0.0, SAGA_ID)).outcome) == "Ignored(reason='unknown_saga')"
