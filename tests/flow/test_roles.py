"""Each role in a process of its own: consuming, advancing, relaying and sweeping work together through the database."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from tests.flow.processes import Processes
from tests.flow.records import Records
from tests.flow.wire import GENEROUS, Wire

Eventually = Callable[..., Awaitable[Any]]
ORDERS: Final = 15
pytestmark = pytest.mark.slow


def order(number: int) -> dict[str, Any]:
    return {"order_id": f"{number}", "lines": {"tea": 1}, "cents": 5, "card": "tok_1"}


@pytest.fixture
def amqp_url(partitioned_amqp_url: str) -> str:
    return partitioned_amqp_url


@pytest.mark.parametrize("partitions", [1, 4])
async def test_four_processes_with_a_role_each_bring_orders_to_their_end(
    processes: Processes, wire: Wire, records: Records, eventually: Eventually, monkeypatch: pytest.MonkeyPatch,
    partitions: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("CHECKOUT_PAYMENT_TIMEOUT_SECONDS", "8")
    roles = {
        role: processes.start("--role", role, LEASE_SECONDS="2", PARTITIONS=str(partitions))
        for role in ("consume", "advance", "relay", "sweep")
    }
    for run in roles.values():
        await eventually(run.is_ready)
    wire.serve({**GENEROUS, "charge_card": None})
    for number in range(ORDERS):
        await wire.publish("order_placed", order(number), id=f"o-{number}")
    asked_at: set[str | None] = set()
    for number in range(ORDERS):
        charge = await wire.next("charge_card")
        asked_at.add(charge.message.reply_to)
        if number % 3 == 0:
            await wire.answer(charge, "charged", {"payment": "p-1"})
        elif number % 3 == 1:
            await wire.answer(charge, "card_declined", {"code": "expired"})

    async def ended(**counts: int) -> bool:
        rows = await records.connection.fetch("SELECT status, count(*) FROM saga_worker.v_saga GROUP BY status")
        assert {row["status"]: row["count"] for row in rows} == counts
        return True

    await eventually(lambda: ended(completed=ORDERS // 3, compensated=ORDERS - ORDERS // 3))
    assert wire.count("cancel_charge") == ORDERS // 3
    assert len(asked_at) == partitions, "answers go to the partition of their saga"
    assert [run.stop() for run in roles.values()] == [0, 0, 0, 0]
    assert await records.broken_promises() == []


async def test_a_relay_that_is_killed_is_replaced_and_nothing_is_left_behind(
    processes: Processes, wire: Wire, records: Records, eventually: Eventually
) -> None:
    wire.serve()
    others = [processes.start("--role", "consume", "--role", "advance", "--role", "sweep", LEASE_SECONDS="2")]
    relay = processes.start("--role", "relay", LEASE_SECONDS="2", FAULT="relay.published:2=kill")
    for run in (*others, relay):
        await eventually(run.is_ready)
    for number in range(ORDERS):
        await wire.publish("order_placed", order(number), id=f"o-{number}")
    await eventually(lambda: relay.process.poll() is not None)
    assert relay.process.returncode == -signal.SIGKILL

    others.append(processes.start("--role", "relay", LEASE_SECONDS="2"))

    async def all_shipped() -> bool:
        shipped = await records.value("SELECT count(*) FROM saga_worker.v_saga WHERE status = 'completed'")
        return bool(shipped == ORDERS)

    await eventually(all_shipped)
    await eventually(lambda: records.value("SELECT count(*) = 0 FROM saga_worker.v_outbox"))
    assert wire.count("ship_order") == ORDERS
    assert [run.stop() for run in others] == [0, 0]
    assert await records.broken_promises() == []
