"""A checkout through a whole worker: from the order on the broker to the last command, and what the database says."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flow.records import Records
from tests.flow.wire import Heard, Wire
from tests.flow.workers import DEFINITIONS, Workers

Eventually = Callable[..., Awaitable[Any]]
ORDER: dict[str, Any] = {"order_id": "4711", "lines": {"tea": 2}, "cents": 1999, "card": "tok_1"}
CANCELLED: dict[str, Any] = {"order_id": "4711", "by": "customer"}
CLEARED: dict[str, Any] = {"order_id": "4711", "fraud": False, "reviewer": "ann"}


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout of a shop that waits a second for the payment and some seconds for a review."""
    monkeypatch.setenv("CHECKOUT_PAYMENT_TIMEOUT_SECONDS", "1")
    monkeypatch.setenv("CHECKOUT_REVIEW_TIMEOUT_SECONDS", "15")
    return Path(shutil.copy(DEFINITIONS / "checkout.py", tmp_path))


async def reserve(wire: Wire, *, score: tuple[str, dict[str, Any]] = ("cleared", {})) -> None:
    """The services answer up to the reservation."""
    await wire.obey("score_order", score[0], **score[1])
    await wire.obey("reserve_stock", "stock_reserved", reservation="shelf 7")


async def test_an_order_is_shipped(workers: Workers, wire: Wire, records: Records, eventually: Eventually) -> None:
    """features: 134"""
    await workers.start()
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire)
    charge = await wire.obey("charge_card", "charged", payment="p-1")
    await wire.obey("ship_order", "shipped", parcels=["a"])
    announced = await wire.next("order_shipped")
    await eventually(lambda: records.value("SELECT count(*) = 0 FROM saga_worker.v_outbox"))

    assert charge.data == {"order_id": "4711", "cents": 1999, "card": "tok_1"}
    assert announced.data == {"order_id": "4711", "parcels": ["a"]}
    saga = await records.saga("4711")
    assert saga is not None and (saga["status"], saga["revision"], saga["attention"]) == ("completed", 6, None)
    assert [row["state"] for row in await records.rows()] == ["done"] * 6


async def test_what_goes_out_carries_what_a_participant_needs(workers: Workers, wire: Wire, records: Records) -> None:
    await workers.start()
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire)
    charge = await wire.obey("charge_card", "card_declined", code="expired")
    release = await wire.obey("release_stock", "done")

    saga = await records.saga("4711")
    assert saga is not None
    common = {"saga-id": str(saga["saga_id"]), "saga-name": "checkout"}
    assert charge.headers == common | {"saga-step": "charge", "saga-deadline": charge.headers["saga-deadline"]}
    assert charge.message.routing_key == "payment.charge_card"
    assert (charge.message.content_type, charge.message.delivery_mode) == ("application/json", 2)
    reserve_id = next(heard.id for heard in wire.heard if heard.type == "reserve_stock")
    assert release.headers["saga-undoes"] == reserve_id


async def test_a_declined_card_releases_the_stock(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    """features: 3"""
    await workers.start()
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire)
    await wire.obey("charge_card", "card_declined", code="expired")
    release = await wire.obey("release_stock", "done")
    await eventually(lambda: has_ended(records, "compensated"))

    assert release.data == {"order_id": "4711", "reservation": "shelf 7"}
    assert (await records.saga("4711") or {})["reason"] == "card declined: expired"
    assert wire.count("ship_order") == wire.count("cancel_charge") == 0


async def test_a_suspicious_order_waits_for_its_review(
    workers: Workers, wire: Wire, records: Records, impatient: Path, eventually: Eventually
) -> None:
    await workers.start(impatient)
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire, score=("suspicious", {"case": "c-1"}))
    await eventually(lambda: has_ended(records, "waiting"))
    reminder = await wire.next("review_overdue")
    assert (reminder.data, wire.count("charge_card")) == ({"order_id": "4711", "case": "c-1"}, 0)

    await wire.publish("fraud_reviewed", CLEARED, id="r-1")
    await wire.next("charge_card")


