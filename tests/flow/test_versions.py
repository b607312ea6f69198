"""Releases that change a definition while its sagas run: workers of two releases, and sagas that pass between them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker import DefinitionError
from tests.flow.processes import Processes
from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]
SAGAS: Final = 500

RELEASE = """
from typing import Any
from pydantic import BaseModel
from saga_worker import Command, Event, Saga, UndoOf, days, minutes, pivot

class Ordered(Event):
    order: str

class Approved(Event):
    order: str

class Reserve(Command):
    order: str
    by: int = {version}

class Release(UndoOf[Reserve]):
    order: str
    by: int = {version}

class Ship(Command):
    order: str
    by: int = {version}

class State(BaseModel):
    order: str
    {fields}

order = Saga("order", state=State, version={version}, deadline=days(10))

@order.starts_on(Ordered, key=lambda event: event.order)
def ordered(event: Ordered) -> State:
    return State(order=event.order)

@order.command("inventory", timeout=minutes(10), name={reserve!r})
def reserve(state: State) -> Reserve:
    return Reserve(order=state.order)

@reserve.undo
def release(state: State) -> Release:
    return Release(order=state.order)

review = order.wait({review!r}, timeout=days(2))

@review.on(Approved, key=lambda event: event.order)
def approved(state: State, event: Approved) -> None: ...

@order.command("shipping", timeout=minutes(10))
def ship(state: State) -> Ship:
    return Ship(order=state.order)

order.flow(reserve, review, pivot(ship))
{upgrade}
"""
UPGRADE = """
@order.upgrade_from(1, steps={steps})
def from_1(old: dict[str, Any]) -> State:
    return State(order=old["order"], came_from=1)
"""
Release = Callable[..., Path]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A folder with version 1 of the saga, or with version 2 alone, under other names and with an upgrade."""

    def write(version: int, *, steps: str = "{'reserve': 'hold', 'review': 'approval'}") -> Path:
        place = tmp_path / f"release_{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        new = {"fields": "came_from: int = 2", "reserve": "hold", "review": "approval"}
        old = {"fields": "note: str = ''", "reserve": "reserve", "review": "review"}
        text = RELEASE.format(
            version=version,
            upgrade=UPGRADE.format(steps=steps) if version == 2 else "",
            **(new if version == 2 else old),
        )
        (place / "order.py").write_text(text)
        return place

    return write


async def test_a_saga_goes_on_under_the_next_release(
    workers: Workers, wire: Wire, records: Records, release: Release, processes: Processes, eventually: Eventually
) -> None:
    """features: 80, L19"""
    first = await workers.start(release(1))
    await wire.publish("ordered", {"order": "1"}, id="e-1")
    reserve = await wire.next("reserve")
    await workers.stop(first)

    await workers.start(release(2))
    await wire.answer(reserve, "done")
    await wire.publish("approved", {"order": "1"}, id="e-2")
    ship = await wire.next("ship")
    assert ship.data["by"] == 2
    await wire.answer(ship, "done")
    await eventually(lambda: has_status(records, "1", "completed"))

    kinds = await records.connection.fetch(
        "SELECT input_kind, definition_version FROM saga_worker.v_journal ORDER BY 1, 2"
    )
    shown = processes.command("saga", "show", "order/1").stdout
    assert re.search(r"definition_version +2", shown) and re.search(r"\tupgrade\t.*\tupgrade:\S+:2\t", shown)
    assert sorted(map(tuple, kinds)) == [("event", 1), ("event", 2), ("reply", 2), ("reply", 2), ("upgrade", 2)]


