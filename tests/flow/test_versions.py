"""Releases that change a definition while its sagas run: workers of two releases, and sagas that pass between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

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
    workers: Workers, wire: Wire, records: Records, release: Release, eventually: Eventually
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
    assert sorted(map(tuple, kinds)) == [("event", 1), ("event", 2), ("reply", 2), ("reply", 2), ("upgrade", 2)]


async def has_status(records: Records, key: str, status: str) -> bool:
    return await records.status(key, "order") == status
