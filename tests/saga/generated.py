"""Random definitions: a `Shape` says which forms stand where, `build` makes the saga of it.

Takes a shape (drawn by `shapes()`, printed so that it can be kept), guarantees a definition that `check` accepts, whose
course the messages of `scripted` decide. A form of its own for every form of a flow; a new form of the language needs
a class here, a case in `_Builder.node` and a line in `_nodes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import (
    ActivityContext,
    ActivityFailed,
    ChildFailed,
    Command,
    Compensate,
    Complete,
    OnTimeout,
    Retry,
    Rollback,
    Saga,
    Tally,
    TerminalError,
    Undo,
    UndoOf,
    Verdict,
    choice,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    repeat_until,
    seconds,
    when,
)
from saga_worker.saga.steps import Step
from tests.saga.scripted import BROKEN, LOCALS, Begun, Cancel, No, Out, Overdue, Signal, State, Then, Told, Yes, mend

# What a local step writes, where there is a database.
EFFECT: Final = "INSERT INTO effect (saga, step, is_undo) VALUES (:saga, :step, :is_undo)"


class DoIt(Command[Yes, No]):
    step: str
    seen: list[str]


class TakeBack(UndoOf[DoIt, Yes, No]):
    step: str
    seen: list[str]


UndoMode: TypeAlias = Literal["hybrid", "strict", "none", "missing"]


@dataclass(frozen=True)
class Ask:
    """A command."""

    undo: UndoMode = "hybrid"
    tries: int = 1
    handles_rejection: bool = False


@dataclass(frozen=True)
class Run:
    """An activity."""

    undo: UndoMode = "hybrid"
    handles_failure: bool = False


@dataclass(frozen=True)
class Here:
    """A local step."""

    undo: UndoMode = "strict"


@dataclass(frozen=True)
class Child:
    """A sub-saga."""

    undo: UndoMode = "hybrid"
    handles_failure: bool = False
    has_timeout: bool = False
    is_awaited: bool = True


@dataclass(frozen=True)
class Each:
    """A child for each of `count` items."""

    count: int = 2
    in_flight: int = 2
    tolerate: int | None = 0
    undo: Literal["hybrid", "none"] = "hybrid"


@dataclass(frozen=True)
class Wait:
    event: Literal["signal", "begun"] = "signal"
    has_timeout: bool = True
    goes_on: bool = False
    reminds: bool = False


@dataclass(frozen=True)
class Sleep:
    is_by_state: bool = False


@dataclass(frozen=True)
class Tell:
    """An event of the saga's own."""


@dataclass(frozen=True)
class Mark:
    """A savepoint; in the main line only."""

    times: int = 2


@dataclass(frozen=True)
class When:
    test: int
    then: tuple[Node, ...]
    otherwise: Node | None = None


@dataclass(frozen=True)
class Choice:
    arms: tuple[tuple[int, tuple[Node, ...]], ...]
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Fork:
    """`wanted` of the branches; more than there are: all."""

    branches: tuple[tuple[Node, ...], ...]
    wanted: int = 9


@dataclass(frozen=True)
class Loop:
    test: int
    steps: tuple[Node, ...]
    times: int = 3


@dataclass(frozen=True)
class Pivot:
    step: Leaf


Leaf: TypeAlias = Ask | Run | Here | Child | Each | Wait | Sleep | Tell
Node: TypeAlias = Leaf | Mark | When | Choice | Fork | Loop | Pivot


@dataclass(frozen=True)
class Shape:
    """A definition. Without a deadline every wait has a time-out, whatever it says."""

    nodes: tuple[Node, ...]
    deadline: timedelta | None = None


# -- drawing one ------------------------------------------------------------------------------------------------------

_UNDOS: Final[st.SearchStrategy[Any]] = st.sampled_from(["hybrid", "hybrid", "strict", "none", "missing"])
_TESTS: Final = st.integers(0, 3)
_ASKS: Final = st.builds(Ask, _UNDOS, st.sampled_from([1, 1, 2]), st.booleans())
_RUNS: Final = st.builds(Run, _UNDOS, st.booleans())
_HERES: Final = st.builds(Here, _UNDOS)
_WAITS: Final = st.builds(
    Wait, st.sampled_from(["signal", "signal", "begun"]), st.booleans(), st.booleans(), st.booleans()
)
_LEAVES: Final = st.one_of(
    _ASKS, _ASKS, _ASKS, _RUNS, _HERES, _WAITS, st.builds(Sleep, st.booleans()), st.builds(Tell)
)  # fmt: skip
_CHILDREN: Final = st.one_of(
    st.builds(Child, _UNDOS, st.booleans(), st.booleans(), st.sampled_from([True, True, True, False])),
    st.builds(Each, st.integers(0, 4), st.integers(1, 3), st.sampled_from([0, 1, None]),
              st.sampled_from(["hybrid", "none"])),
)  # fmt: skip