async def test_five_hundred_sagas_in_flight_over_a_rolling_deployment(
    workers: Workers, wire: Wire, records: Records, release: Release, eventually: Eventually
) -> None:
    """Old and new run side by side, then the old one goes; nothing that a saga says is said by another version's code.

    features: 80, L19
    """
    old, new = release(1), release(2)
    first = await workers.start(old)
    await publish_all(wire, "ordered")
    await eventually(lambda: has_count(wire, "reserve", SAGAS), deadline=60)
    for number, command in enumerate([heard for heard in wire.heard if heard.type == "reserve"]):
        if number % 2:  # half of them wait for their review, half for an answer
            await wire.answer(command, "done")

    second = await workers.start(new)
    for number, command in enumerate([heard for heard in wire.heard if heard.type == "reserve"]):
        if number % 4 == 0:
            await wire.answer(command, "done")
    await publish_all(wire, "approved", range(0, SAGAS, 3))
    await workers.stop(first)
    wire.serve({"release": ("done", {}), "ship": ("done", {})})
    for number, command in enumerate([heard for heard in wire.heard if heard.type == "reserve"]):
        if number % 4 == 2:
            await wire.answer(command, "rejected" if number % 8 == 2 else "done")
    for command in [heard for heard in wire.heard if heard.type == "ship"]:
        await wire.answer(command, "done")
    await publish_all(wire, "approved", set(range(SAGAS)) - set(range(0, SAGAS, 3)))

    async def all_over() -> bool:
        return bool(await records.value("SELECT count(*) FROM saga_worker.v_saga WHERE finished_at IS NULL") == 0)

    await eventually(all_over, deadline=90)
    ends = await records.connection.fetch("SELECT status, count(*) FROM saga_worker.v_saga GROUP BY 1")
    rejected = len([n for n in range(SAGAS) if n % 8 == 2])
    assert dict(map(tuple, ends)) == {"completed": SAGAS - rejected, "compensated": rejected}
    assert wire.count("ship") == SAGAS - rejected
    assert await said_by_others(wire, records) == []
    moved = await records.value("SELECT count(*) FROM saga_worker.v_journal WHERE input_kind = 'upgrade'")
    never_moved = await records.value("SELECT count(*) FROM saga_worker.v_saga WHERE definition_version = 1")
    assert moved + never_moved == SAGAS and moved >= SAGAS // 2
    assert second.is_ready


async def said_by_others(wire: Wire, records: Records) -> list[str]:
    """Commands that name another version than that under which their saga has sent them."""
    rows = await records.connection.fetch(
        "SELECT unnest(sent_ids) AS id, definition_version AS version FROM saga_worker.v_journal"
    )
    versions = {row["id"]: row["version"] for row in rows}
    return [heard.id for heard in wire.heard if heard.message.reply_to and heard.data["by"] != versions[heard.id]]


async def test_what_has_no_place_is_left_to_the_old_release_and_held_when_that_is_gone(
    workers: Workers, wire: Wire, records: Records, release: Release, eventually: Eventually
) -> None:
    """features: 80, 158"""
    old, new = release(1), release(2, steps="{'reserve': 'hold'}")  # `review` has no place there
    first = await workers.start(old)
    for key in ("1", "2"):
        await wire.publish("ordered", {"order": key}, id=f"o-{key}")
        await wire.obey("reserve", "done")
    await eventually(lambda: has_status(records, "2", "waiting"))
    second = await workers.start(new)
    await wire.publish("approved", {"order": "1"}, id="a-1")
    ship = await wire.next("ship")
    assert ship.data["by"] == 1
    await workers.stop(first)

    await wire.publish("approved", {"order": "2"}, id="a-2")
    await eventually(lambda: has_fate(records, "a-2", "held: no_upgrade"))
    saga = await records.saga("2", "order")
    assert saga is not None
    assert saga["attention"] == (
        "no_upgrade: version 1 is not loaded, not to version 2: it stands at review, which version 2 does not have"
    )
    await workers.stop(second)

    await workers.start(release(2))  # mended: it has
    ship = await wire.next("ship")
    assert ship.data == {"order": "2", "by": 2}
    await wire.answer(ship, "done")
    await eventually(lambda: has_status(records, "2", "completed"))


PRICES = """
from typing import Any
from pydantic import BaseModel
from saga_worker import ActivityContext, Event, Retry, Saga, Undo, days, seconds

class Asked(Event):
    ask: str

class Price(BaseModel):
    cents: int

class State(BaseModel):
    ask: str
    cents: int = 0

price = Saga("price", state=State, version={version}, deadline=days(1))

@price.starts_on(Asked, key=lambda event: event.ask)
def asked(event: Asked) -> State:
    return State(ask=event.ask)

@price.activity(timeout=seconds(5), retry=Retry.fixed(100, seconds(1)), undo=Undo.NONE, name={name!r})
async def look_up(state: State, ctx: ActivityContext) -> Price:
    if {version} == 1:
        raise RuntimeError("nobody is there")
    return Price(cents=len(state.ask))

@look_up.result
def found(state: State, price: Price) -> None:
    state.cents = price.cents

price.flow(look_up)
"""


