"""An account that counts: every event is one handler call, in order; some amounts are more than a release can bear."""

from __future__ import annotations

import os
import signal
from typing import Final

from pydantic import BaseModel

from saga_worker import Event, Saga, Verdict, days

REFUSED: Final = -1  # the release with TALLY_RELEASE=1 raises on it
DEADLY: Final = -2  # ends the process of every release


class TallyOpened(Event):
    account: str


class Counted(Event):
    account: str
    n: int


class TallyClosed(Event):
    account: str


class Tally(BaseModel):
    account: str
    seen: list[int] = []


tally = Saga("tally", state=Tally, deadline=days(1))


@tally.starts_on(TallyOpened, key=lambda e: e.account)
def opened(event: TallyOpened) -> Tally:
    return Tally(account=event.account)


@tally.on(Counted, key=lambda e: e.account)
def counted(state: Tally, event: Counted) -> Verdict:
    if event.n == REFUSED and os.environ.get("TALLY_RELEASE") == "1":
        raise ValueError("this release cannot count below zero")
    if event.n == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    state.seen.append(event.n)
    return None


closing = tally.wait("closing")


@closing.on(TallyClosed, key=lambda e: e.account)
def closed(state: Tally, event: TallyClosed) -> None: ...


tally.flow(closing)
