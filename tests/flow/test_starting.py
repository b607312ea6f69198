"""Sagas started by a program, beside a whole worker on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from definitions.checkout import OrderPlaced, checkout
from saga_worker.admin.replay import Actor, replay_all
from saga_worker.client import Client
from saga_worker.inbox import DeadFilter
from saga_worker.loading import load
from saga_worker.sql.connection import Database
from tests.docs.blocks import ROOT, blocks
from tests.flow.records import Records
from tests.flow.wire import GENEROUS, Wire
from tests.flow.workers import Workers
from tests.stages.jobs import JobAsked

Eventually = Callable[..., Awaitable[Any]]
ORDER: dict[str, Any] = {"order_id": "4711", "lines": {"tea": 2}, "cents": 1999, "card": "tok_1"}


@pytest.fixture
def page(database_url: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program of docs/starting.md."""
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database_url)
    module = ModuleType("starting")
    text = "\n\n".join(block.text for block in blocks(ROOT / "docs" / "starting.md", "python"))
    exec(compile(text, "docs/starting.md", "exec", dont_inherit=True), vars(module))
    return module


async def test_the_program_of_the_page_buys_and_looks(workers: Workers, wire: Wire, page: ModuleType) -> None:
    """features: 54, 145; L22"""
    await workers.start()
    wire.serve(GENEROUS)

    bought = await page.buy(OrderPlaced(**ORDER))
    again = await page.buy(OrderPlaced(**ORDER))
    other = await page.buy(OrderPlaced.model_validate(ORDER | {"cents": 1}))

    assert (bought, again, other) == ("p-1", "p-1", "id_reused")
    assert (await page.look("4711"), await page.look("4712")) == ("completed", "unknown")
    assert wire.count("charge_card") == 1


async def test_an_order_that_is_taken_back_has_ended_too(workers: Workers, wire: Wire, page: ModuleType) -> None:
    """features: L22"""
    await workers.start()
    wire.serve({**GENEROUS, "charge_card": ("card_declined", {"code": "expired"})})

    assert await page.buy(OrderPlaced(**ORDER)) == "compensated: card declined: expired"


INTERNAL = """
from tests.stages.jobs import job_saga

job, asked = job_saga(internal=True)
"""


async def test_an_internal_saga_is_started_by_a_program_and_not_by_an_event(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, tmp_path: Path, page: ModuleType
) -> None:
    """features: 132"""
    (tmp_path / "internal.py").write_text(INTERNAL)
    await workers.start(tmp_path / "internal.py")
    await wire.publish("job_asked", {"job": "a"}, id="j-1")

    async def is_refused() -> bool:
        return (await records.fates()).get("j-1") == "dead: internal_only"

    await eventually(is_refused)
    refused = await records.row("j-1")
    assert refused is not None and "saga-worker saga start" in refused["error"]
    async with Database(records.database_url) as database:
        tally = await replay_all(database, DeadFilter(), Actor("ann", None), lambda _: None)
    assert (tally.replayed, list(tally.homeless)) == (0, [refused["id"]])

    saga = load(tmp_path / "internal.py").latest("job")
    assert saga is not None
    async with Client(source="shop") as client:
        run = await client.start(saga, JobAsked(job="a"))
    await wire.publish("job_done", {"job": "a"}, id="j-2")  # what comes later may come from outside

    async def is_taken() -> bool:
        return (await records.fates()).get("j-2") == "parked: not_expected_yet"

    await eventually(is_taken)
    assert str(run) == "job/a"
    assert await records.status("a", "job") == "running"


ANSWERED = """
from saga_worker import SecondStart
from tests.stages.jobs import delivered, job_saga

job, asked = job_saga(result=delivered, second_start=SecondStart.JOIN)
"""


@pytest.mark.parametrize("fast_path", [True, False])
async def test_whoever_asks_for_an_answer_on_the_broker_gets_it(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, tmp_path: Path, fast_path: bool
) -> None:
    """features: 66; L22"""
    (tmp_path / "answered.py").write_text(ANSWERED)
    await workers.start(tmp_path / "answered.py", fast_path=fast_path)
    mine = await wire.channel.declare_queue(exclusive=True)
    await wire.publish("job_asked", {"job": "a", "cents": 5}, id="j-1", reply_to=mine.name, correlation_id="c-1")
    await wire.publish("job_asked", {"job": "a", "cents": 9}, id="j-2", reply_to=mine.name)
    await wire.publish("job_asked", {"job": "a"}, id="j-3", reply_to="a queue that is gone")

    async def have_joined() -> bool:
        fates = await records.fates()
        return [fates.get(id_) for id_ in ("j-1", "j-2", "j-3")] == ["done", "done: joined_run", "done: joined_run"]

    await eventually(have_joined)
    await wire.obey("pack", "packed", box="7")
    await wire.publish("job_done", {"job": "a"}, id="d-1")
    got = [await mine.get(timeout=30, fail=False) for _ in range(2)]
    while None in got:
        got = [each or await mine.get(timeout=30, fail=False) for each in got]
    answers = {m.correlation_id: (m.type, json.loads(m.body)) for m in got if m is not None}

    saga = await records.saga("a", "job")
    assert saga is not None
    said = {
        "saga_id": str(saga["saga_id"]), "saga": "job", "key": "a", "status": "completed", "reason": None,
        "result": {"box": "7", "cents": 5},
    }  # fmt: skip
    assert answers == {"c-1": ("saga_ended", said), "j-2": ("saga_ended", said)}
    await eventually(lambda: records.value("SELECT count(*) = 0 FROM saga_worker.v_outbox"))


async def test_a_worker_tells_a_client_that_waits_of_the_end(
    workers: Workers, wire: Wire, page: ModuleType, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """features: L22"""
    for pause in ("FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS", "LONGEST_PAUSE_WITH_HINTS_SECONDS"):
        monkeypatch.setattr(f"saga_worker.client.watch.{pause}", 600)  # nobody looks without a hint
    monkeypatch.setattr("saga_worker.wake_up.WAITING_SECONDS", 600)
    worker = await workers.start()
    wire.serve({**GENEROUS, "ship_order": None})
    async with Client(source="shop") as client:
        run = await client.send(checkout, OrderPlaced(**ORDER))
        await eventually(lambda: client.get(checkout, "4711"))
        ended = asyncio.create_task(run.ended(timeout=60))
        await eventually(lambda: worker.end_teller.is_wanted)
        await wire.obey("ship_order", "shipped", parcels=["a"])

        assert (await ended).is_completed