async def test_an_activity_that_the_old_release_leaves_behind_is_run_by_the_new_one(
    workers: Workers, wire: Wire, records: Records, tmp_path: Path, eventually: Eventually
) -> None:
    """features: 80, L19"""
    upgrade = "price.upgrade_from(1, steps={'ask': 'look up'})(lambda old: State(ask='moved'))\n"
    (tmp_path / "one.py").write_text(PRICES.format(version=1, name="ask"))
    (tmp_path / "two.py").write_text(PRICES.format(version=2, name="look up") + upgrade)
    first = await workers.start(tmp_path / "one.py")
    await wire.publish("asked", {"ask": "tea"}, id="e-1")

    async def has_failed() -> bool:
        return bool(await records.value("SELECT count(*) FROM saga_worker.v_activity WHERE last_error IS NOT NULL"))

    await eventually(has_failed)
    await workers.stop(first)

    await workers.start(tmp_path / "two.py")

    async def is_completed() -> bool:
        return await records.status("tea", "price") == "completed"

    await eventually(is_completed)
    saga = await records.saga("tea", "price")
    assert saga is not None and "5" in str(saga["state"])


SHIFTS = """
from typing import Any
from pydantic import BaseModel
from saga_worker import Event, Saga, days, upcast

class Begun(Event):
    shift: str

class Counted(Event):
    shift: str
    {counted}

class Ended(Event):
    shift: str

class State(BaseModel):
    shift: str
    {state}

shift = Saga("shift", state=State, deadline=days(1))

@shift.starts_on(Begun, key=lambda event: event.shift)
def begun(event: Begun) -> State:
    return State(shift=event.shift)

@shift.on(Counted, key=lambda event: event.shift)
def counted(state: State, event: Counted) -> None:
    {handler}

end = shift.wait("end")

@end.on(Ended, key=lambda event: event.shift)
def ended(state: State, event: Ended) -> None: ...

shift.flow(end)
"""
IN_EUROS = SHIFTS.format(counted="euros: int", state="euros: int = 0", handler="state.euros += event.euros")
IN_CENTS = (
    SHIFTS.format(counted="cents: int", state="cents: int = 0", handler="state.cents += event.cents")
    + """
@upcast(Counted)
def of_event(payload: dict[str, Any]) -> dict[str, Any]:
    return in_cents(payload)

@upcast(State)
def of_state(payload: dict[str, Any]) -> dict[str, Any]:
    return in_cents(payload)

def in_cents(payload: dict[str, Any]) -> dict[str, Any]:
    if "euros" in payload:
        payload["cents"] = 100 * payload.pop("euros")
    return payload
"""
)


async def test_what_an_older_release_has_stored_is_read_by_newer_models(
    workers: Workers, wire: Wire, records: Records, tmp_path: Path, eventually: Eventually
) -> None:
    """An event that waits in the inbox, and the state of a running saga, under the same version of the definition.

    features: 165
    """
    (tmp_path / "old.py").write_text(IN_EUROS)
    (tmp_path / "new.py").write_text(IN_CENTS)
    first = await workers.start(tmp_path / "old.py")
    await wire.publish("begun", {"shift": "night"}, id="b-1")
    await wire.publish("counted", {"shift": "night", "euros": 5}, id="c-1")
    await wire.publish("counted", {"shift": "day", "euros": 3}, id="c-2")
    await eventually(lambda: has_fate(records, "c-1", "done"))
    await eventually(lambda: has_fate(records, "c-2", "parked: unknown_saga"))
    await workers.stop(first)

    await workers.start(tmp_path / "new.py")
    await wire.publish("counted", {"shift": "night", "cents": 1}, id="c-3")
    await wire.publish("begun", {"shift": "day"}, id="b-2")
    await eventually(lambda: has_fate(records, "c-2", "done"))
    await eventually(lambda: has_fate(records, "c-3", "done"))

    states = await records.connection.fetch("SELECT key, state::text FROM saga_worker.v_saga WHERE name = 'shift'")
    assert {row["key"]: json.loads(row["state"]) for row in states} == {
        "night": {"shift": "night", "cents": 501}, "day": {"shift": "day", "cents": 300},
    }  # fmt: skip


