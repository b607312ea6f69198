"""An answer meets its command: the first definite one counts, later ones are recorded, wrong ones are refused."""

from __future__ import annotations

import pytest

from saga_worker import Retry, hours, minutes, seconds
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import Decision, Given, Refused, ReplyArrived
from saga_worker.saga.instance import Fate
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import (
    Begun,
    Cancel,
    DoA,
    DoB,
    DoP,
    DoQ,
    No,
    State,
    Told,
    UndoA,
    UndoB,
    Yes,
    line,
    waits,
)


def at_pivot() -> SagaTest[State]:
    return SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP)


def answered(test: SagaTest[State], seq: int, type_: str = "yes", body: bytes = b"{}") -> Decision:
    return decide(line(), test.one.instance, ReplyArrived(seq, type_, body), Given(START, 0.0, SAGA_ID))


def test_a_reply_runs_its_handler_and_goes_on() -> None:
    """features: 11, 86"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes(note="!"))

    test.expect(DoB(step="b", seen=["begun", "a!"])).expect_nothing().expect_status("running")


def test_all_replies_lead_to_the_end() -> None:
    test = at_pivot().reply(Yes()).expect(DoQ).reply(Yes()).expect(Told).expect_nothing().expect_status("completed")

    assert test.one.instance is not None
    assert (test.one.instance.progress.active, test.one.instance.progress.timers) == ({}, {})
    assert test.reason is None


def test_an_answered_command_keeps_no_body() -> None:
    test = at_pivot()

    assert test.one.instance is not None
    assert [record.body is None for record in test.one.instance.progress.commands.values()] == [True, True, False]


@pytest.mark.parametrize("then", ["compensate", "complete"])
def test_the_verdict_of_a_reply_is_followed(then: str) -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes.model_validate({"then": then}))

    if then == "compensate":
        test.expect(UndoA(seen=["begun", "a"])).expect_status("compensating", reason="a says so")
    else:
        test.expect_nothing().expect_status("completed", reason="a says so")


def test_a_rejection_runs_its_handler() -> None:
    """features: 83"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reject(No())

    test.expect_nothing().expect_status("compensated", reason="no a says so")


def test_a_rejection_whose_handler_decides_nothing_goes_on() -> None:
    SagaTest(line()).given(Begun()).expect(DoA).reject(No(then="go")).expect(DoB).expect_status("running")


def test_a_rejection_without_handler_compensates_and_says_which() -> None:
    """features: M17"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reject(No())

    test.expect(UndoA).expect_nothing().expect_status("compensating", reason="do_b was rejected: no")


def test_a_rejected_step_is_not_undone() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reject(No()).expect(UndoA).reply(Yes())

    test.expect_nothing().expect_status("compensated")


def test_a_repeated_answer_is_a_duplicate() -> None:
    """features: 87; M21"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    before = test.one.instance

    test.reply(Yes(note="once more"), to=DoA).expect_outcome("ignored: duplicate_reply").expect_nothing()

    assert test.one.instance == before


def test_a_contradicting_answer_is_recorded_as_such() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    test.reject(No(), to=DoA).expect_outcome("ignored: contradictory_reply").expect_status("running")

    test = SagaTest(line()).given(Begun()).expect(DoA).reject(No()).expect_status("compensated")
    test.reply(Yes(), to=DoA).expect_outcome("ignored: contradictory_reply").expect_nothing()


@pytest.mark.parametrize("seq", [0, 2, 99])
def test_a_number_that_was_never_issued_is_no_command(seq: int) -> None:
    """features: 86, 87, 95"""
    outcome = answered(SagaTest(line()).given(Begun()), seq).outcome

    assert isinstance(outcome, Refused) and outcome.reason == "unknown_command"


def test_the_number_of_an_event_is_no_command() -> None:
    test = SagaTest(waits()).given(Begun()).expect(Told)

    outcome = decide(waits(), test.one.instance, ReplyArrived(1, "yes", b"{}"), Given(START, 0.0, SAGA_ID)).outcome

    assert isinstance(outcome, Refused) and "an event, not a command" in outcome.error


def test_an_answer_of_another_type_is_refused_and_the_command_stays_open() -> None:
    """features: M21"""
    test = SagaTest(line()).given(Begun())

    outcome = answered(test, 1, "maybe").outcome

    assert isinstance(outcome, Refused) and outcome.reason == "schema_mismatch"
    assert "expected one of: yes, no" in outcome.error
    test.reply(Yes()).expect_outcome("applied")


