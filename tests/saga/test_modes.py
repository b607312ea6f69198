"""What a definition chooses: no compensation at all, undos that wait for each other, steps that are never repeated,
and what becomes of a saga that was rolled back too often.
"""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from saga_worker import (
    Activity,
    ActivityContext,
    Command,
    Compensate,
    DefinitionError,
    Event,
    OnExhausted,
    OnUndoFailed,
    Rejected,
    Retry,
    Rollback,
    Saga,
    SecondStart,
    Undo,
    UndoOf,
    Verdict,
    activity,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    repeat_until,
    seconds,
)
from saga_worker.activities import after_loss, may_repeat
from saga_worker.activity_rows import Attempt
from saga_worker.saga.hints import hints
from saga_worker.saga.inputs import RunActivity
from saga_worker.saga.messages import Done
from saga_worker.saga.registry import Registry
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import SAGA_ID, START

WHY = b'{"why": "by hand"}'


class Begun(Event):
    key: str = "k"


class Approved(Event):
    key: str = "k"
    ok: bool = True


class Stopped(Event):
    key: str = "k"


class First(Command):
    key: str


class Second(Command):
    key: str


class Third(Command):
    key: str


class UndoFirst(UndoOf[First]):
    key: str


class UndoSecond(UndoOf[Second]):
    key: str


class State(BaseModel):
    key: str
    tries: int = 0


class Receipt(BaseModel):
    number: int


def begins(saga: Saga[State]) -> None:
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))


# -- 18: without compensation -----------------------------------------------------------------------------------------


def forward_only(*, repeatable: bool = True) -> Saga[State]:
    """first → approval → work (an activity) → third; nothing is ever undone."""
    saga = Saga("forward", state=State, deadline=days(2), compensate=False)
    begins(saga)
    saga.on(Stopped, key=lambda e: e.key)(lambda state, event: Compensate("stopped"))

    @saga.command(
        "one", timeout=minutes(1), retry=Retry.fixed(2, seconds(10)) if repeatable else None, repeatable=repeatable
    )
    def first(state: State) -> First:
        return First(key=state.key)

    approval = saga.wait("approval", timeout=hours(1))

    @approval.on(Approved, key=lambda e: e.key)
    def approved(state: State, event: Approved) -> Verdict:
        return None if event.ok else Compensate("not approved")

    @saga.activity(timeout=seconds(5))
    async def work(state: State, ctx: ActivityContext) -> Receipt:
        raise AssertionError("the core runs nothing")

    @work.result
    def worked(state: State, receipt: Receipt) -> Verdict:
        state.tries += 1
        return Compensate("a bad number") if receipt.number < 0 else None

    @saga.command("three", timeout=minutes(1))
    def third(state: State) -> Third:
        return Third(key=state.key)

    saga.flow(first, approval, work, third)
    return saga


def at_work() -> SagaTest[State]:
    return SagaTest(forward_only()).given(Begun()).expect(First).reply(Done()).given(Approved())


def test_a_saga_without_compensation_fails_when_tries_run_out_and_completes_after_a_retry() -> None:
    """features: 18"""
    test = SagaTest(forward_only()).given(Begun()).expect(First).advance(minutes(1) + seconds(10)).expect(First)

    test.advance(minutes(1)).expect_status("failed", reason="no answer to first in time").expect_nothing()

    test.operator("retry").expect(First).expect_status("running")
    assert test.reason is None
    assert [command.seq for command in test.one.commands()] == [1, 1, 1]
    test.reply(Done()).given(Approved()).result(Receipt(number=1)).expect(Third).reply(Done())
    test.expect_status("completed")


def test_a_rejected_step_is_asked_for_anew_under_a_new_id() -> None:
    """features: 18"""
    test = SagaTest(forward_only()).given(Begun()).expect(First).reject(Rejected(reason="full"))
    test.expect_status("failed").expect_nothing()

    test.operator("retry").expect(First).expect_status("running").reply(Done()).expect_status("waiting")
    assert [command.seq for command in test.one.commands()] == [1, 2]


def test_an_activity_that_failed_is_run_again() -> None:
    """features: 18"""
    definite = at_work().fail("broken").expect_status("failed").operator("retry")
    definite.expect_status("running").result(Receipt(number=1)).expect(Third)

    lost = at_work().fail("nobody knows", lost=True).expect_status("failed").operator("retry").expect_status("running")
    runs = [effect.run for effect in lost.one.effects if isinstance(effect, RunActivity)]
    assert runs == [1, 2]


