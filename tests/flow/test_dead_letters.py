"""Dead letters: an event that its handler refuses, what it holds up, and its replay by many operators at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker.admin.connect import acting
from saga_worker.admin.replay import Actor, replay_all
from saga_worker.inbox import DeadFilter
from saga_worker.testing.namespaces import Namespace
from tests.flow.plain_client import Plain, publish
from tests.flow.processes import Processes, documents
from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import DEFINITIONS, Workers

Eventually = Callable[..., Awaitable[Any]]
DEAD: Final = 500
OPERATORS: Final = 8


def order(key: str, currency: str = "XTS") -> bytes:
    fields = {"order_id": key, "lines": {"tea": 1}, "cents": 500, "card": "tok_1", "currency": currency}
    return json.dumps(fields).encode()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A release of the checkout that knows these currencies."""

    def make(currencies: str) -> Path:
        folder = tmp_path / currencies.replace(",", "_")
        folder.mkdir()
        source = (DEFINITIONS / "checkout.py").read_text().replace('"USD": 0.9}', '"USD": 0.9, "XTS": 2.0}')
        (folder / "checkout.py").write_text(source)
        monkeypatch.setenv("CHECKOUT_CURRENCIES", currencies)
        return folder

    return make


async def test_eight_operators_replay_five_hundred_dead_letters_and_each_is_applied_once(
    workers: Workers, wire: Wire, records: Records, release: Callable[[str], Path], amqp_url: str,
    namespace: Namespace, eventually: Eventually,
) -> None:  # fmt: skip
    """features: M26"""
    wire.serve({"score_order": ("fraud", {"rule": "test"})})
    first = await workers.start(release("EUR"), max_attempts=1)
    letters = [Plain(f"o-{number}", order(f"{number}")) for number in range(DEAD)]
    await asyncio.to_thread(publish, amqp_url, str(namespace), letters)
    await eventually(lambda: is_count(records, "state = 'dead' AND reason = 'handler_error'", DEAD))
    await workers.stop(first)
    mended = release("EUR,XTS")
    await asyncio.gather(workers.start(mended), workers.start(mended))

    replayed = await asyncio.gather(*(replay(workers, f"operator {number}") for number in range(OPERATORS)))
    await eventually(lambda: is_count(records, "state = 'done' AND type = 'fraud'", DEAD))

    assert sum(replayed) == DEAD
    assert wire.count("score_order") == DEAD
    assert await records.value("SELECT count(*) FROM saga_worker.v_journal WHERE input_kind = 'event'") == DEAD
    assert (
        await records.value("SELECT count(DISTINCT target) FROM saga_worker.v_audit WHERE action LIKE '%replay%'") > 0
    )


async def replay(workers: Workers, actor: str) -> int:
    """What `saga-worker inbox replay --all` does."""
    async with acting(workers.settings()) as database:
        tally = await replay_all(database, DeadFilter(), Actor(actor, "a new release"), lambda count: None)
    return tally.replayed


async def is_count(records: Records, where: str, wanted: int) -> bool:
    found = await records.value(f"SELECT count(*) FROM saga_worker.v_inbox WHERE {where}")
    assert found == wanted
    return True


async def test_what_comes_behind_a_dead_letter_waits_for_it_and_nobody_else_does(
    workers: Workers, wire: Wire, records: Records, release: Callable[[str], Path], eventually: Eventually
) -> None:
    """features: M31"""
    first = await workers.start(release("EUR"), max_attempts=2)
    await wire.publish("order_placed", order("dead"), id="dead")
    await eventually(lambda: has_fates(records, {"dead": "dead: handler_error"}))
    await wire.publish("order_cancelled", {"order_id": "dead", "by": "x"}, id="behind")
    await wire.publish("order_placed", order("other", "EUR"), id="other")
    await wire.next("score_order")
    await eventually(lambda: has_fates(records, {"behind": "parked: behind_dead", "other": "done"}))

    await workers.stop(first)
    await workers.start(release("EUR,XTS"))
    assert await replay(workers, "ann") == 1
    await eventually(lambda: has_fates(records, {"dead": "done", "behind": "done"}))
    assert await records.status("dead") == "compensated"


async def test_a_dead_letter_is_shown_whole(
    workers: Workers, wire: Wire, records: Records, release: Callable[[str], Path], processes: Processes,
    eventually: Eventually,
) -> None:  # fmt: skip
    await workers.start(release("EUR"), max_attempts=2)
    await wire.publish("order_placed", order("dead"), id="dead", headers={"tenant": "north"})
    await eventually(lambda: has_fates(records, {"dead": "dead: handler_error"}))
    row = await records.row("dead")
    assert row is not None

    (shown,) = documents(processes.command("inbox", "show", str(row["id"]), "--json"))
    text = json.dumps(shown)
    assert shown["reason"] == "handler_error" and shown["attempts"] == 2
    assert "no rate for the currency XTS" in shown["error"] and "checkout.py" in shown["error"]
    assert "tenant" in text and "north" in text and "tok_1" in text


async def has_fates(records: Records, wanted: dict[str, str]) -> bool:
    found = await records.fates()
    assert {id: found.get(id) for id in wanted} == wanted
    return True
