"""Random histories of reusable activities that wait, fail in part, get lost and come late: what they did is taken back
once, with what was recorded of it, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker import Activity, Compensate, Event, Saga, WaitFor, days, parallel, seconds
from saga_worker.saga.inputs import (
    ACTIVITY_DONE,
    ACTIVITY_FAILED,
    ACTIVITY_LOST,
    ACTIVITY_PARTIAL,
    ACTIVITY_WAITS,
    CancelActivity,
    RunActivity,
)
from saga_worker.saga.placed import PlacedStep
from saga_worker.testing import SagaTest


class Begun(Event):
    key: str = "k"


class Signal(Event):
    key: str = "k"


class Stopped(Event):
    key: str = "k"


class State(BaseModel):
    key: str
    done: int = 0


class In(BaseModel):
    step: str


class Out(BaseModel):
    mark: str


class Strict(Activity[In, Out], timeout=seconds(5)):
    async def execute(self, inp: In, event: Signal | None = None) -> Out | WaitFor:
        raise AssertionError("the core runs nothing")

    async def compensate(self, inp: In, out: Out) -> None: ...


class Hybrid(Strict):
    async def compensate(self, inp: In, out: Out | None) -> None: ...


class Plain(Activity[In, Out], timeout=seconds(5)):
    """Nothing takes it back."""

    async def execute(self, inp: In) -> Out:
        raise AssertionError("the core runs nothing")


def story(*, races: bool) -> Saga[State]:
    saga = Saga("story", state=State, deadline=days(2))
    saga.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
    saga.on(Stopped, key=lambda e: e.key)(lambda state, event: Compensate("stopped"))

    def step(name: str, work: Activity[In, Out]) -> PlacedStep[State, In, Out]:
        placed = saga.step(work, input=lambda state: In(step=name), name=name)
        if placed.activity.execute_shape.may_wait:
            placed.resumes_on(Signal, key=lambda e: e.key)
        return placed

    first, strict, hybrid = step("first", Strict()), step("strict", Strict()), step("hybrid", Hybrid())
    last = saga.step(Plain(), after=first, input=lambda out: In(step=out.mark), name="last")
    saga.flow(first, parallel(strict, hybrid, join="any") if races else parallel(strict, hybrid), last)
    return saga


RUNNING, GIVEN_UP, CANCELLED = "running", "given up", "cancelled"


class World:
    """Does what activities do outside, and tells the saga as a worker would."""

    def __init__(self, saga: Saga[State]) -> None:
        self.told = SagaTest(saga).given(Begun())
        self.seen = 0
        self.attempts: dict[int, tuple[RunActivity, str]] = {}  # by seq, with how it stands
        self.standing: dict[int, str | None] = {}  # seq of a forward entry that has an effect -> what it said of it
        self.undone: list[int] = []
        self.events = 0
        self.look()

    def look(self) -> None:
        for effect in self.told.one.effects[self.seen :]:
            if isinstance(effect, RunActivity):
                self.attempts[effect.seq] = (effect, RUNNING)
                if effect.undoes is not None:
                    self.check_undo(effect)
            elif isinstance(effect, CancelActivity) and effect.seq in self.attempts:
                run, how = self.attempts[effect.seq]
                self.attempts[effect.seq] = (run, CANCELLED if how == RUNNING else how)
        self.seen = len(self.told.one.effects)

    def check_undo(self, effect: RunActivity) -> None:
        """It gets the input of its own step, and what was said of what it takes back."""
        assert effect.undoes is not None
        stored = from_json(effect.input)
        assert stored["input"] == {"step": effect.step}
        said = self.chain(effect.undoes)
        marks = [self.standing[seq] for seq in said if self.standing.get(seq) is not None]
        given = stored.get("output", {}).get("mark")
        if effect.step != "hybrid":
            assert marks, "a strict one is taken back only for what was done"
        assert given == (marks[-1] if marks else None), f"{effect} is told {given}, but was done {marks}"

    def chain(self, seq: int) -> list[int]:
        """The entries of this step up to this one, in this saga each step has one turn."""
        step = self.attempts[seq][0].step
        return [n for n, (run, _) in self.attempts.items() if run.step == step and run.undoes is None and n <= seq]

    def end(self, seq: int, outcome: str, body: Any) -> None:
        run, _ = self.attempts[seq]
        self.told._end_activity(run, outcome, to_json(body), outcome)
        self.look()

    def act(self, what: int, which: int, flag: bool) -> None:
        running = [seq for seq, (_, how) in self.attempts.items() if how == RUNNING]
        actions: list[Callable[[], object]] = [
            self.signal,
            lambda: self.told.advance(seconds(30)),
            lambda: self.told.advance(days(3)),
            lambda: self.told.operator("retry"),
            lambda: self.told.event(Stopped()),
            lambda: self.late(which),
        ]
        if what < 10 and running:
            self.finish(running[which % len(running)], what, flag)
        else:
            actions[what % len(actions)]()
        self.look()

    def signal(self) -> None:
        self.events += 1
        self.told.event(Signal())

    def late(self, which: int) -> None:
        """One that was given up, or cancelled, ends; it is heard of if it has worked."""
        ended = [seq for seq, (_, how) in self.attempts.items() if how in (GIVEN_UP, CANCELLED)]
        if not ended:
            return
        seq = ended[which % len(ended)]
        run, how = self.attempts.pop(seq)
        self.attempts[seq] = (run, "over")
        if how == CANCELLED and which % 2:
            self.standing[seq] = f"late {seq}"
        if seq in self.standing:
            self.standing[seq] = f"late {seq}"
            self.end(seq, ACTIVITY_DONE, {"mark": f"late {seq}"})
            self.attempts[seq] = (run, "over")

    def finish(self, seq: int, what: int, flag: bool) -> None:
        run, _ = self.attempts[seq]
        self.attempts[seq] = (run, "over")
        if run.undoes is not None:
            return self.finish_undo(run, what)
        details = {"error": "no", "attempts": 1, "is_terminal": True}
        may_wait = run.step != "last"
        mark = {"mark": f"mark {seq}"}
        if what in (0, 1, 2, 3):
            self.standing[seq] = f"mark {seq}"
            self.end(seq, ACTIVITY_DONE, mark)
        elif what in (4, 5) and may_wait:
            if flag:
                self.standing[seq] = f"mark {seq}"
            elif run.step == "hybrid":
                self.standing[seq] = None
            self.end(seq, ACTIVITY_WAITS, {"types": ["signal"], "timeout": 3600.0, "so_far": mark if flag else None})
        elif what == 6:
            self.standing[seq] = f"mark {seq}"
            self.end(seq, ACTIVITY_PARTIAL, details | {"partial": mark})
        elif what == 7:
            if flag:
                self.standing[seq] = None  # it has worked, and nobody knows
            self.attempts[seq] = (run, GIVEN_UP)
            self.end(seq, ACTIVITY_LOST, details | {"is_terminal": False})
        else:
            self.end(seq, ACTIVITY_FAILED, details)
        return None

    def finish_undo(self, run: RunActivity, what: int) -> None:
        assert run.undoes is not None
        if self.attempts[run.undoes][1] == CANCELLED:  # it waits until that has ended
            self.attempts[run.undoes] = (self.attempts[run.undoes][0], "over")
        if what in (7, 8):
            self.end(run.seq, ACTIVITY_LOST, {"error": "no", "attempts": 5, "is_terminal": False})
            return
        assert run.undoes not in self.undone, f"{run} is taken back twice"
        self.undone.append(run.undoes)
        for seq in self.chain(run.undoes):
            self.standing.pop(seq, None)
        self.end(run.seq, ACTIVITY_DONE, {})

    def settle(self) -> None:
        """Everything works from now on."""
        for _ in range(60):
            running = [seq for seq, (_, how) in self.attempts.items() if how == RUNNING]
            if running:
                self.finish(running[0], 0, flag=True)
            elif self.told.status == "waiting":
                self.signal()
            elif any(how in (GIVEN_UP, CANCELLED) for _, how in self.attempts.values()):
                self.late(0)
            else:
                self.told.operator("retry")
            self.look()
        self.check_end()

    def check_end(self) -> None:
        told = self.told
        assert told.one.instance is not None and told.one.instance.status.is_final, told.status
        left = {seq: self.attempts[seq][0].step for seq in self.standing}
        with_undo = {seq for seq, step in left.items() if step != "last"}
        if told.status == "compensated" and told.unsettled == 0:
            assert not with_undo, f"what {left} did stands"
        if told.status == "completed":
            assert "last" in left.values() and "first" in left.values(), "what was done is gone"
        if told.unsettled == 0 and not told.attention:
            recorded = told.one.instance.progress.recorded
            assert recorded is UNSET, "what nobody can ask for is kept"


SAGAS = {races: story(races=races) for races in (False, True)}
ACTS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 5), st.booleans()), max_size=25)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW, print_blob=True)
@given(races=st.booleans(), acts=ACTS)
def test_what_reusable_activities_did_is_taken_back_once_with_what_was_recorded(
    races: bool, acts: list[tuple[int, int, bool]]
) -> None:
    """features: 3, 39; L1, L2"""
    world = World(SAGAS[races])
    for act in acts:
        world.act(*act)
    world.settle()