def test_a_verdict_that_would_compensate_fails_the_saga_and_its_step_is_done_anew() -> None:
    """features: 18"""
    test = at_work().result(Receipt(number=-1)).expect_status("failed", reason="a bad number")

    test.operator("retry").result(Receipt(number=1)).expect(Third)
    assert test.state.tries == 2


def test_a_wait_that_ran_out_or_was_refused_is_open_again_after_a_retry() -> None:
    """features: 18"""
    test = SagaTest(forward_only()).given(Begun()).expect(First).reply(Done()).advance(hours(1)).expect_status("failed")
    test.operator("retry").expect_status("waiting").given(Approved(ok=False))
    test.expect_status("failed", reason="not approved").operator("retry").expect_status("waiting")
    test.given(Stopped()).expect_status("failed", reason="stopped").operator("retry").expect_status("waiting")

    test.advance(hours(1)).expect_status("failed")


def test_a_deadline_gets_its_whole_time_once_more() -> None:
    """features: 18"""
    test = at_work().advance(days(2)).expect_status("failed", reason="the deadline of the saga has passed")

    test.operator("retry").expect_status("running").advance(days(2)).expect_status("failed")


def test_what_comes_to_a_failed_saga_is_held_and_taken_up_by_the_retry() -> None:
    """features: 18"""
    test = SagaTest(forward_only()).given(Begun()).expect(First).reply(Done()).advance(hours(1)).expect_status("failed")
    test.event(Approved()).expect_outcome("held: failed").advance(days(30)).expect_status("failed")

    test.operator("retry").expect_activity(test.saga.steps["work"]).expect_status("running")  # type: ignore[arg-type]


def test_a_second_start_is_told_so_also_by_a_saga_that_stands_still() -> None:
    """features: 18"""
    test = SagaTest(forward_only()).given(Begun()).expect(First).operator("pause")
    test.event(Begun()).expect_outcome("ignored: duplicate_start")

    test.operator("resume").reject().expect_status("failed")
    test.event(Begun()).expect_outcome("ignored: duplicate_start")
    test.event(Approved()).expect_outcome("held: failed")


def test_a_failed_saga_takes_nothing_else_and_may_be_ended_for_good() -> None:
    """features: 18"""
    test = SagaTest(forward_only()).given(Begun()).expect(First).reject()
    for command in ("pause", "resume", "compensate"):
        test.operator(command, WHY).expect_outcome("ignored: saga_finished")
    test.operator("wake", b'{"step": "approval"}').expect_outcome("ignored: saga_finished")
    test.event(Approved()).expect_outcome("held: failed")

    test.operator("cancel", WHY).expect_status("failed", reason="cancelled by an operator: by hand")

    test.operator("retry").expect_outcome("ignored: nothing_to_retry").expect_nothing()
    assert [row.reason for row in test.one.rows.values()][-4] == "saga_finished"  # it is held no more


def test_a_saga_without_compensation_is_not_taken_back_by_an_operator() -> None:
    """features: 18; 47"""
    test = SagaTest(forward_only()).given(Begun()).expect(First)

    test.operator("compensate", WHY).expect_outcome("ignored: no_compensation").expect_status("running")


def test_the_other_branch_stands_still_until_the_retry() -> None:
    """features: 18"""
    saga = Saga("both", state=State, compensate=False)
    begins(saga)

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    @saga.command("two", timeout=hours(1))
    def second(state: State) -> Second:
        return Second(key=state.key)

    @saga.command("three", timeout=minutes(1))
    def third(state: State) -> Third:
        return Third(key=state.key)

    saga.flow(parallel(first, [second, third]))
    test = SagaTest(saga).given(Begun()).expect(First).expect(Second).reject(to=First).expect_status("failed")
    test.reply(Done(), to=Second).expect_outcome("held: failed").expect_nothing()

    test.operator("retry").expect(First).expect(Third).reply(Done(), to=First).reply(Done(), to=Third)
    test.expect_status("completed")


