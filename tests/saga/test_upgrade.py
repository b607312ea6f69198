"""Sagas that stand under an older version of their definition go on under a newer one, or stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import (
    ActivityContext,
    Command,
    DefinitionError,
    Done,
    Event,
    Message,
    Retry,
    Saga,
    Undo,
    UndoOf,
    Verdict,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    repeat_until,
)
from saga_worker.saga.carry_over import carry_over
from saga_worker.saga.fold import in_hand
from saga_worker.saga.fold.stranded import strand
from saga_worker.saga.inputs import MoveActivity
from saga_worker.saga.instance import NEVER, Fate, Progress
from saga_worker.saga.messages import rejection_models, reply_models
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import Role
from saga_worker.saga.stays import stays
from saga_worker.saga.steps import CommandOf
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import START


class Ordered(Event):
    order: str


class Approved(Event):
    order: str


class Held(Message):
    place: str = ""


class Hold(Command[Held]):
    order: str


class Free(UndoOf[Hold]):
    order: str


class Ship(Command):
    order: str


class Old(BaseModel):
    order: str
    place: str = ""


class New(BaseModel):
    order: str
    places: list[str]
    by: str = "nobody"


def first(*, version: int = 1) -> Saga[Old]:
    """hold → review (a wait) → ship"""
    saga = Saga("order", state=Old, version=version, deadline=days(10))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Old:
        return Old(order=event.order)

    @saga.command("store", timeout=minutes(1), retry=Retry.fixed(2, minutes(1)))
    def hold(state: Old) -> Hold:
        return Hold(order=state.order)

    @hold.reply
    def held(state: Old, reply: Held) -> Verdict:
        state.place = reply.place
        return None

    @hold.undo
    def free(state: Old) -> Free:
        return Free(order=f"{state.order} by 1")

    review = saga.wait("review", timeout=days(2))

    @review.on(Approved, key=lambda e: e.order)
    def approved(state: Old, event: Approved) -> Verdict:
        return None

    @saga.command("post", timeout=minutes(1), undo=Undo.NONE)
    def ship(state: Old) -> Ship:
        return Ship(order=f"{state.order} by 1")

    saga.flow(hold, review, ship)
    return saga


def second(
    old: Saga[Old] | int, *, hold_name: str = "hold", wait_name: str = "review",
    steps: dict[str, str | None] | None = None, breaks: Callable[[], bool] = lambda: False, version: int = 2,
) -> Saga[New]:  # fmt: skip
    """The same with another state, and under other names; the maker of the new state raises while `breaks` says so."""
    saga = Saga("order", state=New, version=version, deadline=days(10))

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> New:
        return New(order=event.order, places=[])

    @saga.command("store", timeout=minutes(1), retry=Retry.fixed(2, minutes(1)), name=hold_name)
    def hold(state: New) -> Hold:
        return Hold(order=state.order)

    @hold.reply
    def held(state: New, reply: Held) -> Verdict:
        state.places.append(reply.place)
        return None

    @hold.undo
    def free(state: New) -> Free:
        return Free(order=f"{state.order} by 2")

    review = saga.wait(wait_name, timeout=days(2))

    @review.on(Approved, key=lambda e: e.order)
    def approved(state: New, event: Approved) -> Verdict:
        return None

    @saga.command("post", timeout=minutes(1), undo=Undo.NONE)
    def ship(state: New) -> Ship:
        return Ship(order=f"{state.order} by 2")

    saga.flow(hold, review, ship)

    def from_old(state: Old) -> New:
        if breaks():
            raise ValueError("this upgrade is broken")
        return New(order=state.order, places=[state.place], by="upgrade")

    def from_stored(state: dict[str, Any]) -> New:
        return from_old(Old(**state))

    if isinstance(old, int):
        saga.upgrade_from(old, steps=steps)(from_stored)
    else:
        saga.upgrade_from(old, steps=steps)(from_old)
    return saga


def at_review(saga: Saga[Old]) -> SagaTest[Old]:
    return SagaTest(saga).given(Ordered(order="1")).expect(Hold(order="1")).reply(Held(place="a"))


@pytest.mark.parametrize("by_number", [False, True])
def test_a_saga_goes_on_under_the_newer_version_from_its_next_input(by_number: bool) -> None:
    """features: 80, 158, L19"""
    v1 = first()
    v2 = second(1 if by_number else v1)
    test = at_review(v1).deploy(*([v2] if by_number else [v1, v2]))
    assert test.one.instance is not None and test.one.instance.definition_version == 1

    test.given(Approved(order="1")).expect(Ship(order="1 by 2")).reject()
    test.expect(Free(order="1 by 2"))

    assert test.state == New(order="1", places=["a"], by="upgrade")
    assert [(row.input_kind, row.definition_version) for row in test.one.journal] == [
        ("event", 1), ("reply", 1), ("upgrade", 2), ("event", 2), ("reply", 2),
    ]  # fmt: skip


def test_without_an_upgrade_a_saga_stays_under_its_version_and_new_ones_take_the_newest() -> None:
    """features: 80"""
    v1, v2 = first(), second(7, version=8)
    at_review(v1).deploy(v1, v2).given(Approved(order="1")).expect(Ship(order="1 by 1"))

    assert (latest := Registry([v1, v2]).latest("order")) is not None and latest.version == 8


def test_a_command_in_flight_and_its_timers_go_on_under_another_name() -> None:
    """features: L19"""
    v1 = first()
    v2 = second(v1, hold_name="keep", steps={"hold": "keep"})
    test = SagaTest(v1).given(Ordered(order="1")).expect(Hold(order="1")).deploy(v1, v2)

    test.advance(minutes(1)).advance(minutes(1)).expect(Hold(order="1"))  # the same bytes again
    assert test.one.instance is not None and test.one.instance.progress.active == {"keep": 1}
    test.reply(Held(place="b")).given(Approved(order="1")).expect(Ship(order="1 by 2")).reject()

    test.expect(Free(order="1 by 2")).reply(Done()).expect_status("compensated")
    assert [row.input_kind for row in test.one.journal][:2] == ["event", "upgrade"]


def test_a_wait_keeps_its_time_under_another_name() -> None:
    v1 = first()
    v2 = second(v1, wait_name="approval", steps={"review": "approval"})
    test = at_review(v1).deploy(v2)
    assert test.one.instance is not None
    due = test.one.instance.progress.timers["wait:review"]

    test.advance(days(1)).operator("recheck")
    moved = test.one.instance.progress

    assert moved.active == {"approval": None} and moved.timers["wait:approval"] == due
    assert "wait:review" not in moved.timers
    assert f"wait:approval:{due.epoch}" in test.one.journal[-1].timers
    test.advance(days(2)).expect(Free(order="1 by 2")).expect_status("compensating")


def test_a_timer_that_is_due_brings_its_saga_to_the_newer_version_before_it_fires() -> None:
    v1 = first()
    v2 = second(v1, wait_name="approval", steps={"review": "approval"})
    test = at_review(v1).deploy(v2).advance(days(3))

    test.expect(Free(order="1 by 2")).expect_status("compensating")
    assert [row.input_kind for row in test.one.journal][:4] == ["event", "reply", "upgrade", "timer"]


def test_upgrades_are_chained() -> None:
    """features: 80"""
    v1 = first()
    v2 = second(v1)
    v3 = second(2, version=3)
    made: list[str] = []

    @v3_maker(v3)
    def from_2(state: dict[str, Any]) -> New:
        made.append(state["by"])
        return New(order=state["order"], places=state["places"], by="both")

    test = at_review(v1).deploy(v2, v3).given(Approved(order="1"))

    assert made == ["upgrade"] and test.state == New(order="1", places=["a"], by="both")
    assert [row.definition_version for row in test.one.journal] == [1, 1, 2, 3, 3]
    assert len({row.message_id for row in test.one.journal}) == 5


def v3_maker(saga: Saga[New]) -> Callable[[Callable[[dict[str, Any]], New]], None]:
    """Replaces the upgrade that `second` has declared."""

    def register(make: Callable[[dict[str, Any]], New]) -> None:
        saga.upgrades.clear()
        saga.upgrade_from(2)(make)

    return register


def test_the_upgrade_that_leads_further_is_taken() -> None:
    v1 = first()
    v2 = second(v1)
    v3 = second(v1, version=3)

    @v3.upgrade_from(v2)
    def from_2(state: New) -> New:
        return state

    test = at_review(v1).deploy(v1, v2, v3).given(Approved(order="1"))
    assert [row.definition_version for row in test.one.journal] == [1, 1, 3, 3]


def test_an_upgrade_that_raises_is_tried_again_as_a_handler_is_and_loses_nothing() -> None:
    """features: 80"""
    v1, is_broken = first(), True
    v2 = second(v1, breaks=lambda: is_broken)
    test = SagaTest(v1, tolerant=True).given(Ordered(order="1")).reply(Held(place="a")).deploy(v2)

    test.event(Approved(order="1")).expect_outcome("waiting to be tried again")
    assert (
        "The upgrade from version 1 raised ValueError: this upgrade is broken at test_upgrade.py" in test.one.errors[3]
    )
    test.advance(days(1))
    test.expect_attention("dead_letter")
    assert test.one.rows[3].reason == "handler_error" and test.one.instance is not None
    assert test.one.instance.definition_version == 1

    is_broken = False
    assert test.one.replay() == 1
    test.advance(minutes(1)).expect(Hold).expect(Ship(order="1 by 2")).expect_attention()


def test_an_upgrade_that_raises_before_a_timer_is_tried_again_and_then_asks_for_attention() -> None:
    v1, is_broken = first(), True
    v2 = second(v1, breaks=lambda: is_broken)
    test = SagaTest(v1, tolerant=True).given(Ordered(order="1")).reply(Held(place="a")).deploy(v2).advance(days(3))

    (entry,) = test.attention
    assert entry.startswith("timer_failed: wait:review: The upgrade from version 1 raised ValueError")
    is_broken = False
    test.operator("retry").advance(minutes(1)).expect_status("compensating").expect_attention()


def test_a_saga_without_a_place_stays_under_its_version_as_long_as_it_has_none() -> None:
    """features: 80, L19"""
    v1 = first()
    v2 = second(v1, wait_name="approval")  # `review` has no place there
    test = at_review(v1).deploy(v1, v2).given(Approved(order="1")).expect(Ship(order="1 by 1"))
    test.reply(Done()).expect_status("completed")

    # At `ship` it has a place again, and is brought over with the answer.
    assert [(r.input_kind, r.definition_version) for r in test.one.journal][2:] == [
        ("event", 1), ("upgrade", 2), ("reply", 2),
    ]  # fmt: skip


def test_a_saga_without_a_place_is_held_with_a_reason_if_its_version_is_gone_and_goes_on_when_it_is_back() -> None:
    """features: 80, 158"""
    v1 = first()
    v2 = second(v1, wait_name="approval")
    test = at_review(v1).deploy(v2)
    test.one.store(Role.EVENT, "approved", b'{"order": "1"}', message_id="a")
    test.one.store(Role.OPERATOR, "retry", b"{}", message_id="r")
    test.one.drain()
    assert test.one.instance is not None and test.one.registry.runs_by(test.one.instance) == (None, None)
    why = test.one.registry.why_stranded(test.one.instance)
    assert why == "not to version 2: it stands at review, which version 2 does not have"

    change = strand(test.one.instance, list(test.one.rows.values()), why, test.one.now)
    assert [(row.state.label, row.reason) for row in change.rows] == [("held", "no_upgrade"), ("ignored", "no_upgrade")]
    assert change.after is not None and change.after.attention == f"no_upgrade: version 1 is not loaded, {why}"
    assert strand(change.after, [], why, test.one.now).after is change.after

    test.one._save(change)
    test.deploy(v1).advance(days(0))
    test.one.step()
    test.one.drain()
    test.expect(Ship(order="1 by 1")).expect_attention()


def test_a_final_saga_is_brought_over_for_an_answer_that_comes_late() -> None:
    v1 = first()
    v2 = second(v1, hold_name="keep", steps={"hold": "keep"})
    test = SagaTest(v1).given(Ordered(order="1")).expect(Hold).advance(hours(1))
    test.expect(Hold).expect(Free(order="1 by 1")).reply(Done()).expect_status("compensated")

    test.deploy(v2).late_reply(Held(place="c"), to=Hold).expect_outcome("applied: late_reply")
    assert test.one.instance is not None and test.one.instance.definition_version == 2
    test.expect_status("compensated")


# -- where a saga may stand -------------------------------------------------------------------------------------------


class Bare(BaseModel):
    order: str


class Arm(Event):
    order: str


Place = Callable[[SimpleNamespace], Any]
TEN_DAYS = days(10)


def shaped(version: int, place: Place, *, kinds: dict[str, str] | None = None, deadline: Any = TEN_DAYS) -> Saga[Bare]:
    """Commands a, b, c, d with undos, a wait w, a sleep z, an activity y and a local step l, in the given order."""
    saga = Saga("shape", state=Bare, version=version, deadline=deadline)

    @saga.starts_on(Ordered, key=lambda e: e.order)
    def ordered(event: Ordered) -> Bare:
        return Bare(order=event.order)

    steps = SimpleNamespace()
    wanted = Wanted()
    place(wanted)
    names: list[str] = wanted.names
    for name in names:
        setattr(steps, name, _step(saga, name, (kinds or {}).get(name, name[0])))
    found = place(steps)
    saga.flow(*(found if isinstance(found, tuple) else (found,)))
    return saga


class Wanted(SimpleNamespace):
    """Notes which steps a flow names; what it hands out is a step that is never used."""

    def __init__(self) -> None:
        super().__init__(names=[])

    def __getattr__(self, name: str) -> Any:
        self.names.append(name)
        return _step(Saga("unused", state=Bare), name, name[0])


def _step(saga: Saga[Bare], name: str, kind: str) -> Any:
    if kind == "w":
        wait = saga.wait(name)
        wait.on(Arm, key=lambda e: e.order)(lambda state, event: None)
        return wait
    if kind == "z":
        return saga.sleep(name, hours(1))
    if kind == "y":

        async def work(state: Bare, ctx: ActivityContext) -> Held:
            return Held()

        async def back(state: Bare, ctx: ActivityContext) -> None: ...

        activity = saga.activity(timeout=minutes(1), name=name)(work)
        activity.result(lambda state, reply: None)
        activity.undo(back)
        return activity
    if kind == "l":

        async def local(state: Bare, session: AsyncSession) -> None: ...

        return saga.local(name=name, undo=Undo.NONE)(local)

    def make(state: Bare) -> Hold:
        return Hold(order=name)

    def free(state: Bare) -> Free:
        return Free(order=name)

    command = saga.command("dest", timeout=minutes(1), name=name)(make)
    command.reply(lambda state, reply: None)
    command.undo(free)
    return command


def moved(
    old: Saga[Bare], new: Saga[Bare], answered: int = 0, *, steps: dict[str, str | None] | None = None,
    by_number: bool = False,
) -> str | dict[str, int | None]:  # fmt: skip
    """Where a saga stands in the new version, of whose commands so many were answered in the old; or why it stays."""
    new.upgrade_from(1 if by_number else old, steps=steps)(lambda state: Bare(order="1"))
    test = SagaTest(old).given(Ordered(order="1"))
    for _ in range(answered):
        test.one.drain()
        seq = min(s for s, c in progress_of(test).commands.items() if c.fate is Fate.SENT)
        test.one.store(
            Role.REPLY, "held", b"{}", message_id=f"r{seq}", correlation_id=command_id(test.one.ref, seq)
        )  # fmt: skip
        test.one.drain()
    test.deploy(new)
    assert test.one.instance is not None
    before = test.one.instance
    test.one.store(Role.OPERATOR, "recheck", b"{}", message_id="look")
    test.one.drain()
    if test.one.instance is before:
        return str(test.one.registry.why_stranded(before)).removeprefix("not to version 2: ")
    assert test.one.journal[-1].input_kind == "upgrade"
    return dict(progress_of(test).active)


def progress_of(test: SagaTest[Any]) -> Progress:
    assert test.one.instance is not None
    return test.one.instance.progress


NO_UNDO = "hold of step a may have to be undone, and version 2 has no such step"
PIVOT = "it would stand behind the pivot of version 2, which it has not passed"
ONE_BY_ONE = "it stands at a, b, which version 2 does one after another"
LOOP = "it goes round in again, a loop which version 2 does not have"
OTHER_KIND = "it stands at {}, which is another kind of step in version 2"


@pytest.mark.parametrize(
    ("old", "new", "answered", "steps", "found"),
    [
        # what is new before and after the place of the saga
        (lambda s: (s.a, s.b), lambda s: (s.c, s.a, s.b, s.d), 1, None, {"b": 2}),
        # what is gone: behind with an undo, said to stand, ahead, where it stands
        (lambda s: (s.a, s.b), lambda s: (s.b, s.c), 1, None, NO_UNDO),
        (lambda s: (s.a, s.b), lambda s: (s.b, s.c), 1, {"a": None}, {"b": 2}),
        (lambda s: (s.a, s.b), lambda s: (s.a, s.c), 0, None, {"a": 1}),
        (lambda s: (s.a, s.b), lambda s: (s.a, s.c), 1, None, "it stands at b, which version 2 does not have"),
        (lambda s: (s.a, s.b), lambda s: (s.a, s.c), 1, {"b": "c"}, {"c": 2}),
        # another order
        (lambda s: (s.a, s.b), lambda s: (s.b, s.a), 0, None, "version 2 does b earlier than it did"),
        (lambda s: (s.a, s.b), lambda s: (s.b, s.a), 1, None, "version 2 does a later than it did"),
        (lambda s: (s.a, s.b, s.c, s.d), lambda s: (s.a, s.b, s.d, s.c), 1, None, {"b": 2}),
        # branches
        (lambda s: (parallel(s.a, s.b), s.c), lambda s: (parallel(s.a, s.b, join=1), s.c), 0, None, {"a": 1, "b": 2}),
        (lambda s: (parallel(s.a, s.b), s.c), lambda s: (parallel(s.b, s.a), s.c), 1, None, {"b": 2}),
        (lambda s: (parallel(s.a, s.b), s.c), lambda s: (s.a, s.b, s.c), 0, None, ONE_BY_ONE),
        (lambda s: (s.a, s.b), lambda s: parallel(s.a, s.b), 0, None, "version 2 does b earlier than it did"),
        # loops
        (lambda s: again(s.a, s.b), lambda s: again(s.a, s.b, s.c), 3, None, {"b": 4}),
        (lambda s: again(s.a, s.b), lambda s: (s.a, s.b), 0, None, {"a": 1}),
        (lambda s: again(s.a, s.b), lambda s: (s.a, s.b), 1, None, "version 2 does a earlier than it did"),
        (lambda s: again(s.a), lambda s: s.a, 1, None, LOOP),
        (lambda s: again(s.a), lambda s: again(s.a, name="more"), 1, {"again": "more"}, {"a": 2}),
        # pivots
        (lambda s: (s.a, s.b), lambda s: (s.a, pivot(s.b)), 1, None, {"b": 2}),
        (lambda s: (s.a, s.b), lambda s: (pivot(s.a), s.b), 1, None, PIVOT),
        (lambda s: (pivot(s.a), s.b), lambda s: (s.a, pivot(s.b)), 1, None, {"b": 2}),
        # waits and sleeps
        (lambda s: (s.a, s.w), lambda s: (s.a, s.w, s.b), 1, None, {"w": None}),
        (lambda s: (s.a, s.z), lambda s: (s.a, s.z, s.b), 1, None, {"z": None}),
    ],
)  # fmt: skip
def test_a_saga_is_brought_to_where_it_stands_or_stays(
    old: Place, new: Place, answered: int, steps: dict[str, str | None] | None, found: str | dict[str, int | None]
) -> None:
    """features: 80, L19"""
    assert moved(shaped(1, old), shaped(2, new), answered, steps=steps) == found


def again(*steps: Any, name: str = "again") -> Any:
    return repeat_until(lambda state: False, *steps, times=5, name=name)


@pytest.mark.parametrize(
    ("old", "new", "kinds", "answered", "found"),
    [
        (lambda s: (s.a, s.b), lambda s: (s.a, s.b, s.c), {}, 1, {"b": 2}),
        (lambda s: (s.a, s.w), lambda s: (s.a, s.w, s.c), {}, 1, {"w": None}),
        (lambda s: (s.a, s.z), lambda s: (s.a, s.z, s.c), {}, 1, {"z": None}),
        (lambda s: (s.y, s.b), lambda s: (s.y, s.b, s.c), {}, 0, {"y": 1}),
        (lambda s: (s.a, s.w), lambda s: (s.a, s.w), {"w": "z"}, 1, OTHER_KIND.format("w")),
        (lambda s: (s.a, s.z), lambda s: (s.a, s.z), {"z": "w"}, 1, OTHER_KIND.format("z")),
        (lambda s: (s.a, s.b), lambda s: (s.a, s.b), {"b": "y"}, 1, OTHER_KIND.format("b")),
        (lambda s: (s.y, s.b), lambda s: (s.y, s.b), {"y": "a"}, 0, OTHER_KIND.format("y")),
        (lambda s: (s.l, s.b), lambda s: (s.l, s.b), {"l": "y"}, 0, OTHER_KIND.format("l")),
        (lambda s: (s.a, s.b), lambda s: (s.b, s.a), {}, 1, "it has been at a, which version 2 does later"),
        (lambda s: (s.a, s.b), lambda s: (s.b, s.c), {}, 1, NO_UNDO),
    ],
)  # fmt: skip
def test_by_number_what_is_stored_says_where_a_saga_stands(
    old: Place, new: Place, kinds: dict[str, str], answered: int, found: str | dict[str, int | None]
) -> None:
    """features: 80, L19"""
    assert moved(shaped(1, old), shaped(2, new, kinds=kinds), answered, by_number=True) == found


def test_a_command_in_flight_stays_where_its_answers_are_understood() -> None:
    class Kept(Message, type="kept"):
        pass

    class HoldLonger(Command[Kept], type="hold"):
        order: str

    def asks(version: int, model: Any) -> Saga[Bare]:
        saga = shaped(version, lambda s: s.b)
        step = saga.steps["b"]
        assert isinstance(step, CommandOf)
        vars(step).update(command_model=model, replies=reply_models(model), rejections=rejection_models(model))
        return saga

    said = "hold of step b may still be answered, and version 2 expects other answers"
    assert moved(asks(1, Hold), asks(2, HoldLonger)) == said
    assert moved(asks(1, Hold), asks(2, Hold)) == {"b": 1}


def test_an_undo_that_is_gone_keeps_a_saga_that_may_need_it() -> None:
    old, new = shaped(1, lambda s: (s.a, s.b)), shaped(2, lambda s: (s.a, s.b))
    step = new.steps["a"]
    assert isinstance(step, CommandOf)
    step.make_undo = step.undo_model = None

    assert moved(old, new, 1) == "hold of step a may have to be undone, and version 2 has no undo for it"


def test_activities_that_somebody_may_still_run_go_on_under_the_new_version() -> None:
    old, new = shaped(1, lambda s: (s.y, s.a)), shaped(2, lambda s: (s.y2, s.a))
    new.upgrade_from(old, steps={"y": "y2"})(lambda state: Bare(order="moved"))
    test = SagaTest(old).given(Ordered(order="1")).deploy(new).operator("recheck")

    assert test.one.effects[-1] == MoveActivity(1, "y2", 2, b'{"order":"moved"}', minutes(1))
    test.result(Held()).expect(Hold(order="a")).expect_outcome("applied")


def test_a_local_step_runs_by_the_version_that_its_saga_has_come_to() -> None:
    old, new = shaped(1, lambda s: (s.l, s.a)), shaped(2, lambda s: (s.l, s.a))
    new.upgrade_from(old)(lambda state: state)
    test = SagaTest(old).given(Ordered(order="1"))
    assert test.one.due_local() is not None
    test.deploy(new)
    change = test.one.step(from_timers=True)

    assert change is not None and change.local and [row.input_kind for row in change.journal] == ["upgrade"]
    test.local().expect(Hold(order="a"))


def test_a_local_step_whose_turn_it_is_is_announced_before_an_upgrade() -> None:
    """Of code that nobody knows to be running a worker would die again and again."""
    instance = SagaTest(shaped(1, lambda s: (s.l, s.a))).given(Ordered(order="1")).one.instance
    assert instance is not None

    assert in_hand(instance, START, True, alone=False) == []
    assert in_hand(instance, START, True, alone=False, is_to_move=True) == ["local:1:2"]


def test_a_local_step_waits_while_the_upgrade_before_it_raises() -> None:
    old, new = shaped(1, lambda s: (s.l, s.a)), shaped(2, lambda s: (s.l, s.a))
    new.upgrade_from(old)(lambda state: Bare(order=1))  # pyright: ignore[reportArgumentType]
    test = SagaTest(old, tolerant=True).given(Ordered(order="1")).deploy(new)
    change = test.one.step(from_timers=True)

    assert change is not None and not change.local and change.wake_at is not None and change.wake_at > test.one.now
    test.advance(days(1))
    assert [entry.split(": ")[1] for entry in test.attention] == ["local:1"]


def test_a_deadline_that_is_new_runs_from_the_start_of_the_saga() -> None:
    old, new = shaped(1, lambda s: (s.a, s.b), deadline=None), shaped(2, lambda s: (s.a, s.b))
    new.upgrade_from(old)(lambda state: state)
    test = SagaTest(old).given(Ordered(order="1")).reply(Held()).deploy(new).operator("recheck")

    assert progress_of(test).timers["deadline"].due_at == START + days(10)


def test_attention_and_failed_timers_go_by_the_new_names() -> None:
    instance = at_review(first()).one.instance
    assert instance is not None
    listed = ("no_answer: hold", "undeliverable: hold", "timer_failed: wait:review: it broke", "deadline_passed")
    upgrade = second(first(), hold_name="keep", wait_name="approval", steps={"hold": "keep", "review": "approval"})
    progress = carry_over(
        upgrade, upgrade.upgrades[1], replace(instance, progress=replace(instance.progress, attention=listed))
    )  # fmt: skip

    assert progress.attention == (
        "no_answer: keep", "undeliverable: hold", "timer_failed: wait:approval: it broke", "deadline_passed",
    )  # fmt: skip


def test_before_an_upgrade_nothing_runs_beside_the_word_of_an_operator_that_may_have_killed() -> None:
    v1 = first()
    v2 = second(v1)
    test = at_review(v1).deploy(v2)
    test.one.now += days(3)  # the wait is over
    for message_id, role in (("k", Role.OPERATOR), ("a", Role.EVENT)):
        row = test.one.store(
            role, "recheck" if role is Role.OPERATOR else "approved", b'{"order":"1"}', message_id=message_id
        )
        assert row is not None
        test.one.rows[row.id] = replace(row, suspect=role is Role.OPERATOR)
    change = test.one.step(from_timers=True)

    assert change is not None and change.suspect == 3 and change.journal == []


def test_an_upgrade_that_kills_its_worker_before_a_timer_is_given_up() -> None:
    v1 = first()
    v2 = second(v1)
    test = at_review(v1).deploy(v2)
    assert test.one.instance is not None
    timer = test.one.instance.progress.timers["wait:review"]
    body = to_json({"timer": f"wait:review:{timer.epoch}", "alone": True})
    row = test.one.store(Role.OPERATOR, "worker_killed", body, message_id="k")
    assert row is not None
    test.one.rows[row.id] = replace(row, suspect=True, crashes=3)
    test.one.drain()

    assert test.one.rows[row.id].reason == "worker_killed"
    (entry,) = test.attention
    assert entry == "timer_failed: wait:review: workers died of the upgrade before it, alone"
    assert test.one.instance.progress.timers["wait:review"].due_at == NEVER


def test_check_says_at_which_steps_sagas_stay() -> None:
    """features: L19"""
    old = shaped(1, lambda s: (s.a, s.w, parallel(s.b, s.y), s.z, pivot(s.c), s.l, s.d))
    same = shaped(2, lambda s: (s.a, s.w, parallel(s.b, s.y), s.z, pivot(s.c), s.l, s.d, s.e))
    same.upgrade_from(old)(lambda state: state)
    assert list(stays(same)) == []

    other = shaped(2, lambda s: (s.b, s.w, parallel(s.a, s.y), pivot(s.c), s.l, s.d))
    other.upgrade_from(old)(lambda state: state)
    said = [line.partition("what stands at ")[2] for line in stays(other)]
    assert said == [
        "a stays under version 1 as long as it does: version 2 does w earlier than it did.",
        "w stays under version 1 as long as it does: version 2 does a later than it did.",
        "b stays under version 1 as long as it does: version 2 does a later than it did.",
        "z stays under version 1 as long as it does: it stands at z, which version 2 does not have.",
    ]


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(*sagas: Saga[Any]) -> str:
    with pytest.raises(DefinitionError) as error:
        Registry(sagas)
    return str(error.value)


def test_what_cannot_work_is_refused_when_definitions_are_loaded() -> None:
    """features: 80"""
    old = shaped(1, lambda s: (s.a, s.b, s.w))
    a_wait = shaped(2, lambda s: (s.a, s.b, s.w), kinds={"b": "w"})
    a_wait.upgrade_from(old)(lambda state: state)
    assert "b of version 1 is another kind of step than b of version 2; give the new one another name" in refused(
        a_wait
    )

    mapped = shaped(2, lambda s: (s.a, s.b))
    mapped.upgrade_from(old, steps={"w": "a", "no": "b", "b": "nowhere"})(lambda state: state)
    said = refused(mapped)
    assert "maps no, which version 1 does not have" in said
    assert "maps b to nowhere, and version 2 has no step of that name" in said
    assert "makes 2 steps into a" in said

    alone = second(1), first(version=3)
    assert "version 1 is upgraded to 2, and nothing leads from there to 3, the newest" in refused(*alone)

    another = second(first())
    assert "that is not the one at" in refused(first(), another)


def test_what_cannot_work_is_refused_where_it_is_declared() -> None:
    v1, v2 = first(), first(version=2)
    with pytest.raises(DefinitionError, match="version 1 is upgraded from version 2; name an older one"):
        v1.upgrade_from(v2)(lambda state: state)
    with pytest.raises(DefinitionError, match="is upgraded from saga shape; name an older version of order"):
        v2.upgrade_from(shaped(1, lambda s: s.a))(lambda state: Old(order="1"))
    v2.upgrade_from(1)(lambda state: Old(**state))
    with pytest.raises(DefinitionError, match=r"has an upgrade from 1 at .* already; keep one"):
        v2.upgrade_from(v1)(lambda state: state)
    with pytest.raises(DefinitionError, match="upgrade_from takes the older saga, or the number of its version"):
        v2.upgrade_from(lambda state: state)  # type: ignore[call-overload]


def test_a_worker_lists_what_it_runs_and_what_it_upgrades() -> None:
    registry = Registry([second(first()), shaped(4, lambda s: s.a)])

    assert registry.listed() == ("order/2", "shape/4", "order/1>2")
