"""An errand whose activity writes down each attempt in a file, and lasts as long as another file is missing."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from saga_worker import ActivityContext, Event, Retry, Saga, Undo

DIRECTORY = Path(os.environ.get("ERRAND_DIRECTORY", "."))
TRIES = int(os.environ.get("ERRAND_TRIES", "5"))


class ErrandAsked(Event):
    errand: str


class Run(BaseModel):
    by: int


class Errand(BaseModel):
    errand: str
    by: int = 0


errand = Saga("errand", state=Errand)


@errand.starts_on(ErrandAsked, key=lambda e: e.errand)
def asked(event: ErrandAsked) -> Errand:
    return Errand(errand=event.errand)


@errand.activity(timeout=timedelta(seconds=30), retry=Retry.fixed(TRIES, timedelta(0)), undo=Undo.HYBRID)
async def fetch(errand: Errand, ctx: ActivityContext) -> Run:
    note("begun", errand, ctx)
    while not (DIRECTORY / "go").exists():  # noqa: ASYNC110 - another process makes the file
        await asyncio.sleep(0.02)
    note("done", errand, ctx)
    return Run(by=os.getpid())


@fetch.result
def fetched(errand: Errand, run: Run) -> None:
    errand.by = run.by


@fetch.undo
async def bring_back(errand: Errand, ctx: ActivityContext) -> None:
    note("undone", errand, ctx)


def note(what: str, errand: Errand, ctx: ActivityContext) -> None:
    line = {"what": what, "errand": errand.errand, "key": ctx.idempotency_key, "n": ctx.attempt, "pid": os.getpid()}
    with (DIRECTORY / "errands.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


errand.flow(fetch)
