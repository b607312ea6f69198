"""The saga of the benchmark `compensation`: three commands, the first two with an undo.

Whether it completes or compensates is up to the participant: a third command that is answered `refused` turns it back.
Completed it takes four events (start, three replies), compensated six (start, two replies, the refusal, two undos).
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from saga_worker import Command, Event, Message, Saga, UndoOf

MINUTE = timedelta(minutes=1)


class BenchStarted(Event):
    key: str
    pad: str = ""


class BenchCompleted(Event):
    key: str


class Echoed(Message):
    key: str
    pad: str


class Refused(Message):
    key: str
    pad: str


class First(Command[Echoed]):
    key: str
    pad: str


class UndoFirst(UndoOf[First, Echoed]):
    key: str
    pad: str


class Second(Command[Echoed]):
    key: str
    pad: str


class UndoSecond(UndoOf[Second, Echoed]):
    key: str
    pad: str


class Third(Command[Echoed, Refused]):
    key: str
    pad: str


class Bench(BaseModel):
    key: str
    pad: str


bench = Saga("bench", state=Bench, deadline=timedelta(days=1))


@bench.starts_on(BenchStarted, key=lambda e: e.key)
def started(event: BenchStarted) -> Bench:
    return Bench(key=event.key, pad=event.pad)


@bench.command("echo", timeout=MINUTE)
def first(state: Bench) -> First:
    return First(key=state.key, pad=state.pad)


@first.reply
def first_echoed(state: Bench, reply: Echoed) -> None:
    state.pad = reply.pad


@first.undo
def undo_first(state: Bench) -> UndoFirst:
    return UndoFirst(key=state.key, pad=state.pad)


@bench.command("echo", timeout=MINUTE)
def second(state: Bench) -> Second:
    return Second(key=state.key, pad=state.pad)


@second.reply
def second_echoed(state: Bench, reply: Echoed) -> None:
    state.pad = reply.pad


@second.undo
def undo_second(state: Bench) -> UndoSecond:
    return UndoSecond(key=state.key, pad=state.pad)


@bench.command("echo", timeout=MINUTE)
def third(state: Bench) -> Third:
    return Third(key=state.key, pad=state.pad)


@third.reply
def third_echoed(state: Bench, reply: Echoed) -> None:
    state.pad = reply.pad


@bench.emit
def completed(state: Bench) -> BenchCompleted:
    return BenchCompleted(key=state.key)


bench.flow(first, second, third, completed)
