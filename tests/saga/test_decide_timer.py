"""Time passes: no answer, a wait that ends, a deadline, a watch; each timer once, and only while it is armed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from saga_worker import OnTimeout, days, hours, minutes, seconds
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import Given, Ignored, Postponed, TimerFired
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import BROKEN, Begun, Cancel, DoA, DoB, DoP, DoQ, Signal, State, UndoA, UndoB, Yes, line, waits


def at_b() -> SagaTest[State]:
    return SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)


def at_pivot(test: SagaTest[State] | None = None) -> SagaTest[State]:
    test = test or SagaTest(line())
    return test.given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP)


# -- no answer ---------------------------------------------------------------------------------------------------------


def test_silence_is_followed_by_the_same_id_and_the_same_bytes() -> None:
    """features: 34; M13"""
    test = SagaTest(line()).given(Begun()).expect(DoA).given(Cancel(then="go"))

    test.advance(minutes(1)).expect_nothing().advance(seconds(10)).expect(DoA(step="a", seen=["begun"]))

    first, second = test.one.commands()
    assert (first.seq, first.body, first.type, first.destination) == (
        second.seq, second.body, second.type, second.destination,
    )  # fmt: skip
    assert first.deadline is not None and second.deadline == first.deadline + minutes(1) + seconds(10)


def test_an_answer_to_any_copy_is_the_answer() -> None:
    SagaTest(line()).given(Begun()).expect(DoA).advance(minutes(2)).expect(DoA).reply(Yes()).expect(
        DoB
    ).expect_nothing()


def test_an_answer_during_the_back_off_prevents_the_resend() -> None:
    test = SagaTest(line()).given(Begun()).expect(DoA).advance(minutes(1)).reply(Yes()).expect(DoB)

    test.reply(Yes()).advance(seconds(30)).expect(DoP).expect_nothing()


def test_after_the_last_try_a_hybrid_step_is_undone_at_once() -> None:
    """features: 32, 41"""
    test = SagaTest(line()).given(Begun()).expect(DoA).advance(minutes(4)).expect(DoA).expect(DoA)

    test.expect(UndoA).expect_nothing().expect_status("compensating", reason="no answer to do_a in time")
    assert test.unsettled == 1
    assert test.one.journal[-1].decided_at == START + minutes(3) + seconds(20)


def test_after_the_last_try_a_strict_step_is_watched_while_the_rest_is_undone() -> None:
    """features: 42"""
    test = at_b().advance(minutes(1)).expect(UndoA).expect_nothing().expect_status("compensating")

    test.reply(Yes()).expect_nothing().expect_status("compensated")
    assert test.unsettled == 1
    assert test.one.instance is not None and set(test.one.instance.progress.timers) == {"watch:2"}


def test_a_timer_whose_epoch_is_over_has_no_effect() -> None:
    """features: 58; L9; M23"""
    test = SagaTest(line()).given(Begun())
    assert test.one.instance is not None
    epoch = test.one.instance.progress.timers["timeout:1"].epoch

    for stale in (TimerFired("timeout:1", epoch + 1), TimerFired("timeout:1", epoch - 1), TimerFired("gone", 1)):
        decision = decide(line(), test.one.instance, stale, Given(START, 0.0, SAGA_ID))
        assert decision.outcome == Ignored("timer_not_armed")
        assert decision.instance is test.one.instance


def test_a_timer_has_no_effect_the_second_time() -> None:
    saga, test = waits(), SagaTest(waits()).given(Begun())
    assert test.one.instance is not None
    fired = TimerFired("deadline", test.one.instance.progress.timers["deadline"].epoch)
    first = decide(saga, test.one.instance, fired, Given(START, 0.0, SAGA_ID))

    second = decide(saga, first.instance, fired, Given(START, 0.0, SAGA_ID))

    assert first.instance is not None and first.instance.status.label == "compensated"
    assert second.outcome == Ignored("timer_not_armed")


def test_a_command_that_has_not_left_is_not_overdue() -> None:
    test = SagaTest(line()).given(Begun())
    assert test.one.instance is not None
    before = test.one.instance
    fired = TimerFired("timeout:1", before.progress.timers["timeout:1"].epoch)
    later = START + minutes(1)

    decision = decide(line(), before, fired, Given(later, 0.0, SAGA_ID, unsent=frozenset({1})))

    assert decision.outcome == Postponed()
    assert decision.effects == ()
    assert decision.instance is not None and decision.instance.revision == before.revision
    assert decision.instance.progress.timers["timeout:1"].due_at == later + minutes(1)
    assert decision.instance.progress.timers["timeout:1"].epoch == fired.epoch  # no step has armed another one


def test_while_the_relay_is_down_nothing_is_given_up_and_nothing_is_journalled() -> None:
    test = SagaTest(line())
    test.event(Begun())
    test.one.unsent = {1}
    steps = len(test.one.journal)

    test.advance(days(1)).expect(DoA).expect_nothing().expect_status("running")

    assert len(test.one.journal) == steps
    test.one.unsent = set()
    test.advance(minutes(2)).expect(DoA)


def test_an_undo_that_has_not_left_is_not_overdue() -> None:
    test = SagaTest(line()).given(Begun()).reply(Yes()).given(Cancel())
    test.one.unsent = {3}

    test.advance(hours(1))

    assert [c.seq for c in test.one.commands()] == [1, 2, 3]


def test_reply_time_outs_wait_until_the_replies_are_in_while_business_timers_fire() -> None:
    test = SagaTest(line()).given(Begun(review=True)).expect(DoA)
    test.one.replies_are_in = False
    test.advance(minutes(10)).expect_nothing()
    test.reply(Yes()).expect(DoB).reply(Yes()).advance(hours(6))
    assert len(test.published) == 1

    test = SagaTest(line()).given(Begun()).expect(DoA)
    test.one.replies_are_in = False
    test.advance(minutes(10)).expect_nothing()
    test.one.replies_are_in = True
    test.advance(seconds(5) + seconds(10)).expect(DoA)


# -- waits, reminders, the deadline ------------------------------------------------------------------------------------


def test_a_wait_whose_time_is_over_compensates() -> None:
    """features: 51, 73; M10"""
    test = SagaTest(line()).given(Begun(review=True)).reply(Yes()).expect(DoA).reply(Yes()).expect(DoB)

    test.advance(days(2)).expect(UndoB)
    test.expect_status("compensating", reason="nothing came to end the wait review")


def test_a_wait_whose_time_is_over_may_go_on() -> None:
    """features: 51, 73"""
    test = SagaTest(line(on_timeout=OnTimeout.CONTINUE)).given(Begun(review=True)).reply(Yes()).reply(Yes())

    test.advance(days(2)).expect(DoA).expect(DoB).expect(DoP).expect_status("running")


def test_an_event_for_a_wait_whose_time_is_over_is_too_late() -> None:
    """features: 87"""
    test = SagaTest(line(on_timeout=OnTimeout.CONTINUE)).given(Begun(review=True)).reply(Yes()).reply(Yes())

    test.advance(days(2)).event(Signal()).expect_outcome("ignored: too_late")


def past_pivot_wait() -> SagaTest[State]:
    saga = waits(pivot_on="emit", timeout=hours(1))
    return SagaTest(saga).given(Begun(), Begun()).expect(DoA).reply(Yes()).expect_status("waiting")


def test_a_wait_whose_time_is_over_past_the_pivot_asks_for_attention_and_still_takes_its_event() -> None:
    test = past_pivot_wait().advance(hours(1)).expect_status("waiting").expect_attention("wait_expired: second")

    test.given(Signal()).expect_status("completed").expect_attention()


def test_the_deadline_compensates_before_the_pivot() -> None:
    """features: 162"""
    test = SagaTest(waits()).given(Begun(), Begun()).expect(DoA).reply(Yes()).expect_status("waiting")

    test.advance(days(10)).expect(UndoA).expect_status("compensating", reason="the deadline of the saga has passed")


def test_the_deadline_asks_for_attention_past_the_pivot_until_the_end() -> None:
    """features: 162"""
    saga = line(deadline=hours(1))
    test = at_pivot(SagaTest(saga)).reply(Yes()).expect(DoQ).advance(hours(1)).expect_nothing()
    test.expect_status("running").expect_attention("deadline_passed", "no_answer: q")

    test.reply(Yes()).expect_status("completed").expect_attention()


def test_the_deadline_is_gone_with_the_end() -> None:
    """features: M23"""
    test = SagaTest(waits()).given(Begun(), Cancel()).expect_status("compensated").advance(days(11))

    test.expect_status("compensated").expect_attention()
    assert len(test.one.journal) == 2


def test_compensation_has_no_deadline() -> None:
    test = SagaTest(waits()).given(Begun(), Begun()).reply(Yes()).given(Cancel())

    assert test.one.instance is not None and set(test.one.instance.progress.timers) == {"timeout:3"}


# -- the watch ---------------------------------------------------------------------------------------------------------


def test_the_end_of_the_watch_asks_for_attention_and_a_late_success_still_counts() -> None:
    test = at_b().advance(minutes(1)).expect(UndoA).reply(Yes()).expect_status("compensated")
    test.advance(days(14)).expect_status("compensated").expect_attention("unsettled_expired: b")
    assert test.unsettled == 1

    test.late_reply(Yes(), to=DoB).expect(UndoB).expect_attention().reply(Yes())
    assert test.unsettled == 0


def test_the_watch_ends_with_a_late_rejection() -> None:
    from tests.saga.scripted import No

    test = at_b().advance(minutes(1)).expect(UndoA).reply(Yes())

    test.reject(No(), to=DoB).expect_outcome("applied: late_reply").expect_nothing().expect_status("compensated")
    assert test.unsettled == 0
    assert test.one.instance is not None and test.one.instance.progress.timers == {}


# -- makers that raise -------------------------------------------------------------------------------------------------


@pytest.fixture
def broken() -> object:
    yield BROKEN
    BROKEN.clear()


def test_a_timer_whose_code_raises_is_tried_again_and_then_asks_for_attention(broken: set[str]) -> None:
    test = SagaTest(line(), tolerant=True).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    broken.add("undo_a")

    test.advance(minutes(1) + seconds(14)).expect_nothing().expect_attention()
    test.advance(seconds(1))
    (entry,) = test.attention
    assert entry.startswith("timer_failed: timeout:2: ValueError: undo_a is broken at scripted.py:")
    test.advance(hours(5)).expect_status("running").expect_nothing()
    assert len(test.attention) == 1

    broken.clear()
    test.advance(hours(1)).expect(UndoA).expect_status("compensating", reason="no answer to do_b in time")
    test.expect_attention()


def test_a_failed_timer_that_is_not_needed_any_more_asks_for_nothing(broken: set[str]) -> None:
    test = SagaTest(line(), tolerant=True).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    broken.add("undo_a")
    test.advance(minutes(2))
    assert len(test.attention) == 1

    test.reply(Yes()).expect(DoP).expect_attention().reply(Yes()).reply(Yes()).expect_status("completed")

    assert test.reason is None


def test_other_timers_fire_while_one_keeps_failing(broken: set[str]) -> None:
    test = SagaTest(line(), tolerant=True).given(Begun(review=True)).expect(DoA).reply(Yes()).expect(DoB).reply(Yes())
    broken.add("remind")

    test.advance(days(2) + timedelta(seconds=1)).expect(UndoB).expect_status("compensating").expect_attention()
