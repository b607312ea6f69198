"""The saga of the benchmark `activities`: a start, three activities, an event at the end. Four inputs, one message out.

Nothing is waited for outside: what is measured is the price of starting, ending and going on. State and results carry
what those of `three_commands.py` do.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from saga_worker import ActivityContext, Event, Saga

MINUTE = timedelta(minutes=1)


class BenchStarted(Event):
    key: str
    pad: str = ""


class BenchCompleted(Event):
    key: str


class Echoed(BaseModel):
    key: str
    pad: str


class Bench(BaseModel):
    key: str
    pad: str


bench = Saga("bench", state=Bench, deadline=timedelta(days=1))


@bench.starts_on(BenchStarted, key=lambda e: e.key)
def started(event: BenchStarted) -> Bench:
    return Bench(key=event.key, pad=event.pad)


@bench.activity(timeout=MINUTE)
async def first(state: Bench, ctx: ActivityContext) -> Echoed:
    return Echoed(key=state.key, pad=state.pad)


@first.result
def first_done(state: Bench, result: Echoed) -> None:
    state.pad = result.pad


@bench.activity(timeout=MINUTE)
async def second(state: Bench, ctx: ActivityContext) -> Echoed:
    return Echoed(key=state.key, pad=state.pad)


@second.result
def second_done(state: Bench, result: Echoed) -> None:
    state.pad = result.pad


@bench.activity(timeout=MINUTE)
async def third(state: Bench, ctx: ActivityContext) -> Echoed:
    return Echoed(key=state.key, pad=state.pad)


@third.result
def third_done(state: Bench, result: Echoed) -> None:
    state.pad = result.pad


@bench.emit
def completed(state: Bench) -> BenchCompleted:
    return BenchCompleted(key=state.key)


bench.flow(first, second, third, completed)
