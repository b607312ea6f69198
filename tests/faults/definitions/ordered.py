"""A meter that notes when its readings come out of order; numbered by `sequence=` when METER_SEQUENCE is 1."""

from __future__ import annotations

import os
from typing import Final

from pydantic import BaseModel

from saga_worker import Event, Saga, Verdict, days

IS_NUMBERED: Final = os.environ.get("METER_SEQUENCE") == "1"


class Installed(Event):
    meter: str
    n: int


class Reading(Event):
    meter: str
    n: int


class Removed(Event):
    meter: str


class Meter(BaseModel):
    last: int
    disorder: list[tuple[int, int]] = []  # (a reading, the one after which it came)


meter = Saga("meter", state=Meter, deadline=days(1))


@meter.starts_on(Installed, key=lambda e: e.meter, sequence=(lambda e: e.n) if IS_NUMBERED else None)
def installed(event: Installed) -> Meter:
    return Meter(last=event.n)


@meter.on(Reading, key=lambda e: e.meter, sequence=(lambda e: e.n) if IS_NUMBERED else None)
def read(state: Meter, event: Reading) -> Verdict:
    if event.n != state.last + 1:
        state.disorder.append((event.n, state.last))
    state.last = event.n
    return None


removal = meter.wait("removal")


@removal.on(Removed, key=lambda e: e.meter)
def removed(state: Meter, event: Removed) -> None: ...


meter.flow(removal)