async def test_a_definition_that_was_changed_under_its_open_sagas_does_not_start_until_somebody_says_so(
    workers: Workers, wire: Wire, records: Records, tmp_path: Path, eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """features: 80, 158"""
    (tmp_path / "one.py").write_text(IN_EUROS)
    (tmp_path / "two.py").write_text(IN_EUROS.replace('shift.wait("end")', 'shift.wait("close")'))
    first = await workers.start(tmp_path / "one.py")
    await workers.stop(first)
    second = await workers.start(tmp_path / "two.py")  # no saga is open: nobody is in its way
    await wire.publish("begun", {"shift": "night"}, id="b-1")
    await eventually(lambda: has_fate(records, "b-1", "done"))
    await workers.stop(second)

    with pytest.raises(DefinitionError, match="shift version 1 has changed while one of its sagas is open: step"):
        await workers.start(tmp_path / "one.py")
    assert "definition_changed" not in caplog.messages
    await workers.start(tmp_path / "one.py", definition_changes="warn")
    assert "definition_changed" in caplog.messages


NAPS = """
import os
from pathlib import Path
from typing import Any
from pydantic import BaseModel
from saga_worker import Event, OnTimeout, Saga, days, seconds
from sqlalchemy.ext.asyncio import AsyncSession

class Tired(Event):
    who: str

class Rung(Event):
    who: str

class State(BaseModel):
    who: str

nap = Saga("nap", state=State, version={version}, deadline=days(1))

@nap.starts_on(Tired, key=lambda event: event.who)
def tired(event: Tired) -> State:
    return State(who=event.who)

rest = nap.wait("rest", timeout={timeout}, on_timeout=OnTimeout.CONTINUE)

@rest.on(Rung, key=lambda event: event.who)
def rung(state: State, event: Rung) -> None: ...

nap.flow(rest)
"""
DEADLY = """
@nap.upgrade_from(1)
def from_1(old: dict[str, Any]) -> State:
    if old["who"] == "deadly" and not Path({mended!r}).exists():
        os._exit(9)
    return State(**old)
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", ["a timer", "an event"])
async def test_an_upgrade_that_kills_its_workers_ends_few_of_them_and_waits_for_an_operator(
    workers: Workers,
    processes: Processes,
    wire: Wire,
    records: Records,
    tmp_path: Path,
    eventually: Eventually,
    by: str,
) -> None:
    mended, timeout = tmp_path / "mended", "seconds(1)" if by == "a timer" else "days(1)"
    (tmp_path / "one.py").write_text(NAPS.format(version=1, timeout="seconds(1)" if by == "a timer" else "days(1)"))
    (tmp_path / "two.py").write_text(NAPS.format(version=2, timeout=timeout) + DEADLY.format(mended=str(mended)))
    first = workers.build(tmp_path / "one.py", frozenset({"consume", "relay"}))
    second = await workers.start(tmp_path / "one.py")
    for who in ("kind", "deadly"):
        await wire.publish("tired", {"who": who}, id=f"t-{who}")
        await eventually(lambda who=who: has_fate(records, f"t-{who}", "done"))
    await workers.stop(second)
    await first.start()
    if by == "an event":
        for who in ("kind", "deadly"):
            await wire.publish("rung", {"who": who}, id=f"r-{who}")
        await eventually(lambda: has_fate(records, "r-deadly", "ready"))
    await workers.stop(first)

    async def has_attention() -> bool:
        saga = await records.saga("deadly", "nap")
        return saga is not None and saga["attention"] is not None

    deaths = 0
    run = processes.start(definitions=tmp_path / "two.py", MAX_CRASHES="1", LEASE_SECONDS="2")

    async def is_given_up() -> bool:
        nonlocal run, deaths
        if run.process.poll() is not None:
            assert run.process.returncode == 9, run.log
            deaths += 1
            run = processes.start(definitions=tmp_path / "two.py", MAX_CRASHES="1", LEASE_SECONDS="2")
        return await has_attention()

    await eventually(is_given_up, deadline=90)
    assert 1 <= deaths <= 8
    await eventually(run.is_ready)
    saga = await records.saga("deadly", "nap")
    assert saga is not None and saga["definition_version"] == 1
    assert saga["attention"].startswith("timer_failed: wait:rest: " if by == "a timer" else "dead_letter")
    await eventually(lambda: is_completed(records, "kind"))

    mended.touch()
    remedy = ("saga", "retry", "nap/deadly") if by == "a timer" else ("inbox", "replay", "--all", "--yes")
    assert processes.command(*remedy).returncode == 0
    await eventually(lambda: is_completed(records, "deadly"))
    assert run.stop() == 0


async def is_completed(records: Records, key: str) -> bool:
    return await records.status(key, "nap") == "completed"


async def publish_all(wire: Wire, type_: str, keys: Any = range(SAGAS)) -> None:
    await asyncio.gather(*(wire.publish(type_, {"order": str(key)}, id=f"{type_}-{key}") for key in keys))


async def has_status(records: Records, key: str, status: str) -> bool:
    return await records.status(key, "order") == status


async def has_fate(records: Records, id: str, fate: str) -> bool:
    return (await records.fates()).get(id) == fate


async def has_count(wire: Wire, type_: str, count: int) -> bool:
    return wire.count(type_) >= count
