"""Signals and queries of a saga that runs, through a whole worker on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flow.processes import Processes

Eventually = Callable[..., Awaitable[Any]]

PURCHASE = """
import asyncio
from pathlib import Path

from pydantic import BaseModel

from saga_worker import ActivityContext, Complete, Event, Saga, Undo, Verdict, days

HERE = Path(__file__).parent

class Asked(Event):
    purchase: str
    cents: int

class Approved(Event):
    purchase: str
    approver: str

class Purchase(BaseModel):
    purchase: str
    cents: int
    approver: str | None = None

class Checked(BaseModel):
    is_good: bool

class Progress(BaseModel):
    cents: int
    approver: str | None

purchase = Saga("purchase", state=Purchase, deadline=days(30))

@purchase.starts_on(Asked, key=lambda e: e.purchase)
def asked(event: Asked) -> Purchase:
    return Purchase(purchase=event.purchase, cents=event.cents)

@purchase.activity(timeout=days(1), undo=Undo.NONE)
async def check(purchase: Purchase, ctx: ActivityContext) -> Checked:
    (HERE / "checking").touch()
    while not (HERE / "checked").exists():
        await asyncio.sleep(0.02)
    return Checked(is_good=True)

@check.result
def checked(purchase: Purchase, result: Checked) -> None: ...

approval = purchase.wait("approval", timeout=days(7))

@approval.on(Approved, key=lambda e: e.purchase)
def approved(purchase: Purchase, event: Approved) -> None:
    purchase.approver = event.approver

@purchase.query
def progress(purchase: Purchase) -> Progress:
    return Progress(cents=purchase.cents, approver=purchase.approver)

purchase.flow(check, approval)
"""


@pytest.mark.slow
async def test_an_approval_that_is_signalled_before_its_saga_is_there_is_not_lost(
    processes: Processes, tmp_path: Path, eventually: Eventually
) -> None:
    """features: 70, 72, 86, 143"""
    place = tmp_path / "purchase.py"
    place.write_text(PURCHASE)

    async def command(*arguments: str, code: int = 0) -> dict[str, Any]:
        done = await asyncio.to_thread(processes.command, "saga", *arguments, "--definitions", str(place), "--json")
        assert done.returncode == code, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    worker = processes.start(definitions=place)
    await eventually(worker.is_ready)

    early = await command("signal", "purchase/p", "approved", "--body", '{"approver": "ann"}', "--wait", "60")
    await command("signal", "purchase/p", "asked", "--body", '{"cents": 7}', "--wait", "60")
    await eventually((tmp_path / "checking").exists)  # a step runs
    while_it_runs = await command("query", "purchase/p", "progress")
    second = await command("signal", "purchase/p", "approved", "--body", '{"approver": "bob"}', "--wait", "60")
    (tmp_path / "checked").touch()

    async def has_ended() -> bool:
        done = await asyncio.to_thread(processes.command, "saga", "list", "--status", "completed", "--json")
        return bool(done.stdout)

    await eventually(has_ended)
    at_the_end = await command("query", "purchase/p", "progress")
    late = await command("signal", "purchase/p", "approved", "--body", '{"approver": "eve"}', "--wait", "60", code=1)

    assert (early["state"], early["reason"]) == ("parked", "unknown_saga")
    assert (second["state"], second["reason"]) == ("parked", "not_expected_yet")
    assert while_it_runs == {"cents": 7, "approver": None}
    assert at_the_end == {"cents": 7, "approver": "ann"}
    assert (late["state"], late["reason"]) == ("ignored", "saga_finished")
    assert worker.stop() == 0, worker.log