def _some(nodes: st.SearchStrategy[Any], least: int, most: int) -> st.SearchStrategy[Any]:
    return st.lists(nodes, min_size=least, max_size=most).map(tuple)


def _nodes(depth: int, leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Whatever may stand in a branch or a loop."""
    if depth == 0:
        return leaves
    below = _nodes(depth - 1, leaves)
    return st.one_of(
        leaves, leaves, leaves,
        st.builds(When, _TESTS, _some(below, 1, 2), st.one_of(st.none(), below)),
        st.builds(Choice, _some(st.tuples(_TESTS, _some(below, 1, 2)), 1, 2), _some(below, 0, 1)),
        st.builds(Fork, _some(_some(below, 1, 2), 2, 3), st.sampled_from([1, 1, 2, 9, 9])),
        st.builds(Loop, _TESTS, _some(below, 1, 2), st.integers(1, 3)),
    )  # fmt: skip


def shapes(depth: int = 2, *, children: bool = False) -> st.SearchStrategy[Shape]:
    """Definitions with up to five forms in the main line, nested `depth` levels deep; `children`: with sub-sagas."""
    leaves = st.one_of(_LEAVES, _LEAVES, _CHILDREN) if children else _LEAVES
    pivots = st.builds(Pivot, leaves)
    chosen = st.builds(When, _TESTS, _some(st.one_of(leaves, pivots), 1, 2), st.one_of(st.none(), leaves))
    inside = _nodes(depth, leaves)
    main = st.one_of(inside, inside, inside, st.builds(Mark, st.integers(1, 2)), pivots, chosen)
    return st.builds(Shape, _some(main, 1, 5), st.sampled_from([None, hours(1), days(5), days(5)]))


def makers(shape: Shape) -> list[str]:
    """What `scripted.BROKEN` may name in the saga of this shape."""
    count = sum(1 for _ in _leaves_of(shape.nodes))
    return [name for number in range(count) for name in (f"s{number}", f"undo s{number}")]


MAKERS: Final = tuple(name for number in range(6) for name in (f"s{number}", f"undo s{number}"))


def _leaves_of(nodes: tuple[Node, ...]) -> Iterator[Leaf | Mark]:
    for node in nodes:
        match node:
            case When(_, then, otherwise):
                yield from _leaves_of((*then, *(() if otherwise is None else (otherwise,))))
            case Choice(arms, otherwise_):
                for _, steps in arms:
                    yield from _leaves_of(steps)
                yield from _leaves_of(otherwise_)
            case Fork(branches):
                for steps in branches:
                    yield from _leaves_of(steps)
            case Loop(_, steps):
                yield from _leaves_of(steps)
            case Pivot(step):
                yield step
            case _:
                yield node


# -- the saga of it ---------------------------------------------------------------------------------------------------


def build(shape: Shape, name: str = "generated") -> Saga[State]:
    """The definition; its steps are called s0, s1, … in the order in which they are written."""
    return _Builder(shape, name).saga


def holds(number: int, state: State) -> bool:
    """The tests of `when`, `choice` and loops: each is a question to the state."""
    match number:
        case 0:
            return state.review
        case 1:
            return len(state.seen) % 2 == 0
        case 2:
            return "cancel" in state.seen or len(state.seen) > 6
        case _:
            return len(state.seen) % 3 == 0


class _Builder:
    def __init__(self, shape: Shape, name: str) -> None:
        self.shape = shape
        self.saga: Saga[State] = Saga(name, state=State, deadline=shape.deadline)
        self.count = 0
        self.loops = 0
        self.marks: list[str] = []
        self.is_pivoted = any(isinstance(node, Pivot) for node in _all(shape.nodes))
        self.races = 0  # how many joins around this place need not wait for it
        self.child: Saga[State] = Saga(f"{name} child", state=State, deadline=days(30))
        self.child.flow(self.child.sleep("on", minutes(1)))
        self._entries()
        nodes = [self.node(node) for node in shape.nodes]
        self.saga.flow(*nodes)
        self.saga.check()

    def _entries(self) -> None:
        saga, marks = self.saga, self.marks

        @saga.starts_on(Begun, key=lambda e: e.key)
        def begun(event: Begun) -> State:
            state = State(key=event.key, review=event.review)
            _answer(state, event.then, "begun", None)
            return state

        @saga.on(Cancel, key=lambda e: e.key)
        def cancelled(state: State, event: Cancel) -> Verdict:
            return _answer(state, event.then, "cancel", marks[0] if marks else None)

    def node(self, node: Node) -> Step[State]:
        match node:
            case When(test, then, otherwise):
                taken = [self.node(each) for each in then]
                other = None if otherwise is None else self.node(otherwise)
                return when(_test(test), *taken, otherwise=other)
            case Choice(arms, otherwise_):
                chosen = [(_test(test), [self.node(each) for each in steps]) for test, steps in arms]
                return choice(*chosen, otherwise=[self.node(each) for each in otherwise_])
            case Fork(branches, wanted):
                wanted = min(wanted, len(branches))
                self.races += wanted < len(branches)
                steps = [[self.node(each) for each in branch] for branch in branches]
                self.races -= wanted < len(branches)
                return parallel(*steps, join=wanted)
            case Loop(test, inside, times):
                self.loops += 1
                name = f"loop {self.loops}"
                return repeat_until(_test(test), *(self.node(each) for each in inside), times=times, name=name)
            case Pivot(step):
                return pivot(self.leaf(step))
            case _:
                return self.leaf(node)

    def leaf(self, leaf: Leaf | Mark) -> Step[State]:
        id_ = f"s{self.count}"
        self.count += 1
        mark = self.marks[-1] if self.marks else None
        match leaf:
            case Ask():
                return self.ask(leaf, id_, mark)
            case Run():
                return self.run(leaf, id_, mark)
            case Here():
                return self.here(leaf, id_, mark)
            case Child():
                return self.child_step(leaf, id_, mark)
            case Each():
                return self.each(leaf, id_, mark)
            case Wait():
                return self.wait(leaf, id_, mark)
            case Sleep(is_by_state):
                length: Any = (lambda state: minutes(3) if state.review else minutes(0)) if is_by_state else minutes(2)
                return self.saga.sleep(id_, length)
            case Tell():
                return self.tell(id_)
            case Mark(times):
                self.marks.append(id_)
                return self.saga.savepoint(id_, times=times)

    def ask(self, ask: Ask, id_: str, mark: str | None) -> Step[State]:
        retry = Retry.fixed(ask.tries, seconds(10))
        mode = self.mode(ask.undo)

        @self.saga.command(
            "p", timeout=minutes(1), retry=retry, undo=mode, undo_retry=Retry.fixed(2, seconds(5)), name=id_
        )
        def step(state: State) -> DoIt:
            mend(id_)
            return DoIt(step=id_, seen=state.seen)

        @step.reply
        def replied(state: State, reply: Yes) -> Verdict:
            return _answer(state, reply.then, id_, mark)

        if ask.handles_rejection:

            @step.rejected
            def rejected(state: State, why: No) -> Verdict:
                return _answer(state, why.then, f"no {id_}", mark)

        if ask.undo in ("hybrid", "strict"):

            @step.undo
            def take_back(state: State) -> TakeBack:
                mend(f"undo {id_}")
                return TakeBack(step=id_, seen=state.seen)

        return step

    def run(self, run: Run, id_: str, mark: str | None) -> Step[State]:
        mode = self.mode(run.undo)

        @self.saga.activity(timeout=minutes(1), undo=mode, undo_retry=Retry.fixed(2, seconds(5)), name=id_)
        async def step(state: State, ctx: ActivityContext) -> Out:
            raise AssertionError("what an activity returns is told by the history")

        @step.result
        def returned(state: State, result: Out) -> Verdict:
            return _answer(state, result.then, id_, mark)

        if run.handles_failure:

            @step.failed
            def failed(state: State, why: ActivityFailed) -> Verdict:
                return _answer(state, "go", f"no {id_}", mark)

        if run.undo in ("hybrid", "strict"):

            @step.undo
            async def take_back(state: State, ctx: ActivityContext) -> None:
                raise AssertionError("how an undo ends is told by the history")

        return step

    def here(self, here: Here, id_: str, mark: str | None) -> Step[State]:
        @self.saga.local(retry=Retry.fixed(2, seconds(10)), undo=self.mode(here.undo), name=id_)
        async def step(state: State, session: AsyncSession) -> Verdict:
            await session.execute(text(EFFECT), {"saga": self.saga.name, "step": id_, "is_undo": False})
            return _answer(state, LOCALS[0] if LOCALS else "go", id_, mark)

        if here.undo in ("hybrid", "strict"):

            @step.undo
            async def take_back(state: State, session: AsyncSession) -> None:
                await session.execute(text(EFFECT), {"saga": self.saga.name, "step": id_, "is_undo": True})
                if LOCALS and LOCALS[0] in ("raise", "terminal"):
                    _answer(state, LOCALS[0], f"undo {id_}", None)

        return step

    def child_step(self, child: Child, id_: str, mark: str | None) -> Step[State]:
        timeout = hours(2) if child.has_timeout else None

        @self.saga.subsaga(
            self.child, timeout=timeout, undo=self.mode(child.undo), wait=child.is_awaited, name=id_
        )  # fmt: skip
        def step(state: State) -> State:
            mend(id_)
            return State(key=id_, seen=state.seen)

        @step.result
        def ended(state: State, last: State) -> Verdict:
            return _answer(state, _then_of(last), id_, mark)

        if child.handles_failure:

            @step.failed
            def failed(state: State, why: ChildFailed) -> Verdict:
                return _answer(state, "go", f"no {id_}", mark)

        return step

    def each(self, each: Each, id_: str, mark: str | None) -> Step[State]:
        def items(state: State) -> list[State]:
            mend(id_)
            return [State(key=f"{id_}/{n}") for n in range(each.count)]

        undo = Undo.HYBRID if each.undo == "hybrid" else Undo.NONE
        step = self.saga.for_each(
            items, self.child, max_in_flight=each.in_flight, tolerate=each.tolerate, undo=undo, name=id_
        )

        @step.result
        def item_ended(state: State, last: State) -> Verdict:
            return _answer(state, _then_of(last), id_, mark)

        @step.joined
        def joined(state: State, tally: Tally) -> Verdict:
            return _answer(state, "go", f"all of {id_}", mark)

        return step

    def wait(self, wait: Wait, id_: str, mark: str | None) -> Step[State]:
        timeout = hours(30) if wait.has_timeout or self.shape.deadline is None else None
        on_timeout = OnTimeout.CONTINUE if wait.goes_on else OnTimeout.COMPENSATE
        step = self.saga.wait(id_, timeout=timeout, on_timeout=on_timeout)
        if wait.event == "signal":

            @step.on(Signal, key=lambda e: e.key)
            def signalled(state: State, event: Signal) -> Verdict:
                return _answer(state, event.then, id_, mark)

        else:

            @step.on(Begun, key=lambda e: e.key)
            def begun_again(state: State, event: Begun) -> Verdict:
                return _answer(state, event.then, id_, mark)

        if wait.reminds:

            @step.every(hours(6), times=3)
            def remind(state: State) -> Overdue:
                mend(id_)
                return Overdue(key=state.key)

        return step

    def tell(self, id_: str) -> Step[State]:
        @self.saga.emit(name=id_)
        def step(state: State) -> Told:
            mend(id_)
            return Told(key=state.key, seen=state.seen)

        return step

    def mode(self, undo: UndoMode) -> Undo:
        """An undo may only be forgotten where nobody asks for it."""
        match undo:
            case "hybrid":
                return Undo.HYBRID
            case "strict":
                return Undo.STRICT
            case "none":
                return Undo.NONE
            case "missing":
                return Undo.NONE if self.is_pivoted or self.races else Undo.STRICT


def _all(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, When):  # the only form a pivot may stand in
            yield from _all((*node.then, *(() if node.otherwise is None else (node.otherwise,))))


def _then_of(last: State) -> Then:
    """A child says in its last state what its parent is to do."""
    then: Then = last.seen[-1] if last.seen else "go"  # type: ignore[assignment]
    return then


def _test(number: int) -> Callable[[State], bool]:
    return lambda state: holds(number, state)


def _answer(state: State, then: Then, what: str, mark: str | None) -> Verdict:
    """Note what came, then do as the message says; roll back to the last savepoint before this place."""
    state.seen.append(what)
    match then:
        case "compensate":
            return Compensate(f"{what} says so")
        case "complete":
            return Complete(f"{what} says so")
        case "rollback":
            return Rollback(mark, f"{what} says so") if mark is not None else None
        case "raise" if "fixed" not in BROKEN:
            raise ValueError(f"{what} cannot be handled")
        case "terminal" if "fixed" not in BROKEN:
            raise TerminalError(f"{what} is no use")
        case _:
            return None
