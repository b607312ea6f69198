"""Going back: newest first, one after the other, everything that was or may have been done, each exactly once."""

from __future__ import annotations

import pytest

from saga_worker import Undo, minutes, seconds
from saga_worker.saga.instance import Fate
from saga_worker.testing import SagaTest
from tests.saga.scripted import Begun, Cancel, DoA, DoB, DoP, No, State, UndoA, UndoB, Yes, line


def both_done(undo_b: Undo = Undo.STRICT) -> SagaTest[State]:
    test = SagaTest(line(undo_b=undo_b)).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP)
    return test.reject(No())


def strict_unknown() -> SagaTest[State]:
    """a is done, b is silent and strict: a is undone, b is watched."""
    return SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).advance(minutes(1)).expect(UndoA)


def hybrid_unknown() -> SagaTest[State]:
    """a is silent and hybrid: undone at once."""
    return SagaTest(line()).given(Begun()).expect(DoA).given(Cancel()).expect(UndoA)


def test_undos_go_newest_first_and_each_waits_for_the_one_before() -> None:
    """features: 43, 84"""
    test = both_done().expect(UndoB).expect_nothing().reply(Yes()).expect(UndoA).expect_nothing()

    test.expect_status("compensating").reply(Yes()).expect_nothing().expect_status("compensated")
    assert test.unsettled == 0
    assert test.one.instance is not None
    assert (test.one.instance.finished_at, test.one.instance.progress.timers) == (test.one.now, {})


def test_an_undo_names_the_command_that_it_takes_back() -> None:
    undo = both_done().one.commands()[-1]

    assert (undo.type, undo.undoes, undo.destination, undo.step) == ("undo_b", 2, "dest-b", "b")


def test_a_step_with_nothing_to_take_back_is_left_out() -> None:
    """features: 4; M7"""
    both_done(Undo.NONE).expect(UndoA).reply(Yes()).expect_nothing().expect_status("compensated")


def test_with_nothing_to_undo_the_saga_is_compensated_at_once() -> None:
    """features: 50"""
    SagaTest(line()).given(Begun()).expect(DoA).reject(No()).expect_nothing().expect_status("compensated")


# -- unknown, and late ------------------------------------------------------------------------------------------------


def test_a_hybrid_step_in_flight_is_undone_at_once_and_its_late_success_is_only_recorded() -> None:
    """features: 41; L1"""
    test = hybrid_unknown().late_reply(Yes(), to=DoA).expect_outcome("applied: late_reply").expect_nothing()
    test.expect_status("compensating").reply(Yes(), to=UndoA).expect_status("compensated")

    test = hybrid_unknown().reply(Yes()).expect_status("compensated")
    test.late_reply(Yes(), to=DoA).expect_outcome("applied: late_reply").expect_nothing()
    assert test.unsettled == 0


def test_what_a_late_success_says_is_known_to_the_next_try_of_the_undo() -> None:
    test = hybrid_unknown().late_reply(Yes(note="#7"), to=DoA).reject(No(), to=UndoA).advance(seconds(5))

    test.expect(UndoA(seen=["begun", "cancel", "a#7"]))


def test_a_strict_step_that_worked_after_all_is_undone_exactly_once_also_after_the_end() -> None:
    """features: L1"""
    test = strict_unknown().reply(Yes()).expect_nothing().expect_status("compensated")
    assert test.unsettled == 1

    test.late_reply(Yes(), to=DoB).expect_outcome("applied: late_reply").expect(UndoB).expect_status("compensated")
    assert test.unsettled == 1  # its undo is not answered yet

    test.again().expect_outcome("ignored: duplicate_reply").expect_nothing()
    test.reply(Yes(), to=UndoB).expect_nothing().expect_status("compensated")
    assert test.unsettled == 0
    assert test.one.instance is not None and test.one.instance.progress.timers == {}


def test_a_strict_step_that_worked_after_all_waits_for_its_turn_while_another_undo_runs() -> None:
    test = strict_unknown().late_reply(Yes(), to=DoB).expect_nothing().expect_status("compensating")

    test.reply(Yes(), to=UndoA).expect(UndoB).expect_status("compensating")
    test.reply(Yes(), to=UndoB).expect_status("compensated")
    assert test.unsettled == 0


def test_a_late_success_of_what_is_taken_back_does_not_touch_the_state() -> None:
    test = hybrid_unknown().reply(Yes(), to=UndoA).late_reply(Yes(then="raise"), to=DoA)

    test.expect_outcome("applied: late_reply").expect_status("compensated")
    assert test.state.seen == ["begun", "cancel"]


def test_the_undo_after_a_late_success_knows_what_the_reply_said() -> None:
    """features: 40"""
    test = strict_unknown().reply(Yes()).late_reply(Yes(note="#7"), to=DoB)

    test.expect(UndoB(seen=["begun", "a", "b#7"]))


def test_the_verdict_of_a_late_success_has_no_say() -> None:
    test = strict_unknown().reply(Yes()).late_reply(Yes(then="complete"), to=DoB)

    test.expect(UndoB).expect_status("compensated", reason="no answer to do_b in time")


def test_a_late_rejection_settles_a_strict_step() -> None:
    test = strict_unknown().reject(No(), to=DoB).expect_outcome("applied: late_reply").expect_status("compensating")
    assert test.unsettled == 0

    test.reply(Yes(), to=UndoA).expect_nothing().expect_status("compensated")


def test_a_late_rejection_makes_the_undo_in_flight_needless() -> None:
    test = hybrid_unknown().reject(No(), to=DoA).expect_status("compensated").expect_nothing()
    assert test.unsettled == 0

    test.advance(minutes(30)).expect_nothing().expect_attention()
    test.operator("retry").expect_outcome("ignored: nothing_to_retry").expect_nothing()


