"""Sagas started by a program, beside a whole worker on real servers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from definitions.checkout import OrderPlaced
from tests.docs.blocks import ROOT, blocks
from tests.flow.wire import GENEROUS, Wire
from tests.flow.workers import Workers

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
    other = await page.buy(OrderPlaced(**(ORDER | {"cents": 1})))

    assert (bought, again, other) == ("p-1", "p-1", "id_reused")
    assert (await page.look("4711"), await page.look("4712")) == ("completed", "unknown")
    assert wire.count("charge_card") == 1


async def test_an_order_that_is_taken_back_has_ended_too(workers: Workers, wire: Wire, page: ModuleType) -> None:
    """features: L22"""
    await workers.start()
    wire.serve({**GENEROUS, "charge_card": ("card_declined", {"code": "expired"})})

    assert await page.buy(OrderPlaced(**ORDER)) == "compensated: card declined: expired"
