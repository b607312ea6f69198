"""Branches side by side, joins, loops, choices and sleeps, as an author sees them."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from saga_worker import (
    Command,
    DefinitionError,
    Event,
    Saga,
    Undo,
    choice,
    minutes,
    parallel,
    pivot,
    repeat_until,
    seconds,
)
from saga_worker.saga.forms import Join
from saga_worker.testing.saga_test import SagaTest
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
)


def begun(join: Join = "all", *, nap: bool = False, looped: bool = False, pivoted: bool = True) -> SagaTest[State]:
    """All three branches are open: a and c are sent, review waits. With `nap` there are three minutes after a."""
    test = SagaTest(forked(join=join, looped=looped, pivoted=pivoted)).given(Begun(review=nap))
    return test.expect(DoA).expect(DoC).expect_nothing()


def active(test: SagaTest[State]) -> set[str]:
    assert test.one.instance is not None
    return set(test.one.instance.progress.active)


# -- join="all" ---------------------------------------------------------------------------------------------------


def test_branches_go_on_beside_each_other_and_the_flow_waits_for_all() -> None:
    """features: 163; L4"""
    test = begun(nap=True)
    assert active(test) == {"a", "c", "review"}

    test.reply(Yes(), to=DoC).expect_nothing()
    assert active(test) == {"a", "review"}
    test.reply(Yes(), to=DoA).expect_nothing().advance(minutes(3)).expect(DoB)
    test.event(Signal()).expect_nothing()
    assert active(test) == {"b"}

    test.reply(Yes(), to=DoB).expect(DoP).reply(Yes()).expect(Told).expect_status("completed")


def test_a_rejected_branch_takes_back_what_the_others_did_and_may_have_done() -> None:
    """features: L2"""
    test = begun().reply(Yes(), to=DoA).expect(DoB)

    test.reject(No(), to=DoC).expect_status("compensating")

    assert {type(sent) for sent in test.sent[3:]} == {UndoA}
    test.expect(UndoA).expect_nothing()  # b, strict, is in flight: its answer is waited for
    test.late_reply(Yes(), to=DoB).expect_nothing().reply(Yes(), to=UndoA).expect(UndoB)
    test.reply(Yes()).expect_status("compensated").expect_nothing()
    assert test.unsettled == 0


def test_branches_are_undone_beside_each_other_and_each_newest_first() -> None:
    """features: L4, 163"""
    test = begun().reply(Yes(), to=DoA).expect(DoB).reply(Yes(), to=DoB).reply(Yes(), to=DoC)

    test.event(Cancel())

    test.expect(UndoB).expect(UndoC).expect_nothing()  # c did not depend on b: both at once; a waits for b
    test.reply(Yes(), to=UndoC).expect_nothing()
    test.reply(Yes(), to=UndoB).expect(UndoA).reply(Yes()).expect_status("compensated")


def test_what_follows_a_join_is_undone_before_all_branches() -> None:
    """features: 163; L4"""
    test = begun(pivoted=False).reply(Yes(), to=DoA).expect(DoB).reply(Yes(), to=DoB)
    test.reply(Yes(), to=DoC).event(Signal()).expect(DoP)

    test.event(Cancel()).expect(UndoB).expect(UndoC).expect_nothing()  # p has no undo


def test_an_undo_that_fails_in_one_branch_does_not_hold_up_another() -> None:
    """features: M35"""
    test = begun().reply(Yes(), to=DoA).expect(DoB).reply(Yes(), to=DoB).reply(Yes(), to=DoC)
    test.event(Cancel()).expect(UndoB).expect(UndoC)

    test.reject(No(), to=UndoB).advance(seconds(5)).expect(UndoB).reject(No(), to=UndoB)  # out of tries

    test.expect(UndoA).expect_attention("undo_failed: b")
    test.reply(Yes(), to=UndoA).reply(Yes(), to=UndoC).expect_status("compensating").expect_attention("undo_failed: b")
    test.operator("retry").expect(UndoB).reply(Yes()).expect_status("compensated").expect_attention()


# -- join="any" and a number --------------------------------------------------------------------------------------


def test_the_first_branch_to_end_wins_and_the_others_are_taken_back_while_the_saga_goes_on() -> None:
    """features: L2, L4"""
    test = begun("any", nap=True).reply(Yes(), to=DoA).expect_nothing()

    test.reply(Yes(), to=DoC)

    # nap was open: a, done in that branch, goes back; c has won and stays.
    test.expect(DoP).expect(UndoA).expect_nothing().expect_status("running")
    test.reply(Yes(), to=UndoA).reply(Yes(), to=DoP).expect(Told).expect_status("completed")
    assert test.unsettled == 0


def test_a_loser_in_flight_that_succeeds_after_the_end_is_undone_exactly_once() -> None:
    """features: L1, L2"""
    test = begun("any").reply(Yes(), to=DoA).expect(DoB)
    test.reply(Yes(), to=DoC).expect(DoP).expect(UndoA).reply(Yes(), to=UndoA)
    test.reply(Yes(), to=DoP).expect(Told).expect_status("completed")
    assert test.unsettled == 1  # nobody knows whether b worked

    test.late_reply(Yes(), to=DoB).expect(UndoB).expect_status("completed")
    test.reply(Yes()).expect_nothing().expect_status("completed")

    assert test.unsettled == 0
    test.again().expect_nothing()


def test_a_loser_whose_undo_fails_asks_for_attention_though_the_saga_has_completed() -> None:
    test = begun("any").event(Signal()).expect(DoP).expect(UndoC).expect(UndoA)  # hybrid, in flight: undone at once
    test.reply(Yes(), to=DoP).expect(Told).expect_status("completed")
    test.reject(No(), to=UndoA).reply(Yes(), to=UndoC)

    test.advance(seconds(5)).expect(UndoA).reject(No(), to=UndoA).expect_attention("undo_failed: a")
    assert test.unsettled == 1

    test.operator("retry").expect(UndoA).reply(Yes()).expect_attention()
    assert test.unsettled == 0


def test_a_number_of_branches_may_be_enough() -> None:
    """features: L4"""
    test = begun(2).event(Signal()).expect_nothing()

    test.reply(Yes(), to=DoC).expect(DoP).expect(UndoA).expect_nothing()


def test_a_wait_that_lost_is_closed_with_its_timers() -> None:
    test = begun("any").reply(Yes(), to=DoC).expect(DoP).expect(UndoA)

    assert test.one.instance is not None
    assert "wait:review" not in test.one.instance.progress.timers
    test.event(Signal()).expect_outcome("ignored: too_late")


def test_a_compensation_after_the_join_also_ends_the_undos_of_losers() -> None:
    test = begun("any", pivoted=False).reply(Yes(), to=DoC).expect(DoP).expect(UndoA)

    test.event(Cancel()).expect(UndoC).expect_status("compensating")
    test.reply(Yes(), to=UndoC).expect_status("compensating").reply(Yes(), to=UndoA).expect_status("compensated")


# -- loops --------------------------------------------------------------------------------------------------------


def test_a_loop_goes_round_until_its_test_holds() -> None:
    test = begun(looped=True)
    for _ in range(2):
        test.reply(Yes(), to=DoA).expect(DoB).reply(Yes(), to=DoB)
        test.event(Signal()).reply(Yes(), to=DoC)
        if test.state.seen.count("b") == 1:
            test.expect(DoA).expect(DoC).expect_nothing()

    test.expect(DoP).expect_nothing()
    test.event(Cancel()).expect_outcome("ignored: after_pivot")


def test_rounds_are_undone_newest_first() -> None:
    test = begun(looped=True).reply(Yes(), to=DoA).expect(DoB).reply(Yes(), to=DoB)
    test.event(Signal()).reply(Yes(), to=DoC).expect(DoA).expect(DoC).reply(Yes(), to=DoC)

    test.event(Cancel())  # second round: c done, a in flight; first round: c, b, a

    for undo in (UndoC, UndoA, UndoB, UndoC, UndoA):
        test.expect(undo).expect_nothing().reply(Yes())
    test.expect_status("compensated")


def test_a_loop_without_rounds_left_compensates() -> None:
    test = begun("any", looped=True)
    for _ in range(2):
        test.reply(Yes(), to=DoC).expect(DoA).expect(DoC).expect(UndoA).reply(Yes(), to=UndoA)
    test.reply(Yes(), to=DoC)

    test.expect_status("compensating", reason="the loop again has gone through all its rounds")


def test_only_what_a_branch_did_in_this_round_goes_back_when_it_loses() -> None:
    test = begun("any", looped=True).reply(Yes(), to=DoC)  # c has won the first round
    test.expect(DoA).expect(DoC).expect(UndoA).reply(Yes(), to=UndoA).expect_nothing()

    test.event(Signal())  # review wins the second: its a and c go back, and the c of the first round stays

    test.expect(DoA).expect(DoC).expect(UndoC).expect_nothing().reply(Yes(), to=UndoC).expect(UndoA).expect_nothing()
    first_c = next(c for c in progress(test).commands.values() if c.step == "c")
    assert not first_c.undone and first_c.seq not in progress(test).withdrawn


def progress(test: SagaTest[State]):  # type: ignore[no-untyped-def]
    assert test.one.instance is not None
    return test.one.instance.progress


# -- savepoints ---------------------------------------------------------------------------------------------------


def marked() -> SagaTest[State]:
    test = SagaTest(forked(marked=True, pivoted=False)).given(Begun())
    return test.expect(DoA).expect(DoC).expect_nothing()


def test_a_rollback_undoes_what_was_done_since_the_savepoint_and_goes_on_from_there() -> None:
    """features: L8"""
    test = marked().reply(Yes(), to=DoA).expect(DoB)

    test.reply(Yes(then="rollback"), to=DoC).expect(UndoC).expect(UndoA).expect_nothing().expect_status("running")
    test.event(Signal()).expect_outcome("parked: not_expected_yet")
    test.reply(Yes(), to=UndoC).expect_nothing().reply(Yes(), to=UndoA)

    test.expect(DoA).expect(DoC).expect_nothing().expect_status("running")
    test.late_reply(Yes(), to=DoB).expect(UndoB).reply(Yes(), to=UndoB)  # it was in flight, and has worked after all
    test.reply(Yes(), to=DoC).reply(Yes(), to=DoA).expect(DoB).reply(Yes(), to=DoB)
    test.expect(DoP).reply(Yes()).expect(Told).expect_status("completed")
    assert test.unsettled == 0


def test_a_savepoint_that_is_used_up_takes_everything_back() -> None:
    """features: 52; L8"""
    test = marked()
    for _ in range(2):
        test.reply(Yes(then="rollback"), to=DoC).expect(UndoC).expect(UndoA).reply(Yes(), to=UndoC)
        test.reply(Yes(), to=UndoA).expect(DoA).expect(DoC)

    test.reply(Yes(then="rollback"), to=DoC).expect(UndoC).expect(UndoA).expect_status(
        "compensating", reason="rolled back to mark 2 times already; now: c says so"
    )


def test_an_undo_that_fails_keeps_the_saga_at_its_savepoint_until_somebody_helps() -> None:
    test = marked().reply(Yes(then="rollback"), to=DoC).expect(UndoC).expect(UndoA).reply(Yes(), to=UndoC)
    test.reject(No(), to=UndoA).advance(seconds(5)).expect(UndoA).reject(No(), to=UndoA)
    test.expect_attention("undo_failed: a").expect_nothing().expect_status("running")

    test.operator("retry").expect(UndoA).reply(Yes()).expect(DoA).expect(DoC).expect_attention()


def test_past_the_pivot_nothing_is_rolled_back() -> None:
    test = SagaTest(forked(marked=True)).given(Begun()).expect(DoA).expect(DoC).reply(Yes(), to=DoA).expect(DoB)
    test.reply(Yes(), to=DoB).reply(Yes(), to=DoC).event(Signal()).expect(DoP)

    test.reply(Yes(then="rollback"), to=DoP).expect(Told).expect_status("completed")

    test.expect_attention("cannot_compensate: p")


def test_a_savepoint_inside_another_form_is_refused() -> None:
    mark = Saga("inner", state=Size)
    mark.starts_on(Asked, key=lambda e: e.key)(lambda event: Size(key=event.key, size=event.size))
    inner, nap = mark.savepoint("inner"), mark.sleep("nap", seconds(1))
    mark.flow(repeat_until(lambda state: True, inner, nap, times=2, name="again"))

    with pytest.raises(DefinitionError, match="savepoint inner stands inside another form"):
        mark.check()


# -- choice and sleep ---------------------------------------------------------------------------------------------


class Asked(Event):
    key: str
    size: int


class Ask(Command):
    size: str


class Size(BaseModel):
    key: str
    size: int


def sized() -> Saga[Size]:
    saga = Saga("sized", state=Size)

    @saga.starts_on(Asked, key=lambda e: e.key)
    def asked(event: Asked) -> Size:
        return Size(key=event.key, size=event.size)

    @saga.command("s", timeout=minutes(1))
    def small(state: Size) -> Ask:
        return Ask(size="small")

    @saga.command("s", timeout=minutes(1))
    def middle(state: Size) -> Ask:
        return Ask(size="middle")

    @saga.command("s", timeout=minutes(1))
    def large(state: Size) -> Ask:
        return Ask(size="large")

    nap = saga.sleep("nap", lambda state: seconds(state.size))
    saga.flow(
        choice(
            (lambda state: state.size < 10, [small]), (lambda state: state.size < 100, [nap, middle]), otherwise=[large]
        )
    )
    return saga


@pytest.mark.parametrize(("size", "chosen"), [(1, "small"), (1000, "large")])
def test_a_choice_takes_the_first_arm_that_holds(size: int, chosen: str) -> None:
    SagaTest(sized()).given(Asked(key="k", size=size)).expect(Ask(size=chosen)).expect_nothing()


def test_a_sleep_lasts_as_long_as_the_state_says() -> None:
    test = (
        SagaTest(sized()).given(Asked(key="k", size=50)).expect_status("waiting").advance(seconds(49)).expect_nothing()
    )

    test.advance(seconds(1)).expect(Ask(size="middle"))


def test_a_sleep_of_less_than_nothing_is_an_error_of_the_definition() -> None:
    saga = Saga("late", state=Size)
    with pytest.raises(DefinitionError, match="above zero"):
        saga.sleep("nap", seconds(-1))


# -- what is refused ----------------------------------------------------------------------------------------------


def test_what_cannot_be_a_fork_or_a_loop_is_refused_with_the_place() -> None:
    saga = Saga("refused", state=Size)
    one, two = saga.sleep("one", seconds(1)), saga.sleep("two", seconds(1))

    for make, sentence in (
        (lambda: parallel(one), "has 1 branches"),
        (lambda: parallel(one, two, join=3), "join=3"),
        (lambda: parallel(one, two, join=0), "join=0"),
        (lambda: parallel(one, []), "has no step"),
        (lambda: parallel(one, pivot(two)), "has a pivot inside"),
        (lambda: repeat_until(lambda state: True, times=3, name="x"), "no step to repeat"),
        (lambda: repeat_until(lambda state: True, one, times=0, name="x"), "times=0"),
        (lambda: repeat_until(lambda state: True, pivot(one), times=2, name="x"), "has a pivot inside"),
        (lambda: choice(otherwise=[one]), "has no arm"),
        (lambda: choice((lambda state: True, [])), "no step to take"),
    ):
        with pytest.raises(DefinitionError, match=rf"test_branches\.py:\d+: .*{sentence}"):
            make()


def test_a_step_that_may_lose_a_join_needs_an_undo() -> None:
    saga = Saga("racing", state=Size)
    saga.starts_on(Asked, key=lambda e: e.key)(lambda event: Size(key=event.key, size=event.size))

    @saga.command("s", timeout=minutes(1))
    def first(state: Size) -> Ask:
        return Ask(size="first")

    @saga.command("s", timeout=minutes(1), undo=Undo.NONE)
    def second(state: Size) -> Ask:
        return Ask(size="second")

    saga.flow(parallel(first, second, join="any"))
    with pytest.raises(DefinitionError, match="step first may have to be undone when its branch loses the join"):
        saga.check()
