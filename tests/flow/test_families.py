"""Sagas that start sagas, through a whole worker on real servers: the group trip, and crashes on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import DEFINITIONS, Workers

Eventually = Callable[..., Awaitable[Any]]
STORY: Final = DEFINITIONS / "group_trip.py"
PLAN: Final[dict[str, Any]] = {"trip": "t-1", "travellers": [f"p{n}" for n in range(12)], "cents_each": 100}
ALL_GOES_WELL: Final = {
    "hire_coach": ("coach_hired", {"plate": "B-US 1"}),
    "reserve_seat": ("seat_reserved", {"seat": "4a"}),
    "reserve_room": ("room_reserved", {"room": "12"}),
}


async def has_status(records: Records, key: str, name: str, status: str) -> bool:
    assert await records.status(key, name) == status
    return True


async def statuses(records: Records, name: str) -> dict[str, int]:
    found = await records.connection.fetch("SELECT status FROM saga_worker.v_saga WHERE name = $1", name)
    return Counter(row["status"] for row in found)


async def test_a_group_is_booked_by_sagas_of_its_own_and_the_trip_goes_on_with_what_they_say(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    """features: 140, 145, L5, L6"""
    await workers.start(STORY)
    wire.serve(ALL_GOES_WELL)
    await wire.publish("coach_confirmed", {"trip": "t-1"}, id="c-1")  # before its wait: parked under the coach's key
    await wire.publish("trip_planned", PLAN, id="t-1")

    confirmed = await wire.next("trip_confirmed")
    await eventually(lambda: has_status(records, "t-1", "group_trip", "completed"))

    assert confirmed.data == {"trip": "t-1", "plate": "B-US 1", "travellers": 12, "left_out": []}
    assert await statuses(records, "traveller_booking") == {"completed": 12}
    assert (wire.count("reserve_seat"), wire.count("reserve_room"), wire.count("charge_group")) == (12, 12, 1)
    parent = await records.saga("t-1", "group_trip")
    assert parent is not None
    children = await records.connection.fetch("SELECT parent_id FROM saga_worker.v_saga WHERE name <> 'group_trip'")
    assert {row["parent_id"] for row in children} == {parent["saga_id"]}
    assert await records.broken_promises() == []


async def test_a_group_that_does_not_pay_gives_back_every_booking_and_the_coach(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    """features: 140, L6"""
    await workers.start(STORY)
    wire.serve(ALL_GOES_WELL | {"charge_group": ("rejected", {"reason": "no money"})})
    await wire.publish("coach_confirmed", {"trip": "t-1"}, id="c-1")
    await wire.publish("trip_planned", PLAN, id="t-1")

    await eventually(lambda: has_status(records, "t-1", "group_trip", "compensated"))

    assert await statuses(records, "traveller_booking") == {"compensated": 12}
    assert await statuses(records, "coach_hire") == {"compensated": 1}
    assert (wire.count("release_seat"), wire.count("release_room"), wire.count("cancel_coach")) == (12, 12, 1)
    assert await records.broken_promises() == []


async def test_a_coach_that_never_comes_takes_back_the_travellers_on_their_way(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    """features: L2, L6"""
    await workers.start(STORY)
    wire.serve(ALL_GOES_WELL | {"hire_coach": ("rejected", {"reason": "none left"}), "reserve_room": None})
    await wire.publish("trip_planned", PLAN, id="t-1")

    await eventually(lambda: has_status(records, "t-1", "group_trip", "compensated"))

    saga = await records.saga("t-1", "group_trip")
    assert saga is not None and saga["reason"].startswith("the sub-saga find_coach ended compensated")
    assert set(await statuses(records, "traveller_booking")) <= {"compensated"}
    assert wire.count("release_seat") == wire.count("reserve_seat") <= 5
    assert await records.broken_promises() == []
