"""Defects of earlier systems (docs/defects.md) that no other test of this folder is about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga_worker import minutes, seconds
from saga_worker.testing import SagaTest
from tests.saga.scripted import BROKEN, Begun, Cancel, DoA, DoB, No, Signal, UndoA, Yes, line


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    yield
    BROKEN.clear()


def test_what_was_asked_is_not_asked_again_when_the_next_function_raises() -> None:
    """features: M4"""
    saga = SagaTest(line(), tolerant=True).given(Begun()).expect(DoA)
    BROKEN.add("b")
    saga.reply(Yes()).advance(minutes(60))

    assert saga.outcome == "waiting to be tried again"
    assert [type(sent) for sent in saga.sent] == [DoA]
    assert saga.attention == ("dead_letter",)

    BROKEN.clear()
    saga.one.replay()
    saga.advance(seconds(0))
    saga.expect(DoB).expect_nothing().expect_attention()


def test_an_event_leaves_a_retrys_pause_alone() -> None:
    """features: M9"""
    saga = SagaTest(line()).given(Begun()).expect(DoA).advance(minutes(1))
    assert saga.one.instance is not None
    paused = saga.one.instance.progress.timers
    assert list(paused) == ["resend:1"]

    saga.event(Cancel(then="go")).expect_outcome("applied").expect_nothing()

    assert saga.one.instance.progress.timers == paused
    saga.advance(seconds(10)).expect(DoA).expect_nothing()


def test_what_is_over_is_not_ended_once_more() -> None:
    """features: M16"""
    saga = SagaTest(line(pivoted=False)).given(Begun())
    for _ in range(4):
        saga.reply(Yes())
    saga.expect_status("completed")
    for command in ("cancel", "compensate", "pause"):
        saga.operator(command, b'{"why": "too late"}').expect_outcome("ignored: saga_finished")

    assert saga.status == "completed" and saga.reason is None


def test_what_is_refused_or_ignored_leaves_no_trace_in_the_saga() -> None:
    """features: M18"""
    saga = SagaTest(line(), tolerant=True).given(Begun())
    before = saga.one.instance
    for number in range(300):
        saga.event(Signal() if number % 3 else Begun())

    assert saga.one.instance == before


def test_the_cause_stays_when_the_way_back_fails() -> None:
    """features: M36"""
    saga = SagaTest(line(), tolerant=True).given(Begun()).reply(Yes()).reply(Yes()).reject(No())
    cause = saga.reason
    assert cause == "do_p was rejected: no"
    for _ in range(4):
        saga.reject(No()).advance(minutes(1))

    assert saga.reason == cause
    assert {entry.partition(": ")[0] for entry in saga.attention} == {"undo_failed"}
    assert UndoA in {type(sent) for sent in saga.sent}
