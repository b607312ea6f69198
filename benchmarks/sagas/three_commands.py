"""The saga of the benchmarks: a start, three commands with their replies, an event at the end. Four events in.

Every message in and every command carries some 300 bytes of JSON, validated by its model, as does the state.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from saga_worker import Command, Event, Message, Saga

MINUTE = timedelta(minutes=1)


class BenchStarted(Event):
    key: str
    pad: str = ""


class BenchCompleted(Event):
    key: str


class Echoed(Message):
    key: str
    pad: str


class First(Command[Echoed]):
    key: str
    pad: str


class Second(Command[Echoed]):
    key: str
    pad: str


class Third(Command[Echoed]):
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


@bench.command("echo", timeout=MINUTE)
def second(state: Bench) -> Second:
    return Second(key=state.key, pad=state.pad)


@second.reply
def second_echoed(state: Bench, reply: Echoed) -> None:
    state.pad = reply.pad


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
