"""Random histories: whatever is answered, repeated, late, lost or broken, no promise is broken at any transaction.

`World` checks after every transaction, and that the saga settles when the faults end. Histories that once broke a
promise are kept at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saga_worker import OnTimeout, Retry, Saga, Undo, days, hours, minutes, seconds
from saga_worker.saga.rows import Role
from tests.saga.scripted import BRANCHES, BROKEN, Begun, Cancel, No, Signal, State, Then, Yes, forked, line, waits
from tests.saga.world import World

SAGAS: dict[str, Saga[State]] = {
    "strict": line(deadline=days(5), retry_q=Retry.fixed(3, seconds(10))),
    "hybrid": line(undo_b=Undo.HYBRID, on_timeout=OnTimeout.CONTINUE, deadline=hours(1)),
    "no pivot": line(undo_b=Undo.NONE, pivoted=False),
    "waits": waits(timeout=hours(30), on_timeout=OnTimeout.CONTINUE),
    "pivot on a wait": waits(pivot_on="wait"),
    "pivot on an event": waits(pivot_on="emit", timeout=hours(30)),
    "fork": forked(),
    "race": forked(join="any"),
    "race without pivot": forked(join="any", pivoted=False),
    "two of three": forked(join=2),
    "loop": forked(looped=True),
    "loop of races": forked(join="any", looped=True),
    "savepoint": forked(marked=True, pivoted=False),
    "savepoint before a race": forked(join="any", marked=True),
}
WANTED = {
    "fork": 3, "race": 1, "race without pivot": 1, "two of three": 2, "savepoint": 3, "savepoint before a race": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    yield
    BROKEN.clear()


@dataclass(frozen=True)
class Event:
    kind: str
    then: Then = "go"
    review: bool = False

    def __call__(self, world: World) -> None:
        match self.kind:
            case "begun":
                world.message(Role.EVENT, Begun(then=self.then, review=self.review))
            case "signal":
                world.message(Role.EVENT, Signal(then=self.then))
            case _:
                world.message(Role.EVENT, Cancel(then=self.then))


@dataclass(frozen=True)
class Answer:
    """To one of the commands that went out, counted from the last."""

    back: int = 0
    is_success: bool = True
    then: Then = "go"

    def __call__(self, world: World) -> None:
        sent = sorted(world.copies)
        if sent:
            answer = Yes(then=self.then) if self.is_success else No(then=self.then)
            world.message(Role.REPLY, answer, seq=sent[-1 - self.back % len(sent)])


@dataclass(frozen=True)
class Redelivered:
    """A message that was stored before comes again, under its old id."""

    back: int

    def __call__(self, world: World) -> None:
        rows = [row for row in world.rows.values() if row.role is not Role.OPERATOR]
        if rows:
            row = rows[-1 - self.back % len(rows)]
            again = world.store(
                row.role, row.type, row.body, message_id=row.message_id, correlation_id=row.correlation_id
            )
            assert again is None


@dataclass(frozen=True)
class Nonsense:
    """A reply to a number that does not exist, or of a type that is none."""

    seq: int

    def __call__(self, world: World) -> None:
        message = Signal() if self.seq % 2 else Yes()
        world.message(Role.REPLY, message, seq=self.seq)


@dataclass(frozen=True)
class Time:
    by: timedelta

    def __call__(self, world: World) -> None:
        is_polled = world.unsent or not world.replies_are_in  # looked at every few seconds: days would take for ever
        world.advance(min(self.by, minutes(10)) if is_polled else self.by)


@dataclass(frozen=True)
class Operator:
    command: str
    step: str = "a"

    def __call__(self, world: World) -> None:
        match self.command:
            case "replay":
                world.replay()
            case "discard":
                world.discard()
            case _:
                world.operator(self.command, self.step)


@dataclass(frozen=True)
class Timer:
    """An operator moves one of the armed timers, perhaps one that was armed anew since."""

    command: str
    which: int
    is_old: bool

    def __call__(self, world: World) -> None:
        armed = sorted(world.instance.progress.timers.items()) if world.instance is not None else []
        if armed:
            name, timer = armed[self.which % len(armed)]
            world.move_timer(self.command, name, timer.epoch - self.is_old)


@dataclass(frozen=True)
class Broken:
    """A maker raises from now on, or (None) all of them work again."""

    maker: str | None

    def __call__(self, world: World) -> None:
        if self.maker is None:
            BROKEN.clear()
        else:
            BROKEN.add(self.maker)


@dataclass(frozen=True)
class Relay:
    runs: bool

    def __call__(self, world: World) -> None:
        world.relay(self.runs)


@dataclass(frozen=True)
class RepliesIn:
    are_in: bool

    def __call__(self, world: World) -> None:
        world.replies_are_in = self.are_in


@dataclass(frozen=True)
class Suspect:
    """The worker died with the last row in hand."""

    crashes: int

    def __call__(self, world: World) -> None:
        ready = world.in_state(0)  # type: ignore[arg-type]  # RowState.READY
        if ready:
            world.suspect(ready[-1], self.crashes)


@dataclass(frozen=True)
class Batched:
    """Stored together with the next act, so that one transaction sees both."""

    act: Act

    def __call__(self, world: World) -> None:
        self.act(world)


Act = Callable[[World], None]
THENS: st.SearchStrategy[Any] = st.sampled_from(
    ["go"] * 18 + ["compensate", "compensate", "complete", "rollback", "rollback", "raise"]
)
CONTROL = ["pause", "pause", "resume", "resume", "compensate", "mark_undone", "cancel"]
SPANS = [0, 5, 10, 61, 61, 61, 80, 80, 3600, 22_000, 90_000, 200_000, 500_000, 1_300_000]
ARRIVALS = st.one_of(
    st.builds(Answer, st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]), st.sampled_from([True, True, True, False]), THENS),
    st.builds(Answer, st.just(0), st.just(True), st.just("go")),
    st.builds(Event, st.sampled_from(["begun", "signal", "signal", "cancel"]), THENS, st.booleans()),
    st.builds(Redelivered, st.integers(0, 5)),
    st.builds(Nonsense, st.integers(0, 6)),
)
FAULTS = st.one_of(
    st.builds(Time, st.sampled_from(SPANS).map(lambda span: timedelta(seconds=span))),
    st.builds(
        Operator, st.sampled_from(["retry", "retry", "recheck", "undeliverable", "delivered", "replay", "discard"])
    ),
    st.builds(Operator, st.sampled_from(CONTROL), st.sampled_from(["a", "b", "c"])),
    st.builds(Timer, st.sampled_from(["fire", "move", "cancel"]), st.integers(0, 4), st.booleans()),
    st.builds(Broken, st.sampled_from([None, None, "undo_a", "undo_b", "undo_c", "b", "p", "told", "remind", "fixed"])),
    st.builds(Relay, st.booleans()),
    st.builds(RepliesIn, st.booleans()),
)
BATCHED = st.one_of(st.builds(Batched, ARRIVALS), st.builds(Suspect, st.integers(0, 2)))
ACTS = st.one_of(ARRIVALS, ARRIVALS, FAULTS, BATCHED)
TURNS = st.sampled_from([Event("cancel", "compensate"), Answer(0, False, "compensate"), Time(minutes(4))])
WAY_BACK = st.one_of(
    st.builds(Answer, st.sampled_from([0, 0, 0, 1, 2]), st.booleans(), st.just("go")),
    st.builds(Time, st.sampled_from([timedelta(seconds=span) for span in (5, 5, 61, 80, 300, 1_300_000)])),
    st.builds(Operator, st.sampled_from(["retry", "replay", "discard"])),
    st.builds(Operator, st.sampled_from(CONTROL), st.sampled_from(["a", "b", "c"])),
    ACTS,
)
PLAIN = st.integers(0, 5).map(lambda count: [Answer()] * count)
THERE = st.builds(lambda plain, acts: plain + acts, PLAIN, st.lists(ACTS, min_size=3, max_size=40))
AND_BACK = st.builds(
    lambda plain, turn, acts: [*plain, turn, *acts], PLAIN, TURNS, st.lists(WAY_BACK, min_size=3, max_size=25)
)
HISTORIES = st.one_of(THERE, AND_BACK)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]  # other runs share the machine


def play(name: str, history: list[Act], *, starts: bool = True) -> World:
    BROKEN.clear()
    world = World(SAGAS[name], BRANCHES if name in WANTED else None, WANTED.get(name, 3))
    if starts:
        history = [Event("begun", review=len(history) % 2 == 0), *history]
    for act in history:
        act(world)
        if not isinstance(act, Batched | Suspect):
            world.drain()
    world.drain()
    world.settle_down()
    return world


@settings(max_examples=1000, deadline=None, suppress_health_check=SLOW, print_blob=True)
@given(name=st.sampled_from(sorted(SAGAS)), history=HISTORIES, starts=st.sampled_from([True, True, True, False]))
def test_no_history_breaks_a_promise(name: str, history: list[Act], starts: bool) -> None:
    play(name, history, starts=starts)


YES, NO, REFUSED = Answer(), Answer(is_success=False, then="compensate"), Answer(is_success=False)
CANCEL, MINUTES = Event("cancel", "compensate"), Time(minutes(4))
KEPT: dict[str, tuple[str, list[Act]]] = {
    "a late rejection while its undo stands on the attention list": (
        "strict", [CANCEL, REFUSED, Time(seconds(5)), REFUSED, Answer(2, False)],
    ),
    "a late rejection while its undo is in flight, which is refused then": (
        "strict", [CANCEL, Answer(1, False), REFUSED],
    ),
    "a refusal of an undo that silence had given up, while an older one is in flight": (
        "hybrid", [YES, YES, NO, Time(hours(1)), Answer(1, False)],
    ),
    "a success of a strict step after the end, whose undo fails": (
        "strict", [YES, Time(seconds(61)), YES, Answer(1), REFUSED, Time(seconds(5)), REFUSED],
    ),
    "an undo that cannot be made, and a reply that makes it needless": (
        "strict", [YES, Broken("undo_a"), Time(minutes(2)), YES],
    ),
    "a start behind a discarded start": (
        "strict", [Event("begun", "raise"), Time(minutes(1)), Event("begun"), Operator("discard")],
    ),
    "a parked event that raises, and one behind it": (
        "strict", [Event("cancel", "raise"), Event("cancel"), Event("begun"), Time(minutes(1)), Operator("discard")],
    ),
    "a reply to a number that is issued later, replayed then": (
        "hybrid", [YES, Nonsense(4), YES, YES, Operator("replay")],
    ),
    "a late success of a strict step while an older undo is sent again": (
        "strict", [YES, CANCEL, Time(seconds(61)), Batched(Answer(1)), Time(seconds(5))],
    ),
    "an expired wait past the pivot": ("pivot on an event", [Event("begun"), YES, Time(hours(31)), Operator("retry")]),
    "a suspect that killed its workers, with events behind it": (
        "strict", [Batched(Event("cancel")), Suspect(2), Event("cancel"), Operator("replay")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
def test_a_history_that_once_broke_a_promise_keeps_it(kept: str) -> None:
    name, history = KEPT[kept]

    play(name, history, starts="start" not in kept and "parked" not in kept)
