"""Activities and local steps in the pure core: fates, undo, attention and retry; in virtual time, no server."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from saga_worker import (
    ActivityContext,
    ActivityFailed,
    Compensate,
    DefinitionError,
    Event,
    Retry,
    Saga,
    Undo,
    Verdict,
    days,
    minutes,
    pivot,
    seconds,
)
from saga_worker.saga.inputs import CancelActivity, RunActivity
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.testing import SagaTest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


class Begun(Event):
    key: str = "k"


class Stopped(Event):
    key: str = "k"


class Weight(BaseModel):
    grams: int


class Parcel(BaseModel):
    key: str
    grams: int = 0
    shelf: str | None = None
    note: str | None = None


WEIGHT = Weight(grams=5)


class Story:
    """Weigh (undone), put on a shelf (local, undone), hand over."""

    def __init__(self, *, undo: Undo = Undo.HYBRID, pivoted: bool = False, handles: bool = False) -> None:
        self.saga = saga = Saga("parcel", state=Parcel, deadline=days(1))
        saga.starts_on(Begun, key=lambda e: e.key)(lambda event: Parcel(key=event.key))
        saga.on(Stopped, key=lambda e: e.key)(lambda parcel, event: Compensate("stopped"))

        @saga.activity(timeout=seconds(5), undo=undo)
        async def weigh(parcel: Parcel, ctx: ActivityContext) -> Weight:
            raise AssertionError("the core runs nothing")

        @weigh.result
        def weighed(parcel: Parcel, weight: Weight) -> Verdict:
            parcel.grams = weight.grams
            return Compensate("too heavy") if weight.grams > 100 else None

        if handles:

            @weigh.failed
            def not_weighed(parcel: Parcel, why: ActivityFailed) -> Verdict:
                parcel.note = why.error
                return None

        if undo is not Undo.NONE:

            @weigh.undo
            async def unweigh(parcel: Parcel, ctx: ActivityContext) -> None: ...

        @saga.local
        async def shelve(parcel: Parcel, session: AsyncSession) -> Verdict:
            raise AssertionError("the core runs nothing")

        @shelve.undo
        async def unshelve(parcel: Parcel, session: AsyncSession) -> None: ...

        @saga.activity(timeout=seconds(5), undo=Undo.NONE)
        async def hand_over(parcel: Parcel, ctx: ActivityContext) -> Weight:
            raise AssertionError("the core runs nothing")

        hand_over.result(lambda parcel, weight: None)
        self.weigh: ActivityStep[Parcel, Weight] = weigh
        self.shelve: LocalStep[Parcel] = shelve
        self.hand_over: ActivityStep[Parcel, Weight] = hand_over
        saga.flow(weigh, pivot(shelve) if pivoted else shelve, hand_over)

    def begun(self) -> SagaTest[Parcel]:
        return SagaTest(self.saga).given(Begun()).expect_activity(self.weigh)

    def shelved(self) -> SagaTest[Parcel]:
        told = self.begun().result(WEIGHT).expect_local(self.shelve)
        return told.local(change=lambda parcel: setattr(parcel, "shelf", "A1")).expect_activity(self.hand_over)


def test_results_and_local_steps_move_the_saga_to_its_end() -> None:
    told = Story().shelved().expect_status("running").result(WEIGHT).expect_status("completed").expect_nothing()

    assert (told.state.grams, told.state.shelf, told.unsettled) == (5, "A1", 0)
    assert [entry.input_kind for entry in told.one.journal] == ["event", "activity", "local", "activity"]


def test_all_of_it_is_taken_back_newest_first_each_before_the_next() -> None:
    """features: 3, 43"""
    story = Story()
    told = story.shelved().fail("no carrier").expect_status("compensating", reason="hand_over failed: no carrier")

    told.expect_local(story.shelve, undo=True).local(change=lambda parcel: setattr(parcel, "shelf", "lost"))
    told.expect_activity(story.weigh, undo=True).result().expect_status("compensated").expect_nothing()
    assert told.unsettled == 0


def test_a_verdict_of_a_local_step_is_followed_and_its_own_effect_taken_back() -> None:
    story = Story()
    told = story.begun().result(WEIGHT).local(Compensate("no shelf free"))

    told.expect_local(story.shelve, undo=True).local().expect_activity(story.weigh, undo=True).result()
    told.expect_status("compensated", reason="no shelf free")


def test_a_local_step_that_says_it_is_no_use_has_nothing_to_take_back() -> None:
    """features: 44; M17"""
    story = Story()
    told = story.begun().result(WEIGHT).local_fails("flood", terminal=True)

    told.expect_activity(story.weigh, undo=True).result()
    told.expect_status("compensated", reason="shelve failed: flood").expect_nothing()


def test_a_local_step_out_of_tries_waits_for_an_operator() -> None:
    told = Story().begun().result(WEIGHT)
    for _ in range(4):
        told.local_fails().expect_attention().advance(minutes(1))
    told.local_fails().expect_attention("local_failed: shelve").expect_status("running")

    told.operator("retry").expect_attention().local().expect_status("running")


def test_a_local_step_that_killed_alone_too_often_waits_for_an_operator() -> None:
    story = Story()
    told = story.begun().result(WEIGHT).expect_local(story.shelve)
    assert told.one.instance is not None
    ((name, timer),) = ((n, t) for n, t in told.one.instance.progress.timers.items() if n.startswith("local:"))
    for alone in (b"false", b"true", b"true"):
        body = b'{"timer": "%s:%d", "alone": %s}' % (name.encode(), timer.epoch, alone)
        told.operator("worker_killed", body).expect_attention()
    told.operator("worker_killed", body).expect_attention("local_failed: shelve").expect_status("running")

    told.operator("retry").expect_attention().local().expect_status("running")


def test_a_local_step_in_back_off_never_ran_for_a_saga_that_turns_back() -> None:
    story = Story()
    told = story.begun().result(WEIGHT).local_fails().given(Stopped())

    told.expect_activity(story.weigh, undo=True).result().expect_status("compensated").expect_nothing()


def test_a_late_result_of_a_hybrid_step_is_recorded() -> None:
    story = Story()
    told = story.begun().given(Stopped()).expect_activity(story.weigh, undo=True).result()
    assert told.expect_status("compensated").unsettled == 0

    effects = told.one.effects
    assert [type(e) for e in effects] == [RunActivity, CancelActivity, RunActivity]
    told._end_activity(told._activities()[0], "activity_done", b'{"grams":7}', "late")
    told.expect_outcome("applied: late_reply").expect_nothing()


def test_a_strict_step_is_not_cancelled_and_its_late_success_is_undone() -> None:
    story = Story(undo=Undo.STRICT)
    told = story.begun().given(Stopped()).expect_status("compensated").expect_nothing()
    assert told.unsettled == 1
    assert not [e for e in told.one.effects if isinstance(e, CancelActivity)]

    told.result(WEIGHT).expect_outcome("applied: late_reply").expect_activity(story.weigh, undo=True)
    told.result().expect_nothing()
    assert told.unsettled == 0


def test_a_strict_step_of_which_nothing_more_will_be_heard_asks_for_attention_at_once() -> None:
    story = Story(undo=Undo.STRICT)
    told = story.begun().given(Stopped()).fail("gone", lost=True)

    told.expect_attention("unsettled_expired: weigh").expect_nothing()
    assert told.unsettled == 1


@pytest.mark.parametrize(
    ("undo", "lost", "is_undone", "unsettled"),
    [
        (Undo.HYBRID, True, True, 0),
        (Undo.HYBRID, False, True, 0),
        (Undo.STRICT, True, False, 1),
        (Undo.STRICT, False, False, 0),
        (Undo.NONE, True, False, 0),
        (Undo.NONE, False, False, 0),
    ],
)
def test_what_becomes_of_a_step_without_an_attempt_left(
    undo: Undo, lost: bool, is_undone: bool, unsettled: int
) -> None:
    """features: 41, 42"""
    story = Story(undo=undo)
    told = story.begun().fail("down", terminal=False, lost=lost)

    if is_undone:
        told.expect_activity(story.weigh, undo=True).result()
    told.expect_status("compensated").expect_nothing()
    assert told.unsettled == unsettled


def test_a_handled_failure_goes_on() -> None:
    story = Story(undo=Undo.NONE, handles=True)
    told = story.begun().fail("no scale").expect_local(story.shelve)

    assert told.state.note == "no scale"


def test_past_the_pivot_a_lost_activity_asks_for_attention_and_is_run_again_under_its_number() -> None:
    story = Story(pivoted=True)
    told = story.shelved().fail("down", lost=True).expect_status("running").expect_attention("no_answer: hand_over")

    told.operator("retry").expect_attention().expect_activity(story.hand_over)
    first, again = told._activities()[-2:]
    assert (first.seq, first.run) == (again.seq, again.run - 1)
    told.result(WEIGHT).expect_status("completed")


def test_past_the_pivot_an_activity_that_is_no_use_is_run_again_under_a_new_number() -> None:
    story = Story(pivoted=True)
    told = story.shelved().fail("refused").expect_attention("rejected_after_pivot: hand_over")

    told.operator("retry").expect_attention().expect_activity(story.hand_over)
    first, again = told._activities()[-2:]
    assert (again.run, again.seq) == (1, first.seq + 1)


def test_an_undo_without_an_attempt_left_asks_for_attention_and_the_older_ones_go_on() -> None:
    story = Story()
    told = story.shelved().fail("no carrier").expect_local(story.shelve, undo=True)
    for _ in range(5):
        told.local_fails().advance(minutes(1))
    told.expect_attention("undo_failed: shelve").expect_activity(story.weigh, undo=True).fail("x", lost=True)
    told.expect_attention("undo_failed: shelve", "undo_failed: weigh").expect_status("compensating")

    told.operator("retry").expect_attention().expect_activity(story.weigh, undo=True).result()
    told.expect_local(story.shelve, undo=True).local().expect_status("compensated").expect_nothing()


def test_the_deadline_turns_back_while_an_activity_runs() -> None:
    story = Story()
    told = story.begun().advance(days(2)).expect_activity(story.weigh, undo=True).result()
    told.expect_status("compensated", reason="the deadline of the saga has passed")


def test_a_result_of_something_else_is_a_dead_letter() -> None:
    told = SagaTest(Story().saga, tolerant=True).given(Begun())
    effect = told._activities()[0]
    told._end_activity(effect, "activity_done", b'{"grams":"heavy"}', "nonsense")
    told.expect_outcome("dead: schema_mismatch")
    told._end_activity(RunActivity(99, "weigh", b"", 1, timedelta(1)), "activity_done", b"{}", "nobody's")
    told.expect_outcome("dead: unknown_activity")


def test_definitions_that_cannot_work_are_refused() -> None:
    saga = Saga("s", state=Parcel)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: Parcel(key=event.key))

    with pytest.raises(DefinitionError, match="make it an async function"):
        saga.activity(timeout=seconds(1))(lambda parcel, ctx: WEIGHT)  # type: ignore[arg-type, return-value]
    with pytest.raises(DefinitionError, match="timeout"):
        saga.activity(timeout=seconds(0))
    with pytest.raises(DefinitionError, match="concurrency is 0"):
        saga.activity(timeout=seconds(1), concurrency=0)

    @saga.activity(timeout=seconds(1), retry=Retry.none())
    async def weigh(parcel: Parcel, ctx: ActivityContext) -> Weight:
        return WEIGHT

    @saga.local
    async def shelve(parcel: Parcel, session: AsyncSession) -> Verdict:
        return None

    @saga.activity(timeout=seconds(1), undo=Undo.NONE)
    async def hand_over(parcel: Parcel, ctx: ActivityContext) -> Weight:
        return WEIGHT

    hand_over.result(lambda parcel, weight: None)
    saga.flow(weigh, shelve, pivot(hand_over))
    with pytest.raises(DefinitionError) as refused:
        saga.check()
    words = str(refused.value)
    assert "step weigh does not handle its result Weight" in words
    assert "step weigh may have to be undone before the pivot" in words
    assert "step shelve may have to be undone before the pivot" in words