def test_where_a_new_run_may_begin_or_a_parent_goes_on_it_fails_for_good() -> None:
    """features: 18"""
    saga = Saga("again", state=State, compensate=False, second_start=SecondStart.RESTART)
    begins(saga)

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    saga.flow(first)
    test = SagaTest(saga).given(Begun()).expect(First).advance(minutes(1)).expect_status("failed")
    test.operator("retry").expect_outcome("ignored: nothing_to_retry")
    test.given(Begun()).expect(First).expect_status("running")

    child = SagaTest(forward_only()).begin(State(key="k")).expect(First).reject().expect_status("failed")
    assert child.told == ["failed"]
    child.operator("retry").expect_outcome("ignored: nothing_to_retry").expect_nothing()

    done = SagaTest(saga).begin(State(key="k")).expect(First).reply(Done()).take_back().expect_status("completed")
    assert done.told == ["completed", "refused"]


def test_a_loop_without_rounds_left_ends_such_a_saga_for_good() -> None:
    """features: 18"""
    saga = Saga("loops", state=State, compensate=False)
    begins(saga)

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    saga.flow(repeat_until(lambda state: False, first, times=2, name="round"))
    test = SagaTest(saga).given(Begun()).reply(Done()).reply(Done()).expect_status("failed")

    test.operator("retry").expect_outcome("ignored: nothing_to_retry")


def test_a_pivot_means_nothing_where_nothing_is_undone() -> None:
    saga = Saga("pivoted", state=State, compensate=False)
    begins(saga)

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    saga.flow(pivot(first))

    with pytest.raises(DefinitionError, match="has a pivot, but compensate=False"):
        saga.check()


# -- 46: an undo that fails for good ----------------------------------------------------------------------------------


def undoing(mode: OnUndoFailed, *, repeatable: bool = True) -> SagaTest[State]:
    """first and second are done, third is refused, and the undo of second is out."""
    saga = Saga("undoing", state=State, on_undo_failed=mode)
    begins(saga)
    retry = Retry.fixed(2, seconds(5))

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    @first.undo
    def undo_first(state: State) -> UndoFirst:
        return UndoFirst(key=state.key)

    @saga.command("two", timeout=minutes(1), undo_retry=retry, undo_repeatable=repeatable)
    def second(state: State) -> Second:
        return Second(key=state.key)

    @second.undo
    def undo_second(state: State) -> UndoSecond:
        return UndoSecond(key=state.key)

    @saga.command("three", timeout=minutes(1), undo=Undo.NONE)
    def third(state: State) -> Third:
        return Third(key=state.key)

    saga.flow(first, second, third)
    test = SagaTest(saga).given(Begun()).expect(First).reply(Done()).expect(Second).reply(Done()).expect(Third)
    return test.reject().expect(UndoSecond).expect_nothing()


def test_older_effects_are_undone_without_an_undo_that_fails_for_good() -> None:
    """features: 46"""
    test = undoing(OnUndoFailed.GO_ON).reject().advance(seconds(5)).expect(UndoSecond).reject()

    test.expect_attention("undo_failed: second").expect(UndoFirst).expect_status("compensating")


@pytest.mark.parametrize("settles", ["retry", "mark_undone", "late answer"])
def test_or_they_wait_until_it_is_settled(settles: str) -> None:
    """features: 46; 48"""
    test = undoing(OnUndoFailed.STOP).reject().advance(seconds(5)).expect(UndoSecond).reject()
    test.expect_attention("undo_failed: second").advance(days(3)).expect_nothing().expect_status("compensating")

    match settles:
        case "retry":
            test.operator("retry").expect(UndoSecond).expect_nothing().reply(Done(), to=UndoSecond)
        case "mark_undone":
            test.operator("mark_undone", b'{"step": "second"}')
        case _:
            test = undoing(OnUndoFailed.STOP).advance(minutes(1) + seconds(5)).expect(UndoSecond).advance(minutes(1))
            test.expect_attention("undo_failed: second").expect_nothing().reply(Done(), to=UndoSecond)

    test.expect_attention().expect(UndoFirst).reply(Done(), to=UndoFirst).expect_status("compensated")


# -- 49: steps that must not be repeated ------------------------------------------------------------------------------


