"""Definitions whose course the messages decide: each carries what its handler is to answer.

Takes nothing, guarantees that every branch of the core can be reached by sending the right message. Hands its sagas
to the tests of this folder.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

from pydantic import BaseModel

from saga_worker import (
    Command,
    Compensate,
    Complete,
    Event,
    Message,
    OnExhausted,
    OnTimeout,
    OnUndoFailed,
    Retry,
    Rollback,
    Saga,
    TerminalError,
    Undo,
    UndoOf,
    Verdict,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    repeat_until,
    seconds,
    when,
)
from saga_worker.saga.forms import Join
from saga_worker.saga.steps import CommandOf

Then = Literal["go", "compensate", "complete", "rollback", "raise", "terminal", "assert", "nonsense"]

TWO_DAYS: Final = days(2)
BROKEN: set[str] = set()  # the makers and handlers that raise; tests empty it again
LOCALS: list[Then] = []  # how the next local steps end; when it is empty they succeed


class Begun(Event):
    key: str = "k"
    review: bool = False
    then: Then = "go"


class Signal(Event):
    key: str = "k"
    then: Then = "go"


class Cancel(Event):
    key: str = "k"
    then: Then = "compensate"


class Overdue(Event):
    key: str


class Told(Event):
    key: str
    seen: list[str]


class Yes(Message):
    then: Then = "go"
    note: str = ""


class No(Message):
    then: Then = "compensate"


class Out(Message):
    """What an activity returns."""

    then: Then = "go"
    note: str = ""


class Do(Command[Yes, No]):
    step: str
    seen: list[str]


class DoA(Do): ...


class DoB(Do): ...


class DoC(Do): ...


class DoP(Do): ...


class DoQ(Do): ...


class UndoA(UndoOf[DoA, Yes, No]):
    seen: list[str]


class UndoB(UndoOf[DoB, Yes, No]):
    seen: list[str]


class UndoC(UndoOf[DoC, Yes, No]):
    seen: list[str]


class State(BaseModel):
    key: str
    review: bool = False
    has_mark: bool = False
    seen: list[str] = []


def answer(state: State, then: Then, what: str) -> Verdict:
    """What every handler does: note what came, then do as the message says."""
    state.seen.append(what)
    match then:
        case "go":
            return None
        case "compensate":
            return Compensate(f"{what} says so")
        case "complete":
            return Complete(f"{what} says so")
        case "rollback":  # where there is no savepoint it means nothing
            return Rollback("mark", f"{what} says so") if state.has_mark else None
        case "raise":
            if "fixed" in BROKEN:
                return None
            raise ValueError(f"{what} cannot be handled")
        case "terminal":
            raise TerminalError(f"{what} is no use")
        case "assert":
            assert state.key == "another", "the author was wrong"
            return None
        case "nonsense":
            return True  # type: ignore[return-value]  # what an author who has no type checker may write


def mend(maker: str) -> None:
    """Raises as long as `maker` is broken."""
    if maker in BROKEN:
        raise ValueError(f"{maker} is broken")


def line(
    name: str = "line", *, deadline: timedelta | None = None, review_timeout: timedelta | None = TWO_DAYS,
    on_timeout: OnTimeout = OnTimeout.COMPENSATE, undo_b: Undo = Undo.STRICT, pivoted: bool = True,
    retry_q: Retry | None = None, on_undo_failed: OnUndoFailed = OnUndoFailed.GO_ON, compensate: bool = True,
) -> Saga[State]:  # fmt: skip
    """a (hybrid, 3 tries) → b (strict) → review, if the start says so → p (the pivot) → late wait? → q → told."""
    saga = Saga(name, state=State, deadline=deadline, on_undo_failed=on_undo_failed, compensate=compensate)

    @saga.starts_on(Begun, key=lambda e: e.key)
    def begun(event: Begun) -> State:
        state = State(key=event.key, review=event.review)
        answer(state, event.then, "begun")
        return state

    @saga.on(Cancel, key=lambda e: e.key)
    def cancelled(state: State, event: Cancel) -> Verdict:
        return answer(state, event.then, "cancel")

    @saga.command(
        "dest-a", timeout=minutes(1), retry=Retry.fixed(3, seconds(10)), undo_retry=Retry.fixed(2, seconds(5))
    )
    def a(state: State) -> DoA:
        mend("a")
        return DoA(step="a", seen=state.seen)

    @a.reply
    def a_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, f"a{reply.note}")

    @a.rejected
    def a_rejected(state: State, why: No) -> Verdict:
        return answer(state, why.then, "no a")

    @a.undo
    def undo_a(state: State) -> UndoA:
        mend("undo_a")
        return UndoA(seen=state.seen)

    @saga.command("dest-b", timeout=minutes(1), undo=undo_b, undo_retry=Retry.fixed(2, seconds(5)))
    def b(state: State) -> DoB:
        mend("b")
        return DoB(step="b", seen=state.seen)

    @b.reply
    def b_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, f"b{reply.note}")

    if undo_b is not Undo.NONE:

        @b.undo
        def take_b_back(state: State) -> UndoB:
            mend("undo_b")
            return UndoB(seen=state.seen)

    review = saga.wait("review", timeout=review_timeout, on_timeout=on_timeout)

    @review.on(Signal, key=lambda e: e.key)
    def reviewed(state: State, event: Signal) -> Verdict:
        return answer(state, event.then, "signal")

    @review.every(hours(6), times=3)
    def remind(state: State) -> Overdue:
        mend("remind")
        return Overdue(key=state.key)

    @saga.command("p", timeout=minutes(1), undo=Undo.NONE)  # the destination is called like the step on purpose
    def p(state: State) -> DoP:
        mend("p")
        return DoP(step="p", seen=state.seen)

    @p.reply
    def p_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, "p")

    @saga.command("dest-q", timeout=minutes(1), retry=retry_q, undo=Undo.NONE)
    def q(state: State) -> DoQ:
        mend("q")
        return DoQ(step="q", seen=state.seen)

    @q.reply
    def q_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, "q")

    @q.rejected
    def q_rejected(state: State, why: No) -> Verdict:
        return answer(state, why.then, "no q")

    @saga.emit
    def told(state: State) -> Told:
        mend("told")
        return Told(key=state.key, seen=state.seen)

    saga.flow(a, b, when(lambda state: state.review, review), pivot(p) if pivoted else p, q, told)
    return saga


def waits(
    name: str = "waits", *, pivot_on: Literal["wait", "emit", "none"] = "none", timeout: timedelta | None = None,
    on_timeout: OnTimeout = OnTimeout.COMPENSATE, compensate: bool = True,
) -> Saga[State]:  # fmt: skip
    """told → first (a wait) → a → second (a wait for the same event), with a deadline of ten days."""
    saga = Saga(name, state=State, deadline=days(10), compensate=compensate)

    @saga.starts_on(Begun, key=lambda e: e.key)
    def begun(event: Begun) -> State:
        state = State(key=event.key, review=event.review)
        answer(state, event.then, "begun")
        return state

    @saga.on(Cancel, key=lambda e: e.key)
    def cancelled(state: State, event: Cancel) -> Verdict:
        return answer(state, event.then, "cancel")

    @saga.emit
    def told(state: State) -> Told:
        mend("told")
        return Told(key=state.key, seen=state.seen)

    first = saga.wait("first", timeout=timeout, on_timeout=on_timeout)

    @first.on(Begun, key=lambda e: e.key)
    def begun_again(state: State, event: Begun) -> Verdict:
        return answer(state, event.then, "begun again")

    @saga.command("dest-a", timeout=minutes(1), undo_retry=Retry.fixed(2, seconds(5)))
    def a(state: State) -> DoA:
        mend("a")
        return DoA(step="a", seen=state.seen)

    @a.reply
    def a_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, f"a{reply.note}")

    @a.undo
    def undo_a(state: State) -> UndoA:
        mend("undo_a")
        return UndoA(seen=state.seen)

    second = saga.wait("second", timeout=timeout, on_timeout=on_timeout)

    @second.on(Signal, key=lambda e: e.key)
    def signalled(state: State, event: Signal) -> Verdict:
        return answer(state, event.then, "signal")

    match pivot_on:
        case "wait":
            saga.flow(told, first, a, pivot(second))
        case "emit":
            saga.flow(first, a, pivot(told), second)
        case "none":
            saga.flow(told, first, a, second)
    return saga


def forked(
    name: str = "forked", *, join: Join = "all", looped: bool = False, pivoted: bool = True, marked: bool = False,
    on_exhausted: OnExhausted = OnExhausted.COMPENSATE, on_undo_failed: OnUndoFailed = OnUndoFailed.GO_ON,
    compensate: bool = True,
) -> Saga[State]:  # fmt: skip
    """a → nap → b beside c beside review; then p (the pivot) and told. Looped: all of that until b was there twice.

    Marked: a savepoint stands before all that.
    """
    saga = Saga(name, state=State, deadline=days(10), on_undo_failed=on_undo_failed, compensate=compensate)
    _starts_and_ends(saga, has_mark=marked)
    a, b, c = _command_a(saga), _command_b(saga), _command_c(saga)
    nap = saga.sleep("nap", lambda state: minutes(3) if state.review else minutes(0))
    review = saga.wait("review", timeout=days(2))

    @review.on(Signal, key=lambda e: e.key)
    def reviewed(state: State, event: Signal) -> Verdict:
        return answer(state, event.then, "signal")

    @saga.command("p", timeout=minutes(1), undo=Undo.NONE)
    def p(state: State) -> DoP:
        mend("p")
        return DoP(step="p", seen=state.seen)

    @p.reply
    def p_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, "p")

    @saga.emit
    def told(state: State) -> Told:
        mend("told")
        return Told(key=state.key, seen=state.seen)

    fork = parallel([a, nap, b], c, review, join=join)
    begin = repeat_until(lambda state: state.seen.count("b") > 1, fork, times=3, name="again") if looped else fork
    rest = (begin, pivot(p) if pivoted else p, told)
    saga.flow(*((saga.savepoint("mark", times=2, on_exhausted=on_exhausted), *rest) if marked else rest))
    return saga


def _starts_and_ends(saga: Saga[State], *, has_mark: bool) -> None:
    @saga.starts_on(Begun, key=lambda e: e.key)
    def begun(event: Begun) -> State:
        state = State(key=event.key, review=event.review, has_mark=has_mark)
        answer(state, event.then, "begun")
        return state

    @saga.on(Cancel, key=lambda e: e.key)
    def cancelled(state: State, event: Cancel) -> Verdict:
        return answer(state, event.then, "cancel")


def _command_a(saga: Saga[State]) -> CommandOf[State, DoA]:
    @saga.command(
        "dest-a", timeout=minutes(1), retry=Retry.fixed(2, seconds(10)), undo_retry=Retry.fixed(2, seconds(5))
    )
    def a(state: State) -> DoA:
        mend("a")
        return DoA(step="a", seen=state.seen)

    @a.reply
    def a_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, "a")

    @a.undo
    def undo_a(state: State) -> UndoA:
        mend("undo_a")
        return UndoA(seen=state.seen)

    return a


def _command_b(saga: Saga[State]) -> CommandOf[State, DoB]:
    @saga.command("dest-b", timeout=minutes(1), undo=Undo.STRICT, undo_retry=Retry.fixed(2, seconds(5)))
    def b(state: State) -> DoB:
        mend("b")
        return DoB(step="b", seen=state.seen)

    @b.reply
    def b_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, "b")

    @b.undo
    def undo_b(state: State) -> UndoB:
        mend("undo_b")
        return UndoB(seen=state.seen)

    return b


def _command_c(saga: Saga[State]) -> CommandOf[State, DoC]:
    @saga.command("dest-c", timeout=minutes(1), undo_retry=Retry.fixed(2, seconds(5)))
    def c(state: State) -> DoC:
        mend("c")
        return DoC(step="c", seen=state.seen)

    @c.reply
    def c_done(state: State, reply: Yes) -> Verdict:
        return answer(state, reply.then, "c")

    @c.rejected
    def c_rejected(state: State, why: No) -> Verdict:
        return answer(state, why.then, "no c")

    @c.undo
    def undo_c(state: State) -> UndoC:
        mend("undo_c")
        return UndoC(seen=state.seen)

    return c