async def test_a_cancelled_order_is_taken_back(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    await workers.start()
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire)
    charge = await wire.next("charge_card")
    await wire.publish("order_cancelled", CANCELLED, id="c-1")
    cancel = await wire.obey("cancel_charge", "done")
    await wire.obey("release_stock", "done")
    await eventually(lambda: has_ended(records, "compensated"))
    await wire.answer(charge, "charged", {"payment": "p-1"})
    await eventually(lambda: has_fate(records, f"{charge.id}.charged", "done: late_reply"))

    assert cancel.headers["saga-undoes"] == charge.id
    assert (wire.count("cancel_charge"), wire.count("release_stock")) == (1, 1)
    saga = await records.saga("4711")
    assert saga is not None and (saga["status"], saga["unsettled"]) == ("compensated", 0)


async def test_a_cancellation_after_the_parcel_was_asked_for_is_ignored(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    await workers.start()
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire)
    await wire.obey("charge_card", "charged", payment="p-1")
    ship = await wire.next("ship_order")
    await wire.publish("order_cancelled", CANCELLED, id="c-1")
    await eventually(lambda: has_fate(records, "c-1", "ignored: after_pivot"))
    await wire.answer(ship, "shipped", {"parcels": ["a"]})
    await eventually(lambda: has_ended(records, "completed"))

    await wire.publish("order_cancelled", CANCELLED, id="c-2")
    await eventually(lambda: has_fate(records, "c-2", "ignored: saga_finished"))


async def test_an_event_that_is_ahead_of_its_saga_waits_for_it(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    await workers.start()
    await wire.publish("fraud_reviewed", CLEARED, id="r-1")
    await eventually(lambda: has_fate(records, "r-1", "parked: unknown_saga"))
    await wire.publish("order_placed", ORDER, id="o-1")
    await eventually(lambda: has_fate(records, "r-1", "parked: not_expected_yet"))
    await reserve(wire, score=("suspicious", {"case": "c-1"}))
    await wire.next("charge_card")

    assert (await records.fates())["r-1"] == "done"


async def test_a_charge_that_is_answered_too_late_is_taken_back_once(
    workers: Workers, wire: Wire, records: Records, impatient: Path, eventually: Eventually
) -> None:
    await workers.start(impatient)
    await wire.publish("order_placed", ORDER, id="o-1")
    await reserve(wire)
    charge = await wire.next("charge_card")
    await wire.obey("cancel_charge", "done")
    await wire.obey("release_stock", "done")
    await eventually(lambda: has_ended(records, "compensated"))
    for copy in ("late", "later"):
        await wire.answer(charge, "charged", {"payment": "p-1"}, id=copy)
    await eventually(lambda: has_fate(records, "later", "ignored: duplicate_reply"))

    assert (await records.fates())["late"] == "done: late_reply"
    assert (wire.count("cancel_charge"), wire.count("release_stock")) == (1, 1)


async def test_repeats_of_every_message_change_nothing(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    """features: 89"""
    await workers.start()

    async def twice(command: Heard, type_: str, **data: Any) -> None:
        for _ in range(2):
            await wire.answer(command, type_, data)

    for _ in range(3):
        await wire.publish("order_placed", ORDER, id="o-1")
    await twice(await wire.next("score_order"), "cleared")
    await twice(await wire.next("reserve_stock"), "stock_reserved", reservation="shelf 7")
    await twice(await wire.next("charge_card"), "charged", payment="p-1")
    await twice(await wire.next("ship_order"), "shipped", parcels=["a"])
    await wire.publish("order_cancelled", CANCELLED, id="last")  # the queue keeps the order: all the others are in
    await eventually(lambda: has_fate(records, "last", "ignored: saga_finished"))

    await wire.next("order_shipped")
    assert [row["state"] for row in await records.rows()] == ["done"] * 6 + ["ignored"]
    assert len(wire.heard) == 5


async def has_ended(records: Records, status: str) -> bool:
    return await records.status("4711") == status


async def has_fate(records: Records, message_id: str, fate: str) -> bool:
    found = (await records.fates()).get(message_id)
    assert found == fate
    return True