def test_a_silent_undo_that_must_not_be_repeated_asks_for_attention_and_no_retry_sends_it_again() -> None:
    """features: 49"""
    test = undoing(OnUndoFailed.STOP, repeatable=False).advance(minutes(1))
    test.expect_attention("undo_failed: second").expect_nothing()

    test.operator("retry").expect_outcome("ignored: not_repeatable").expect_attention("undo_failed: second")
    test.expect_nothing().operator("mark_undone", b'{"step": "second"}').expect(UndoFirst).expect_attention()


def test_what_was_refused_has_not_worked_and_may_be_sent_anew() -> None:
    """features: 49"""
    undoing(OnUndoFailed.STOP, repeatable=False).reject().advance(seconds(5)).expect(UndoSecond)


def test_a_silent_command_that_must_not_be_repeated_is_taken_to_be_unknown_at_once() -> None:
    """features: 49"""
    saga = Saga("once", state=State)
    begins(saga)

    @saga.command("one", timeout=minutes(1), retry=Retry.fixed(5, seconds(1)), repeatable=False)
    def first(state: State) -> First:
        return First(key=state.key)

    @first.undo
    def undo_first(state: State) -> UndoFirst:
        return UndoFirst(key=state.key)

    saga.flow(first)
    SagaTest(saga).given(Begun()).expect(First).advance(minutes(1)).expect(UndoFirst).expect_nothing()


def test_past_the_pivot_it_asks_for_attention_and_is_not_sent_again() -> None:
    """features: 49"""
    saga = Saga("once", state=State)
    begins(saga)

    @saga.command("one", timeout=minutes(1), repeatable=False)
    def first(state: State) -> First:
        return First(key=state.key)

    saga.flow(pivot(first))
    test = SagaTest(saga).given(Begun()).expect(First).advance(minutes(1)).expect_attention("no_answer: first")

    test.operator("retry").expect_outcome("ignored: not_repeatable").expect_nothing().expect_attention(
        "no_answer: first"
    )
    test.reply(Done()).expect_status("completed").expect_attention()


def test_a_failed_saga_does_not_repeat_it_either() -> None:
    """features: 18; 49"""
    test = SagaTest(forward_only(repeatable=False)).given(Begun()).expect(First).advance(minutes(1))
    test.expect_status("failed").operator("retry").expect_outcome("ignored: not_repeatable").expect_nothing()
    test.expect_status("failed").reply(Done()).expect_outcome("held: failed")


def test_the_check_of_definitions_names_a_retry_that_has_nothing_to_repeat() -> None:
    """features: 49"""
    saga = Saga("once", state=State)
    begins(saga)

    @saga.command("one", timeout=minutes(1), retry=Retry.fixed(2), repeatable=False, undo=Undo.NONE)
    def first(state: State) -> First:
        return First(key=state.key)

    @saga.activity(timeout=minutes(1), undo_retry=Retry.fixed(2), undo_repeatable=False, repeatable=False)
    async def work(state: State, ctx: ActivityContext) -> Receipt:
        raise AssertionError

    work.result(lambda state, receipt: None)

    @work.undo
    async def unwork(state: State, ctx: ActivityContext) -> None: ...

    saga.flow(first, work)
    said = [hint.partition(": saga once: ")[2].partition(":")[0] for hint in hints(saga)]
    assert said == [
        "step first has retry=… and repeatable=False",
        "step work has undo_retry=… and undo_repeatable=False",
    ]


@pytest.mark.parametrize("repeatable", [True, False])
def test_an_attempt_whose_worker_was_lost_or_ends_begins_anew_only_if_it_may(repeatable: bool) -> None:
    """features: 49"""
    saga = Saga("once", state=State)
    begins(saga)

    @saga.activity(timeout=minutes(1), retry=Retry.fixed(5), repeatable=repeatable, undo=Undo.NONE)
    async def work(state: State, ctx: ActivityContext) -> Receipt:
        raise AssertionError

    work.result(lambda state, receipt: None)
    saga.flow(work)
    registry = Registry([saga])
    attempt = Attempt(
        id="x.1", ref=SAGA_ID, seq=1, run=1, undoes=None, definition="once", version=1, saga_key="k", step="work",
        epoch=1, number=1, uncertain=False, deadline=START, age=0.0, input=b"{}",
    )  # fmt: skip

    lost = after_loss(registry, attempt, "its worker died")

    assert lost is not None and lost.is_uncertain and lost.is_final is not repeatable
    assert may_repeat(registry, attempt) is repeatable


