"""A saga with a child for each of BENCH_WIDTH items, BENCH_FLIGHT at a time; a child sends one command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

from pydantic import BaseModel

from saga_worker import Command, Event, Message, Saga, Undo

WIDTH = int(os.environ.get("BENCH_WIDTH", "100"))
FLIGHT = int(os.environ.get("BENCH_FLIGHT", "2"))


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


class Item(BaseModel):
    key: str
    pad: str


item = Saga("bench_item", state=Item, deadline=timedelta(days=1))


@item.command("echo", timeout=timedelta(minutes=5), undo=Undo.NONE)
def first(state: Item) -> First:
    return First(key=state.key, pad=state.pad)


@first.reply
def first_echoed(state: Item, reply: Echoed) -> None:
    state.pad = reply.pad


item.flow(first)


class Wide(BaseModel):
    key: str
    pad: str
    done: int = 0


wide = Saga("bench", state=Wide, deadline=timedelta(days=1))


@wide.starts_on(BenchStarted, key=lambda e: e.key)
def started(event: BenchStarted) -> Wide:
    return Wide(key=event.key, pad=event.pad)


def items(state: Wide) -> Iterator[Item]:
    return (Item(key=f"{state.key}/{n}", pad=state.pad) for n in range(WIDTH))


each = wide.for_each(items, item, max_in_flight=FLIGHT)


@each.result
def item_done(state: Wide, child: Item) -> None:
    state.done += 1


@wide.emit
def completed(state: Wide) -> BenchCompleted:
    return BenchCompleted(key=state.key)


wide.flow(each, completed)
