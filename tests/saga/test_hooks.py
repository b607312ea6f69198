"""What is said to hooks about one transaction: which steps were executed, failed, are taken back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga_worker import clear_hooks, days, minutes, register_hooks, seconds
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.hooks import CompensationContext, StepContext, any_hooks, calls, happened
from saga_worker.testing import SagaTest
from saga_worker.testing.one_saga import OneSaga
from tests.saga.scripted import Begun, DoA, DoB, DoP, DoQ, No, State, UndoA, UndoB, Yes, line
from tests.saga.test_modes import Begun as ForwardBegun
from tests.saga.test_modes import forward_only
from tests.saga.test_own_work import Story

WHY = b'{"why": "by hand"}'


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, transaction by transaction, as `hook step attempt`."""
    words: list[str] = []
    save = OneSaga._save

    def saved(one: OneSaga, change: SagaChange) -> None:
        save(one, change)
        words.extend(f"{hook.value} {context.step} {context.attempt}" for hook, context in happened(change))

    monkeypatch.setattr(OneSaga, "_save", saved)
    return words


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    clear_hooks()


def test_steps_that_are_executed_fail_and_are_taken_back_are_told_once_each(said: list[str]) -> None:
    """features: 133"""
    test = SagaTest(line(pivoted=False)).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes())
    assert said == ["step_executed a 1", "step_executed b 1"]
    said.clear()

    test.expect(DoP).reject(No()).expect(UndoB).reply(Yes(), to=UndoB).expect(UndoA).reply(Yes(), to=UndoA)

    assert said == [
        "step_failed p 1", "compensation_triggered b 1",
        "compensation_completed b 1", "compensation_triggered a 1",
        "compensation_completed a 1",
    ]  # fmt: skip


def test_what_several_rows_of_one_transaction_did_is_told_in_order(said: list[str]) -> None:
    """features: 133"""
    test = SagaTest(line()).given(Begun()).operator("pause").expect(DoA).reply(Yes()).operator("resume")
    test.expect(DoB)

    assert said == ["step_executed a 1"]


def test_silence_is_a_failure_when_no_try_is_left(said: list[str]) -> None:
    """features: 133"""
    test = SagaTest(line(pivoted=True)).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).advance(minutes(1))
    assert said == ["step_executed a 1", "step_failed b 1", "compensation_triggered a 1"]
    test.late_reply(Yes(), to=DoB)
    assert said[-1] == "step_executed b 1"  # after all; its undo goes out when its turn comes
    said.clear()

    past = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).reply(Yes()).expect(DoP).reply(Yes())
    said.clear()
    past.expect(DoQ).advance(minutes(1)).expect_attention("no_answer: q").advance(days(1))
    assert said == ["step_failed q 1"]

    said.clear()
    failed = SagaTest(forward_only()).given(ForwardBegun()).advance(minutes(3)).expect_status("failed")
    assert said == ["step_failed first 2"]
    failed.operator("retry").advance(minutes(3)).expect_status("failed")
    assert said == ["step_failed first 2", "step_failed first 3"]


def test_refused_undos_count_their_tries(said: list[str]) -> None:
    """features: 133"""
    test = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).expect(DoB).operator("compensate", WHY)
    test.expect(UndoA).reject(No()).advance(seconds(5)).expect(UndoA).reply(Yes(), to=UndoA)

    assert [word for word in said if "compensation" in word] == [
        "compensation_triggered a 1", "compensation_completed a 2",
    ]  # fmt: skip
    said.clear()
    marked = SagaTest(line()).given(Begun()).expect(DoA).reply(Yes()).operator("mark_undone", b'{"step": "a"}')
    assert said[-1] == "compensation_completed a 0" and marked.status == "running"


def test_activities_and_local_steps_are_told_of(said: list[str]) -> None:
    """features: 133"""
    Story().shelved().fail("broken", terminal=True)

    assert said[:3] == ["step_executed weigh 1", "step_executed shelve 1", "step_failed hand_over 1"]
    said.clear()
    Story(pivoted=True).shelved().fail("nobody knows", lost=True)
    assert said[-1] == "step_failed hand_over 1"


def test_hooks_get_who_and_why() -> None:
    """features: 133"""
    told: list[object] = []
    register_hooks(step_executed=told.append, step_failed=told.append, compensation_triggered=told.append)
    assert any_hooks()
    test: SagaTest[State] = SagaTest(line(pivoted=False)).given(Begun()).expect(DoA).reply(Yes()).expect(DoB)
    before = test.one.instance
    test.reject(No())
    assert before is not None
    for _, function, context in calls(SagaChange(ref=before.ref, before=before, after=test.one.instance)):
        function(context)

    saga = (before.saga_id, "line", "k")
    assert told == [
        StepContext(*saga, "b", 1, "do_b was rejected: no"),
        CompensationContext(*saga, "a", 1, "do_b was rejected: no"),
    ]
    clear_hooks()
    assert not any_hooks()


def test_an_async_function_is_no_hook() -> None:
    async def later(context: StepContext) -> None: ...

    with pytest.raises(TypeError, match="async function"):
        register_hooks(step_executed=later)
    assert not any_hooks()
