"""What may happen to a saga: the acts that random histories are made of, and how often each comes.

An act is called with the world it happens in. Hands the strategies to the tests that play histories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from hypothesis import strategies as st

from saga_worker import minutes
from saga_worker.saga.inputs import ACTIVITY_FAILED, ACTIVITY_LOST, COMPENSATED, COMPLETED, FAILED, REFUSED, RunActivity
from saga_worker.saga.rows import Role, RowState
from tests.saga.scripted import BROKEN, LOCALS, Begun, Cancel, No, Out, Signal, Then, Yes
from tests.saga.world import World


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
    """To one of the commands and activities that were asked for, counted from the last."""

    back: int = 0
    is_success: bool = True
    then: Then = "go"
    is_lost: bool = False  # of an activity that failed: nobody knows

    def __call__(self, world: World) -> None:
        asked = sorted(world.asked)
        if not asked:
            return
        seq = asked[-1 - self.back % len(asked)]
        if not isinstance(world.asked[seq], RunActivity):
            world.answer(seq, Yes(then=self.then) if self.is_success else No(then=self.then))
        elif self.is_success:
            world.answer(seq, Out(then=self.then))
        else:
            world.answer(seq, Out(then=self.then), outcome=ACTIVITY_LOST if self.is_lost else ACTIVITY_FAILED)


@dataclass(frozen=True)
class ChildEnds:
    """One of the children that have not ended, or of those that were asked to go back and have not said so."""

    back: int = 0
    outcome: str = COMPLETED
    then: Then = "go"

    def __call__(self, world: World) -> None:
        if children := world.children():
            world.child_ends(children[-1 - self.back % len(children)], self.outcome, self.then)


@dataclass(frozen=True)
class Redelivered:
    """A message that was stored before comes again, under its old id."""

    back: int

    def __call__(self, world: World) -> None:
        rows = [row for row in world.rows.values() if row.role not in (Role.OPERATOR, Role.CHILD)]
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
class NextLocal:
    """How the next local step ends."""

    then: Then

    def __call__(self, world: World) -> None:
        LOCALS.append(self.then)


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
        ready = world.in_state(RowState.READY)
        if ready:
            world.suspect(ready[-1], self.crashes)


@dataclass(frozen=True)
class Batched:
    """Stored together with the next act, so that one transaction sees both."""

    act: Act

    def __call__(self, world: World) -> None:
        self.act(world)


@dataclass(frozen=True)
class Slow:
    """Local steps whose turn it is have to wait for the next act."""

    act: Act

    def __call__(self, world: World) -> None:
        self.act(world)


Act = Callable[[World], None]
HELD_UP: Final = (Batched, Suspect)  # acts after which nothing is applied yet
THENS: Final[st.SearchStrategy[Any]] = st.sampled_from(
    ["go"] * 18 + ["compensate", "compensate", "complete", "rollback", "rollback", "raise"]
)
CONTROL: Final = ["pause", "pause", "resume", "resume", "compensate", "mark_undone", "cancel"]
SPANS: Final = [0, 5, 10, 61, 61, 61, 80, 80, 3600, 22_000, 90_000, 200_000, 500_000, 1_300_000]
MAKERS: Final = ("a", "undo_a", "undo_b", "undo_c", "b", "c", "p", "told", "remind")
ARRIVALS: Final = st.one_of(
    st.builds(
        Answer, st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]), st.sampled_from([True, True, True, False]), THENS,
        st.booleans(),
    ),
    st.builds(Answer, st.just(0), st.just(True), st.just("go")),
    st.builds(Event, st.sampled_from(["begun", "signal", "signal", "cancel"]), THENS, st.booleans()),
    st.builds(Redelivered, st.integers(0, 5)),
    st.builds(Nonsense, st.integers(0, 6)),
)  # fmt: skip
CHILD_ENDS: Final[st.SearchStrategy[Any]] = st.builds(
    ChildEnds, st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.sampled_from([COMPLETED, COMPLETED, COMPLETED, COMPENSATED, COMPENSATED, FAILED, REFUSED]), THENS,
)  # fmt: skip
LOCAL_ENDS: Final[st.SearchStrategy[Any]] = st.builds(
    NextLocal, st.sampled_from(["go", "raise", "raise", "terminal", "compensate", "rollback", "complete"])
)
TURNS: Final = st.sampled_from([Event("cancel", "compensate"), Answer(0, False, "compensate"), Time(minutes(4))])
PLAIN: Final = st.integers(0, 5).map(lambda count: [Answer()] * count)


def histories(
    makers: Sequence[str] = MAKERS, *, own_work: bool = False, crashes: bool = True,
    more_control: Sequence[str] = (), children: bool = False,
) -> Any:  # fmt: skip
    """Lists of acts: some go on and are disturbed, some turn back and are disturbed on the way.

    `makers`: those that may be broken; `own_work`: the definitions have activities and local steps; `crashes`: rows
    may be suspects.
    """
    control = st.builds(
        Operator, st.sampled_from([*CONTROL, *more_control]), st.sampled_from([m for m in makers if " " not in m])
    )
    faults = st.one_of(
        st.builds(Time, st.sampled_from(SPANS).map(lambda span: timedelta(seconds=span))),
        st.builds(
            Operator, st.sampled_from(["retry", "retry", "recheck", "undeliverable", "delivered", "replay", "discard"])
        ),
        control,
        st.builds(Timer, st.sampled_from(["fire", "move", "cancel"]), st.integers(0, 4), st.booleans()),
        st.builds(Broken, st.sampled_from([None, None, *makers, "fixed"])),
        st.builds(Relay, st.booleans()),
        st.builds(RepliesIn, st.booleans()),
    )
    batched = st.builds(Batched, ARRIVALS)
    held_up = st.one_of(batched, st.builds(Suspect, st.integers(0, 2))) if crashes else batched
    of_children = [CHILD_ENDS, CHILD_ENDS] if children else []
    of_own_work = [st.one_of(LOCAL_ENDS, st.builds(Slow, ARRIVALS))] if own_work else []
    acts = st.one_of(ARRIVALS, ARRIVALS, faults, held_up, *of_own_work, *of_children)
    way_back = st.one_of(
        st.builds(Answer, st.sampled_from([0, 0, 0, 1, 2]), st.booleans(), st.just("go"), st.booleans()),
        st.builds(Time, st.sampled_from([timedelta(seconds=span) for span in (5, 5, 61, 80, 300, 1_300_000)])),
        st.builds(Operator, st.sampled_from(["retry", "replay", "discard"])),
        control,
        acts,
    )
    there = st.builds(lambda plain, some: plain + some, PLAIN, st.lists(acts, min_size=3, max_size=40))
    and_back = st.builds(
        lambda plain, turn, some: [*plain, turn, *some], PLAIN, TURNS, st.lists(way_back, min_size=3, max_size=25)
    )
    return st.one_of(there, and_back)


def play(world: World, history: Sequence[Act], *, starts: bool = True) -> World:
    """All of that, one after another; then the faults end, and the saga settles."""
    BROKEN.clear()
    LOCALS.clear()
    if starts:
        history = [Event("begun", review=len(history) % 2 == 0), *history]
    for act in history:
        act(world)
        if not isinstance(act, HELD_UP):
            world.drain()
        if not isinstance(act, (*HELD_UP, Slow)):
            world.run_due_locals()
    world.drain()
    world.settle_down()
    return world