@pytest.mark.parametrize("is_success", [True, False])
def test_the_answer_of_a_needless_undo_is_recorded_and_nothing_more(is_success: bool) -> None:
    test = hybrid_unknown().reject(No(), to=DoA)

    test = test.reply(Yes(), to=UndoA) if is_success else test.reject(No(), to=UndoA)

    test.expect_status("compensated").advance(minutes(1)).expect_nothing().expect_attention()


def test_a_late_rejection_ends_a_compensation_whose_undo_had_failed() -> None:
    test = hybrid_unknown().reject(No(), to=UndoA).advance(seconds(5)).expect(UndoA).reject(No(), to=UndoA)
    test.expect_status("compensating").expect_attention("undo_failed: a")

    test.reject(No(), to=DoA).expect_status("compensated").expect_attention().expect_nothing()


def test_a_late_rejection_during_the_back_off_of_the_undo_ends_it() -> None:
    test = hybrid_unknown().reject(No(), to=UndoA).reject(No(), to=DoA).expect_status("compensated")

    test.advance(minutes(1)).expect_nothing()


# -- undos that fail ---------------------------------------------------------------------------------------------------


def test_a_refused_undo_is_tried_again_after_the_back_off_under_a_new_id() -> None:
    """features: 33"""
    test = hybrid_unknown().reject(No(), to=UndoA).expect_nothing().advance(seconds(5)).expect(UndoA)

    first, second = [command for command in test.one.commands() if command.undoes == 1]
    assert first.seq != second.seq
    test.reply(Yes(), to=UndoA).expect_status("compensated")


def test_a_silent_undo_is_sent_again_under_the_same_id_with_the_same_bytes() -> None:
    """features: 33, 85"""
    test = hybrid_unknown().advance(minutes(1) + seconds(5)).expect(UndoA)

    first, second = [command for command in test.one.commands() if command.undoes == 1]
    assert (first.seq, first.body) == (second.seq, second.body)


@pytest.mark.parametrize("is_silent", [True, False])
def test_an_undo_out_of_tries_asks_for_attention_and_the_older_ones_go_on(is_silent: bool) -> None:
    """features: 32, 45, 46; M35"""
    test = both_done().expect(UndoB)
    if is_silent:
        test.advance(minutes(3)).expect(UndoB)
    else:
        test.reject(No()).advance(seconds(5)).expect(UndoB).reject(No())

    test.expect(UndoA).reply(Yes(), to=UndoA).expect_status("compensating").expect_attention("undo_failed: b")

    test.advance(minutes(60)).expect_nothing().expect_status("compensating")
    test.operator("retry").expect_outcome("applied").expect(UndoB).expect_attention()
    test.reply(Yes(), to=UndoB).expect_status("compensated").expect_attention()
    assert test.unsettled == 0


def test_the_answer_that_a_silent_undo_gives_at_last_ends_the_saga() -> None:
    test = hybrid_unknown().advance(minutes(5)).expect(UndoA).expect_attention("undo_failed: a")

    test.reply(Yes(), to=UndoA).expect_status("compensated").expect_attention()


def test_a_contradicting_answer_to_an_undo_changes_nothing() -> None:
    test = hybrid_unknown().reply(Yes(), to=UndoA).reject(No(), to=UndoA)
    test.expect_outcome("ignored: contradictory_reply").expect_status("compensated")

    test = hybrid_unknown().reject(No(), to=UndoA).reply(Yes(), to=UndoA)
    test.expect_outcome("ignored: contradictory_reply").advance(seconds(5)).expect(UndoA)


def test_an_undo_that_fails_after_the_end_asks_for_attention_and_stays_resumable() -> None:
    test = strict_unknown().reply(Yes()).late_reply(Yes(), to=DoB).expect(UndoB)
    test.reject(No(), to=UndoB).advance(seconds(5)).expect(UndoB).reject(No(), to=UndoB)
    test.expect_status("compensated").expect_attention("undo_failed: b")
    assert test.unsettled == 1

    test.operator("retry").expect(UndoB).reply(Yes(), to=UndoB).expect_status("compensated").expect_attention()
    assert test.unsettled == 0


def test_no_step_is_forgotten_when_two_undos_have_failed() -> None:
    test = both_done().expect(UndoB).advance(minutes(3)).expect(UndoB).expect(UndoA).advance(minutes(3)).expect(UndoA)
    test.expect_attention("undo_failed: b", "undo_failed: a")

    test.operator("retry").expect_attention()
    test.reply(Yes(), to=UndoB).reply(Yes(), to=UndoA).expect_status("compensated")


def test_two_refused_undos_are_taken_up_newest_first_by_one_retry() -> None:
    """features: M30"""
    test = both_done().expect(UndoB).reject(No()).advance(seconds(5)).expect(UndoB).reject(No())
    test.expect(UndoA).reject(No()).advance(seconds(5)).expect(UndoA).reject(No()).expect_nothing()
    test.expect_attention("undo_failed: b", "undo_failed: a")

    test.operator("retry").expect_attention().expect(UndoB).expect_nothing()
    test.reply(Yes(), to=UndoB).expect(UndoA).reply(Yes(), to=UndoA).expect_status("compensated")


def test_the_fates_after_a_compensation_say_what_happened() -> None:
    test = hybrid_unknown().reply(Yes(), to=UndoA)

    assert test.one.instance is not None
    a, undo = test.one.instance.progress.commands.values()
    assert (a.fate, a.undone, undo.fate, undo.undoes) == (Fate.UNKNOWN, True, Fate.DONE, 1)
