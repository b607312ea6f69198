"""A saga of BENCH_STEPS commands, one after the other, each with an undo that is never needed."""

from __future__ import annotations

import os
from datetime import timedelta

from pydantic import BaseModel

from saga_worker import Command, Event, Message, Saga, Step, UndoOf

STEPS = int(os.environ.get("BENCH_STEPS", "10"))


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


class Back(UndoOf[First]):
    key: str


class Chain(BaseModel):
    key: str
    pad: str


chain = Saga("bench", state=Chain, deadline=timedelta(days=1))


@chain.starts_on(BenchStarted, key=lambda e: e.key)
def started(event: BenchStarted) -> Chain:
    return Chain(key=event.key, pad=event.pad)


def link(number: int) -> Step[Chain]:
    @chain.command("echo", timeout=timedelta(minutes=5), name=f"step_{number}")
    def step(state: Chain) -> First:
        return First(key=state.key, pad=state.pad)

    @step.reply
    def echoed(state: Chain, reply: Echoed) -> None:
        state.pad = reply.pad

    @step.undo
    def back(state: Chain) -> Back:
        return Back(key=state.key)

    return step


@chain.emit
def completed(state: Chain) -> BenchCompleted:
    return BenchCompleted(key=state.key)


chain.flow(*(link(number) for number in range(STEPS)), completed)
