"""A definition that was checked cannot be changed: sagas may run by it. And what is no function is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import (
    Activity,
    ActivityContext,
    Command,
    DefinitionError,
    Event,
    Message,
    Saga,
    UndoOf,
    Verdict,
    activity,
    days,
    minutes,
    seconds,
    when,
)


class Begun(Event):
    key: str


class Ended(Event):
    key: str


class Held(Message):
    room: str


class Hold(Command[Held]):
    key: str


class Free(UndoOf[Hold]):
    key: str


class State(BaseModel):
    key: str


class In(BaseModel):
    key: str


class Out(BaseModel): ...


class Work(Activity[In, Out], timeout=seconds(5)):
    async def execute(self, inp: In) -> Out:
        return Out()


async def ask(state: State, ctx: ActivityContext) -> Out:
    return Out()


async def work(inp: In) -> Out:
    return Out()


async def work_back(inp: In, out: Out) -> None: ...


async def ask_back(state: State, ctx: ActivityContext) -> None: ...


async def note(state: State, session: Any) -> Verdict:
    return None


class Whole:
    """One of each kind of step, checked."""

    def __init__(self) -> None:
        self.saga = saga = Saga("whole", state=State, deadline=days(1))
        self.begun = saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
        self.hold = saga.command("hotel", timeout=minutes(1), name="hold")(hold)
        self.hold.reply(lambda state, reply: None)
        self.ask = saga.activity(timeout=seconds(5))(ask)
        self.note = saga.local(note)
        self.made = activity(work, timeout=seconds(5))
        self.placed = saga.step(self.made, input=lambda state: In(key=state.key))
        self.wait = saga.wait("wait")
        self.wait.on(Ended, key=lambda e: e.key)(lambda state, event: None)
        saga.flow(self.hold, self.ask, self.note, self.placed, self.wait)


def hold(state: State) -> Hold:
    return Hold(key=state.key)


def free(state: State) -> Free:
    return Free(key=state.key)


def late(state: State, message: Any) -> Verdict:
    return None


CHANGES: dict[str, Callable[[Whole], Any]] = {
    "a start": lambda w: w.saga.starts_on(Ended, key=lambda e: e.key)(lambda event: State(key="")),
    "a handler": lambda w: w.saga.on(Ended, key=lambda e: e.key)(late),
    "a command": lambda w: w.saga.command("x", timeout=minutes(1), name="late")(hold),
    "an activity": lambda w: w.saga.activity(timeout=minutes(1), name="late")(ask),
    "a reusable step": lambda w: w.saga.step(Work(), input=lambda state: In(key="")),
    "a local step": lambda w: w.saga.local(name="late")(note),
    "a wait": lambda w: w.saga.wait("late"),
    "a sleep": lambda w: w.saga.sleep("late", seconds(1)),
    "a savepoint": lambda w: w.saga.savepoint("late"),
    "an emit": lambda w: w.saga.emit(name="late")(ended),
    "a query": lambda w: w.saga.query(name="late")(show),
    "another flow": lambda w: w.saga.flow(w.hold),
    "an arm": lambda w: w.wait.on(Begun, key=lambda e: e.key)(late),
    "a reminder": lambda w: w.wait.every(days(1), times=1)(ended),
    "a rejection handler": lambda w: w.hold.rejected(late),
    "an undo of a command": lambda w: w.hold.undo(free),
    "a result handler": lambda w: w.ask.result(late),
    "a failure handler": lambda w: w.placed.failed(late),
    "an undo of an activity": lambda w: w.ask.undo(ask_back),
    "an undo of a local step": lambda w: w.note.undo(note),  # type: ignore[arg-type]
    "an undo of a reusable step": lambda w: w.made.undo(work_back),
    "an attribute": lambda w: setattr(w.saga, "deadline", days(2)),
    "an attribute of a step": lambda w: setattr(w.hold, "timeout", days(2)),
    "its name": lambda w: setattr(w.saga, "name", "other"),
}


def show(state: State) -> Out:
    return Out()


def ended(state: State) -> Ended:
    return Ended(key=state.key)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_checked_cannot_be_changed(change: str) -> None:
    """features: 8"""
    whole = Whole()
    whole.saga.check()

    with pytest.raises(DefinitionError, match=rf"{__file__}:\d+: .*(cannot be changed;|declare its undo before)"):
        CHANGES[change](whole)
    assert list(whole.saga.steps) == ["hold", "ask", "note", "work", "wait"]
    whole.saga.check()


def test_before_that_it_may_be_changed() -> None:
    """features: 8"""
    whole = Whole()
    whole.hold.undo(free)
    whole.ask.failed(late)
    whole.saga.check()
    assert whole.hold.has_undo


def test_one_that_did_not_pass_is_not_frozen() -> None:
    """features: 8"""
    saga = Saga("mended", state=State)
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
    with pytest.raises(DefinitionError, match="no steps"):
        saga.check()
    saga.flow(saga.sleep("a while", seconds(1)))
    saga.check()


# -- what is no function --------------------------------------------------------------------------------------------

NO_FUNCTION: Any = "a name"
WRONG: dict[str, Callable[[Saga[State]], Any]] = {
    "a start": lambda s: s.starts_on(Begun, key=lambda e: e.key)(NO_FUNCTION),
    "a handler": lambda s: s.on(Begun, key=lambda e: e.key)(NO_FUNCTION),
    "a maker": lambda s: s.command("x", timeout=minutes(1), name="x")(NO_FUNCTION),
    "an emit": lambda s: s.emit(name="x")(NO_FUNCTION),
    "an activity": lambda s: s.activity(timeout=minutes(1), name="x")(NO_FUNCTION),
    "a local step": lambda s: s.local(name="x")(NO_FUNCTION),
    "a reusable activity": lambda s: activity(NO_FUNCTION),
    "what a step is made of": lambda s: s.step(NO_FUNCTION, input=lambda state: In(key="")),
    "an input map": lambda s: s.step(Work(), input=NO_FUNCTION),
    "a result handler": lambda s: s.step(Work(), input=lambda state: In(key=""), result=NO_FUNCTION),
    "an undo": lambda s: s.activity(timeout=minutes(1))(ask).undo(NO_FUNCTION),
    "a reply handler": lambda s: s.command("x", timeout=minutes(1))(hold).reply(NO_FUNCTION),
    "a key": lambda s: s.on(Begun, key=NO_FUNCTION)(late),
    "a test": lambda s: s.flow(when(NO_FUNCTION, s.sleep("x", seconds(1)))),
    "an arm": lambda s: s.wait("x").on(Begun, key=lambda e: e.key)(NO_FUNCTION),
    "a reminder": lambda s: s.wait("x").every(days(1), times=1)(NO_FUNCTION),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_function_is_refused_where_it_stands(what: str) -> None:
    """features: 16"""
    saga = Saga("wrong", state=State)

    with pytest.raises(DefinitionError, match=rf"{__file__}:\d+: "):
        WRONG[what](saga)
