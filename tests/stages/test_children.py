"""Parents and children on a real database: both or neither, whatever the transaction comes to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from msgspec.structs import replace

from saga_worker import Event, Rejected, Saga, faults, inbox, instances
from saga_worker.admin.check import verify
from saga_worker.admin.saga_commands import read_facts
from saga_worker.admin.saga_report import explain
from saga_worker.faults import InjectedFault
from saga_worker.settings import Settings
from tests.saga.families import Booked, Booking, Trip, TripPlanned, booking, trip
from tests.stages.pool_harness import Harness, harness, reply, row

POINTS = ("orchestrator.locked", "orchestrator.decided", "orchestrator.before_commit", "orchestrator.committed")


@pytest.fixture
async def family(database_url: str) -> AsyncIterator[Harness]:
    async with harness(database_url, *cast(Any, (trip, booking, sender))) as made:
        yield made
    faults.arm(None)


class Sent(Event):
    key: str


sender = Saga("sender", state=Trip, deadline=timedelta(hours=1))


@sender.starts_on(Sent, key=lambda event: event.key)
def sent(event: Sent) -> Trip:
    return Trip(trip=event.key)


@sender.subsaga(booking, wait=False)
def on_its_own(state: Trip) -> Booking:
    return Booking(what=f"parcel of {state.trip}")


sender.flow(on_its_own)


async def drain(family: Harness) -> None:
    """Advance until no row is ready and no timer of the trips is due."""
    while refs := await due(family):
        await family.pool.advance(refs, slot=0)


async def due(family: Harness) -> list[UUID]:
    async with family.database.transaction() as connection:
        claimed = await inbox.claim(connection, UUID(int=0), ["trip", "booking", "sender"], 200)
    wanted = await family.query("SELECT ref FROM saga_worker.wake WHERE due_at <= now()")
    return [*claimed.refs, *(cast(UUID, each["ref"]) for each in wanted if each["ref"] not in claimed.refs)]


async def answer(family: Harness, choose: Any) -> int:
    """Answer what was sent since the last time, by `choose(type)`; how many there were."""
    commands = [(each.ref, each.message_id, each.type) for each in family.sent]
    family.sent.clear()
    rows = [
        replace(
            reply(choose(type_), id_, "", message_id=f"re:{id_}", definition="trip" if type_ == "pay" else "booking"),
            ref=ref,
        )
        for ref, id_, type_ in commands
    ]
    await family.store(*rows)
    return len(rows)


async def play(family: Harness, choose: Any) -> None:
    await drain(family)
    while await answer(family, choose):
        await drain(family)


async def statuses(family: Harness, name: str) -> Counter[str]:
    found = await family.query("SELECT status FROM saga_worker.v_saga WHERE name = $1", name)
    return Counter(str(each["status"]) for each in found)


def yes(type_: str) -> Any:
    from saga_worker import Done

    return Booked(code="x") if type_ == "book" else Done()


async def plan(family: Harness, key: str, rooms: int) -> None:
    await family.store(row(TripPlanned(trip=key, rooms=rooms), key, message_id=f"plan {key}", definition="trip"))


async def test_a_transaction_that_is_rolled_back_has_started_no_child(family: Harness) -> None:
    """features: L6"""
    await plan(family, "t", 0)
    faults.arm("orchestrator.before_commit=raise")

    with pytest.raises(InjectedFault):
        await family.orchestrator.advance(await due(family))

    assert await family.query("SELECT 1 FROM saga_worker.child") == []
    assert [r["consumer"] for r in await family.query("SELECT consumer FROM saga_worker.inbox")] == ["trip"]
    await play(family, yes)
    assert await statuses(family, "booking") == {"completed": 1}
    assert await statuses(family, "trip") == {"completed": 1}


@pytest.mark.parametrize("seed", range(4))
async def test_families_end_together_whatever_the_answers_and_wherever_a_transaction_fails(
    family: Harness, database_url: str, seed: int
) -> None:
    """features: L5, L6, 140"""
    chance = random.Random(seed)
    for n in range(8):
        await plan(family, f"t{n}", chance.randrange(7))

    def choose(type_: str) -> Any:
        refused = type_ in ("book", "pay") and chance.random() < 0.15
        return Rejected(reason="no") if refused else yes(type_)

    while True:
        if chance.random() < 0.5:
            faults.arm(f"{chance.choice(POINTS)}=raise")
        try:
            refs = await due(family)
            if refs:
                advanced = await family.orchestrator.advance(refs, from_timers=True)
                family.sent += advanced.outgoing
        except InjectedFault:
            family.sent += await unsent(family)  # what a relay reads again after a COMMIT whose answer is lost
            continue
        finally:
            faults.arm(None)
        if not refs and not await answer(family, choose):
            break

    ended = await statuses(family, "trip")
    assert set(ended) <= {"completed", "compensated"} and sum(ended.values()) == 8
    assert set(await statuses(family, "booking")) <= {"completed", "compensated"}
    of_compensated = """
        SELECT count(*) AS open FROM saga_worker.v_saga p JOIN saga_worker.v_saga c ON c.parent_id = p.saga_id
        WHERE p.status = 'compensated' AND c.status <> 'compensated'"""
    assert await family.query(of_compensated) == [{"open": 0}]
    found = await verify(Settings(database_url=database_url))
    assert [v.promise.id for v in found if not v.holds and v.promise.id != "I3"] == []


async def unsent(family: Harness) -> list[Any]:
    from saga_worker import outbox

    known = {each.key for each in family.sent}
    async with family.database.transaction() as connection:
        stored = await outbox.mine(connection, family.worker_id)
    answered = {str(r["message_id"]) for r in await family.query("SELECT message_id FROM saga_worker.inbox")}
    return [each for each in stored if each.key not in known and f"re:{each.message_id}" not in answered]


async def test_a_child_stays_until_its_parent_has_left(family: Harness) -> None:
    """features: L6, 68"""
    await plan(family, "t", 2)
    await play(family, yes)
    await family.query("UPDATE saga_worker.saga SET finished_at = finished_at - interval '60 days' WHERE key <> 't'")
    await family.query("DELETE FROM saga_worker.outbox")

    async with family.database.transaction() as connection:
        assert await instances.retain(connection, timedelta(days=14)) == 0, "their parent may want them back"
    await family.query("UPDATE saga_worker.saga SET finished_at = finished_at - interval '60 days' WHERE key = 't'")
    async with family.database.transaction() as connection:
        assert await instances.retain(connection, timedelta(days=14)) == 1
    async with family.database.transaction() as connection:
        assert await instances.retain(connection, timedelta(days=14)) == 3

    assert await family.query("SELECT 1 FROM saga_worker.child") == []


async def test_a_child_that_nobody_waits_for_goes_its_own_way(family: Harness) -> None:
    """features: 145, L6"""
    await family.store(row(Sent(key="s"), "s", message_id="s", definition="sender"))

    await play(family, yes)

    assert await statuses(family, "sender") == {"completed": 1}
    [child] = await family.query("SELECT status, parent_id FROM saga_worker.v_saga WHERE name = 'booking'")
    assert child == {"status": "completed", "parent_id": None}
    assert await family.query("SELECT 1 FROM saga_worker.inbox WHERE type = 'completed'") == []


async def test_show_says_how_the_children_stand_and_no_open_parent_is_called_stuck(
    family: Harness, database_url: str
) -> None:
    """features: L6"""
    await plan(family, "t", 3)
    await drain(family)
    await answer(family, yes)  # the flight
    await drain(family)

    async with family.database.transaction() as connection:
        facts = await read_facts(connection, "trip/t")
    assert facts is not None
    told = explain(facts)
    assert any("Waiting for the children of step rooms: " in line and "2 running" in line for line in told), told
    assert any("1 not_started" in line for line in told), told
    stuck = [v for v in await verify(Settings(database_url=database_url)) if v.promise.id == "I8"]
    assert [v.holds for v in stuck] == [True]
