"""A saga tells of its own life: begun, ended, in need of somebody; with the decision that makes it true."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_core import from_json

from saga_worker import Command, Event, Saga, Undo, UndoOf, Verdict, days, minutes, pivot, seconds
from saga_worker.saga.inputs import PublishEvent
from saga_worker.saga.messages import Done
from saga_worker.testing import SagaTest
from saga_worker.testing.promises import WatchedSaga

WHY = b'{"why": "by hand"}'


class Begun(Event):
    key: str = "k"
    then: str = "go"


class Noted(Event):
    key: str = "k"
    then: str = "go"


class Told(Event):
    key: str


class First(Command):
    key: str


class UndoFirst(UndoOf[First]):
    key: str


class Second(Command):
    key: str


class State(BaseModel):
    key: str


def told_of(*, pivoted: bool = False, lifecycle: bool = True, compensate: bool = True) -> Saga[State]:
    saga = Saga("order", state=State, version=2, deadline=days(9), lifecycle=lifecycle, compensate=compensate)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))

    @saga.on(Noted, key=lambda e: e.key)
    def noted(state: State, event: Noted) -> Verdict:
        if event.then == "raise":
            raise ValueError("it cannot be noted")
        return None

    @saga.command("one", timeout=minutes(1))
    def first(state: State) -> First:
        return First(key=state.key)

    @first.undo
    def undo_first(state: State) -> UndoFirst:
        return UndoFirst(key=state.key)

    @saga.command("two", timeout=minutes(1), undo=Undo.NONE)
    def second(state: State) -> Second:
        return Second(key=state.key)

    @saga.emit
    def tell(state: State) -> Told:
        return Told(key=state.key)

    saga.flow(first, pivot(second) if pivoted else second, tell)
    return saga


def bodies(test: SagaTest[State]) -> list[dict[str, object]]:
    events = [effect for effect in test.one.effects if isinstance(effect, PublishEvent)]
    return [from_json(event.body) for event in events if event.step == ""]


def test_a_saga_tells_when_it_has_begun_and_completed() -> None:
    """features: 134"""
    test = SagaTest(told_of()).given(Begun())
    assert test.lifecycle == ["started"]

    test.expect(First).reply(Done()).expect(Second).reply(Done()).expect(Told).expect_status("completed")

    assert test.lifecycle == ["started", "completed"]
    test.expect_nothing()  # they are no events of the author's
    (started, completed) = bodies(test)
    assert {name: started[name] for name in ("name", "version", "key", "status", "reason")} == {
        "name": "order", "version": 2, "key": "k", "status": "running", "reason": None,
    }  # fmt: skip
    assert (completed["status"], completed["attention"]) == ("completed", [])
    assert test.one.instance is not None and completed["saga_id"] == str(test.one.instance.saga_id)
    assert [e.type for e in test.one.effects if isinstance(e, PublishEvent) and not e.step] == [
        "order.started", "order.completed",
    ]  # fmt: skip


def test_each_is_journalled_with_the_step_that_says_it() -> None:
    """features: 134"""
    test = SagaTest(told_of()).given(Begun()).reply(Done()).reply(Done())

    sent = [entry.sent for entry in test.one.journal]
    assert sent == [(1, 2), (3,), (4, 5)]  # the command and `started`; the next; what is emitted and `completed`


def test_a_saga_tells_when_it_is_compensated_or_has_failed() -> None:
    """features: 134"""
    back = SagaTest(told_of()).given(Begun()).expect(First).reply(Done()).expect(Second).reject()
    assert back.lifecycle == ["started"]
    back.expect(UndoFirst).reply(Done())
    assert back.lifecycle == ["started", "compensated"]
    assert bodies(back)[-1]["reason"] == "second was rejected: rejected"

    cancelled = SagaTest(told_of()).given(Begun()).operator("cancel", WHY)
    assert cancelled.lifecycle == ["started", "failed"]
    retried = SagaTest(told_of(compensate=False)).given(Begun()).reject().operator("retry").reject()
    assert retried.lifecycle == ["started", "failed", "failed"]


def test_a_saga_tells_once_that_it_needs_somebody() -> None:
    """features: 134"""
    test = SagaTest(told_of(pivoted=True)).given(Begun()).expect(First).reply(Done()).expect(Second).advance(minutes(1))
    test.expect_attention("no_answer: second")
    assert test.lifecycle == ["started", "needs_attention"]
    assert bodies(test)[-1]["attention"] == ["no_answer: second"]

    test.given(Noted()).given(Noted())
    assert test.lifecycle == ["started", "needs_attention"]
    test.operator("retry").advance(minutes(1))
    assert test.lifecycle == ["started", "needs_attention", "needs_attention"]


def test_a_dead_letter_is_told_of_by_a_step_of_its_own() -> None:
    """features: 134"""
    test = SagaTest(told_of(), tolerant=True).given(Begun()).event(Noted(then="raise")).advance(seconds(60))

    test.expect_attention("dead_letter")
    assert test.lifecycle == ["started", "needs_attention"]
    last = test.one.journal[-1]
    assert (last.input_kind, last.source, last.inbox_id, last.sent) == ("operator", "worker", None, (3,))
    test.operator("delivered", b'{"destination": "x"}').operator("pause").operator("resume")
    assert test.lifecycle == ["started", "needs_attention"]


def test_nothing_is_told_of_a_saga_that_does_not_want_it() -> None:
    """features: 134"""
    test = SagaTest(told_of(lifecycle=False)).given(Begun()).reply(Done()).reply(Done()).expect_status("completed")

    assert test.lifecycle == []


def test_the_promises_hold_for_a_saga_that_tells_of_itself() -> None:
    one = WatchedSaga(told_of(), "k")
    test = SagaTest(told_of(), tolerant=True)
    test._one = one  # the same story, watched
    test.given(Begun()).event(Noted(then="raise")).advance(seconds(40)).expect_attention("dead_letter")
    one.discard()
    test.advance(seconds(1)).expect_attention().reply(Done(), to=First).reply(Done(), to=Second)
    test.expect_status("completed")
