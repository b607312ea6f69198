"""Retries that are bounded by time: of commands and local steps, forward and back; in virtual time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec import UNSET
from pydantic import BaseModel

from saga_worker import Command, Done, Event, Retry, Saga, UndoOf, Verdict, minutes, pivot, seconds
from saga_worker.testing import SagaTest


class Begun(Event):
    key: str = "k"


class Hold(Command):
    key: str


class Free(UndoOf[Hold]):
    key: str


class Ship(Command):
    key: str


class State(BaseModel):
    key: str


BOUNDED = Retry.fixed(None, seconds(10), within=minutes(1), spread=0)  # tries begin 20 s after each other
COUNTED = Retry.fixed(2, seconds(10), within=minutes(1), spread=0)


def story(*, retry: Retry = BOUNDED, undo_retry: Retry = BOUNDED, pivoted: bool = False) -> SagaTest[State]:
    """Hold (undone), ship; each waits ten seconds for its answer."""
    saga = Saga("story", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))

    @saga.command("hotel", timeout=seconds(10), retry=retry, undo_retry=undo_retry)
    def hold(state: State) -> Hold:
        return Hold(key=state.key)

    @hold.undo
    def free(state: State) -> Free:
        return Free(key=state.key)

    @saga.command("carrier", timeout=seconds(10), retry=retry)
    def ship(state: State) -> Ship:
        return Ship(key=state.key)

    saga.flow(pivot(hold) if pivoted else hold, ship)
    return SagaTest(saga).given(Begun())


def sent_at(told: SagaTest[State], model: type[Command[Any, Any]], *, until: timedelta) -> list[float]:
    """In which seconds from now on a command of this class goes out."""
    start, found, seen = told.one.now, [], len(told.sent)
    while told.one.now < start + until:
        told.advance(seconds(1))
        found += [(told.one.now - start).total_seconds() for m in told.sent[seen:] if isinstance(m, model)]
        seen = len(told.sent)
    return found


def begun(told: SagaTest[State]) -> object:
    assert told.one.instance is not None
    return told.one.instance.progress.begun


def test_a_silent_command_is_sent_again_for_some_time_only() -> None:
    """features: 30"""
    told = story().expect(Hold)
    assert sent_at(told, Hold, until=seconds(69)) == [20, 40, 60]
    told.expect_status("running").advance(seconds(1)).expect_status("compensating")
    assert told.reason == "no answer to hold in time"


def test_the_number_of_tries_may_be_used_up_first() -> None:
    """features: 30"""
    told = story(retry=COUNTED)
    assert sent_at(told, Hold, until=seconds(29)) == [20]
    told.advance(seconds(1)).expect_status("compensating")


def test_a_silent_undo_is_sent_again_for_some_time_only() -> None:
    """features: 30, 32"""
    told = story().reply(Done(), to=Hold).reject(to=Ship).expect_status("compensating")
    assert sent_at(told, Free, until=minutes(3)) == [20, 40, 60]
    told.expect_attention("undo_failed: hold").operator("retry").expect_attention()
    assert sent_at(told, Free, until=minutes(3)) == [20, 40, 60]
    told.expect_attention("undo_failed: hold")


def test_a_refused_undo_is_tried_again_for_some_time_only() -> None:
    """features: 30, 33"""
    told = story().reply(Done(), to=Hold).reject(to=Ship)
    tries = 0
    while not told.attention:
        tries += 1
        told.reject(to=Free).advance(seconds(10))
    assert tries == 7  # ten seconds between them: the last begins after a minute
    told.operator("retry").reject(to=Free).expect_attention().advance(seconds(10)).reply(Done(), to=Free)
    told.expect_status("compensated")
    assert begun(told) is UNSET


def test_past_the_pivot_a_rejected_command_is_tried_again_for_some_time_only() -> None:
    """features: 30"""
    told = story(pivoted=True).reply(Done(), to=Hold)
    tries = 0
    while not told.attention:
        tries += 1
        told.reject(to=Ship).advance(seconds(10))
    told.expect_attention("rejected_after_pivot: ship")
    assert tries == 7


def test_nothing_of_it_is_left_when_the_step_is_over() -> None:
    told = story()
    assert begun(told) == {"step:hold": told.one.now}
    told.reply(Done(), to=Hold)
    assert begun(told) == {"step:ship": told.one.now}
    told.reply(Done(), to=Ship).expect_status("completed")
    assert begun(told) is UNSET


def test_a_local_step_is_tried_again_for_some_time_only() -> None:
    """features: 30"""
    saga = Saga("story", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))

    @saga.local(retry=BOUNDED)
    async def note(state: State, session: Any) -> Verdict:
        raise AssertionError("the core runs nothing")

    saga.flow(note)
    told = SagaTest(saga).given(Begun())
    tries = 0
    while not told.attention:
        tries += 1
        told.local_fails().advance(seconds(10))
    assert tries == 7
    told.operator("retry").local_fails().expect_attention().advance(seconds(10)).local().expect_status("completed")
