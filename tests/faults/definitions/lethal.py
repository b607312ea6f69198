"""Steps that kill the worker for some keys: after a time-out, in a local step, in what an activity's result means."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from saga_worker import ActivityContext, Event, OnTimeout, Retry, Saga, Undo, days, seconds, when

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

DIRECTORY: Final = Path(os.environ.get("LETHAL_DIRECTORY", "."))


class WaitBegun(Event):
    key: str


class WaitEnded(Event):
    key: str


class Told(Event):
    key: str


class WriteBegun(Event):
    key: str


class AskBegun(Event):
    key: str


class Answer(BaseModel):
    text: str


class Key(BaseModel):
    key: str


def kills(state: Key) -> bool:
    """Ends the worker, as a fault in a library would, until the release is mended; then it is false."""
    if state.key == "deadly" and not (DIRECTORY / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return False


waiting = Saga("waiting", state=Key, deadline=days(1))


@waiting.starts_on(WaitBegun, key=lambda e: e.key)
def wait_begun(event: WaitBegun) -> Key:
    return Key(key=event.key)


patience = waiting.wait("patience", timeout=seconds(0.5), on_timeout=OnTimeout.CONTINUE)


@patience.on(WaitEnded, key=lambda e: e.key)
def wait_ended(state: Key, event: WaitEnded) -> None: ...


@waiting.emit
def tell(state: Key) -> Told:
    return Told(key=state.key)


waiting.flow(patience, when(kills, tell))


writing = Saga("writing", state=Key, deadline=days(1))


@writing.starts_on(WriteBegun, key=lambda e: e.key)
def write_begun(event: WriteBegun) -> Key:
    return Key(key=event.key)


@writing.local(undo=Undo.NONE)
async def write(state: Key, session: AsyncSession) -> None:
    kills(state)


writing.flow(write)


asking = Saga("asking", state=Key, deadline=days(1))


@asking.starts_on(AskBegun, key=lambda e: e.key)
def ask_begun(event: AskBegun) -> Key:
    return Key(key=event.key)


@asking.activity(timeout=seconds(60), retry=Retry.fixed(50, seconds(0)), undo=Undo.NONE)
async def ask(state: Key, ctx: ActivityContext) -> Answer:
    return Answer(text="yes")


@ask.result
def answered(state: Key, answer: Answer) -> None:
    kills(state)


asking.flow(ask)