def test_an_answer_that_does_not_fit_is_refused_without_its_values() -> None:
    outcome = answered(SagaTest(line()).given(Begun()), 1, "yes", b'{"then": "secret"}').outcome

    assert isinstance(outcome, Refused) and outcome.reason == "schema_mismatch" and "secret" not in outcome.error


def test_an_answer_is_accepted_before_the_outbox_row_is_gone() -> None:
    """features: M22"""
    test = SagaTest(line()).given(Begun())
    test.one.unsent = {1}

    test.expect(DoA).reply(Yes()).expect(DoB)


def test_a_reply_with_the_verdict_complete_leaves_a_second_answer_without_effect() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes(then="complete")).expect_status("completed")

    test.again().expect_outcome("ignored: duplicate_reply")


@pytest.mark.parametrize("is_success", [True, False])
def test_complete_leaves_a_command_in_flight_and_records_its_answer(is_success: bool) -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).given(Cancel(then="complete")).expect_status("completed")
    assert test.one.instance is not None and test.one.instance.progress.timers == {}

    test = test.reply(Yes()) if is_success else test.reject(No())

    test.expect_outcome("applied: late_reply").expect_nothing().expect_status("completed").expect_attention()
    assert test.state.seen == ["begun", "cancel"]
    assert test.one.instance is not None
    assert test.one.instance.progress.commands[1].fate is (Fate.DONE if is_success else Fate.REJECTED)


# -- the pivot ---------------------------------------------------------------------------------------------------------


def test_a_rejected_pivot_compensates() -> None:
    test = at_pivot().reject(No()).expect(UndoB).reply(Yes()).expect(UndoA).reply(Yes())

    test.expect_nothing().expect_status("compensated", reason="do_p was rejected: no")


def test_a_pivot_that_worked_but_wants_to_go_back_goes_on_and_asks_for_attention() -> None:
    test = at_pivot().reply(Yes(then="compensate")).expect(DoQ).expect_status("running")

    test.expect_attention("cannot_compensate: p")


def test_a_rejection_past_the_pivot_stays_and_asks_for_attention() -> None:
    test = at_pivot().reply(Yes()).expect(DoQ).reject(No()).expect_nothing().expect_status("running")

    test.expect_attention("rejected_after_pivot: q")
    assert test.state.seen[-1] == "no q"


def test_a_rejection_past_the_pivot_is_tried_again_under_a_new_id_before_it_asks_for_attention() -> None:
    """features: L7"""
    test = SagaTest(line(retry_q=Retry.fixed(3, seconds(10)))).given(Begun()).reply(Yes()).reply(Yes()).reply(Yes())
    test.expect(DoA).expect(DoB).expect(DoP).expect(DoQ).reject(No()).expect_nothing().expect_attention()

    test.advance(seconds(10)).expect(DoQ).reject(No()).advance(seconds(10)).expect(DoQ).expect_attention()
    assert [c.seq for c in test.one.commands()] == [1, 2, 3, 4, 5, 6]

    test.reject(No()).advance(hours(1)).expect_nothing().expect_attention("rejected_after_pivot: q")
    test.operator("retry").expect(DoQ).expect_attention().reply(Yes()).expect(Told).expect_status("completed")


def test_a_retry_of_what_will_be_tried_again_anyhow_changes_nothing() -> None:
    test = SagaTest(line(retry_q=Retry.fixed(3, seconds(10)))).given(Begun()).reply(Yes()).reply(Yes()).reply(Yes())

    test.reject(No()).operator("retry").expect_outcome("ignored: nothing_to_retry")

    test.given(Cancel(then="complete")).expect_status("completed").advance(minutes(1))
    assert len(test.sent) == 4


def test_a_rejection_past_the_pivot_may_be_accepted_by_its_handler() -> None:
    at_pivot().reply(Yes()).expect(DoQ).reject(No(then="go")).expect(Told).expect_status("completed")


def test_a_silent_pivot_asks_for_attention_and_still_takes_the_late_reply() -> None:
    test = at_pivot().advance(minutes(1)).expect_nothing().expect_status("running").expect_attention("no_answer: p")

    test.reply(Yes()).expect(DoQ).expect_attention()


def test_a_silent_pivot_that_is_rejected_at_last_compensates() -> None:
    at_pivot().advance(minutes(1)).expect_attention("no_answer: p").reject(No()).expect(UndoB).expect_attention()