# -- 52: rolled back too often ----------------------------------------------------------------------------------------


def retried(on_exhausted: OnExhausted) -> SagaTest[State]:
    """first is done, second is refused: twice rolled back to the front, and refused for the third time."""
    saga = Saga("retried", state=State)
    begins(saga)

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    @first.undo
    def undo_first(state: State) -> UndoFirst:
        return UndoFirst(key=state.key)

    @saga.command("two", timeout=minutes(1), undo=Undo.NONE)
    def second(state: State) -> Second:
        return Second(key=state.key)

    @second.rejected
    def refused(state: State, why: Rejected) -> Verdict:
        state.tries += 1
        return Rollback("front", "not today")

    saga.flow(saga.savepoint("front", times=2, on_exhausted=on_exhausted), first, second)
    test = SagaTest(saga).given(Begun())
    for _ in range(2):
        test.expect(First).reply(Done(), to=First).expect(Second).reject(to=Second)
        test.expect(UndoFirst).reply(Done(), to=UndoFirst)
    return test.expect(First).reply(Done(), to=First).expect(Second).reject(to=Second)


TOO_OFTEN = "rolled back to front 2 times already; now: not today"


def test_a_saga_that_was_rolled_back_too_often_compensates() -> None:
    """features: 52"""
    test = retried(OnExhausted.COMPENSATE).expect(UndoFirst).expect_status("compensating", reason=TOO_OFTEN)

    test.reply(Done()).expect_status("compensated")


def test_or_pauses_for_an_operator_who_has_it_try_again_as_often() -> None:
    """features: 52"""
    test = retried(OnExhausted.PAUSE).expect_status("paused", reason=TOO_OFTEN).expect_nothing()
    test.expect_attention("rollbacks_exhausted: front").advance(days(3)).expect_nothing()

    test.operator("resume").expect_status("running").expect_attention().expect(UndoFirst).reply(Done())
    for _ in range(2):
        test.expect(First).reply(Done(), to=First).expect(Second).reject(to=Second).expect(UndoFirst)
        test.reply(Done(), to=UndoFirst)
    test.expect(First).reply(Done(), to=First).expect(Second).reject(to=Second).expect_status("paused")
    test.operator("resume").expect(UndoFirst).reply(Done(), to=UndoFirst).expect(First).reply(Done(), to=First)
    test.expect(Second).reply(Done(), to=Second).expect_status("completed", reason=None)
    assert test.reason is None


def test_the_operator_may_have_it_taken_back_instead() -> None:
    """features: 47; 52"""
    test = retried(OnExhausted.PAUSE).operator("compensate", WHY).expect(UndoFirst).expect_attention()

    test.reply(Done()).expect_status("compensated", reason="taken back by an operator: by hand")


def test_or_it_fails_and_keeps_what_was_done() -> None:
    """features: 52"""
    test = retried(OnExhausted.FAIL).expect_status("failed", reason=TOO_OFTEN).expect_nothing()

    test.operator("retry").expect_outcome("ignored: nothing_to_retry").advance(days(3)).expect_nothing()


class Pay(Activity[State, Receipt], timeout=minutes(1), retry=Retry.fixed(3), repeatable=False):
    async def execute(self, input: State) -> Receipt:
        raise AssertionError("the core runs nothing")

    async def compensate(self, input: State, output: Receipt | None) -> None: ...


class PayTwice(Pay, repeatable=True, undo_repeatable=False): ...


def test_a_reusable_activity_says_of_itself_that_it_must_not_be_repeated() -> None:
    """features: 49"""

    @activity(timeout=minutes(1), repeatable=False)
    async def once(input: State) -> Receipt:
        raise AssertionError("the core runs nothing")

    saga = Saga("reusing", state=State)
    begins(saga)
    steps = [
        saga.step(Pay(), input=lambda state: state, name="pay"),
        saga.step(PayTwice(), input=lambda state: state, name="twice"),
        saga.step(once, input=lambda state: state, name="once"),
    ]
    saga.flow(*steps)

    assert [(step.repeats.step, step.repeats.undo) for step in steps] == [(False, True), (True, False), (False, True)]
    assert [hint.partition(": step ")[2].partition(" has ")[0] for hint in hints(saga) if "repeatable" in hint] == [
        "pay"
    ]
