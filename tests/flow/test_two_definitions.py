"""One event for two definitions, and types whose definition comes later or has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.flow.plain_client import bind
from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]

DEFINITION = """
from datetime import timedelta
from pydantic import BaseModel
from saga_worker import Event, Saga

class Opened(Event, type="{type}"):
    account: str
    customer: str

class Closed(Event, type="{name}_closed"):
    key: str

class State(BaseModel):
    key: str

saga = Saga("{name}", state=State, deadline=timedelta(days=1))

@saga.starts_on(Opened, key=lambda event: event.{key})
def opened(event: Opened) -> State:
    return State(key=event.{key})

closing = saga.wait("closing")

@closing.on(Closed, key=lambda event: event.key)
def closed(state: State, event: Closed) -> None: ...

saga.flow(closing)
"""


@pytest.fixture
def definition(tmp_path: Path) -> Callable[..., Path]:
    """Writes a saga into a folder: it starts on events of `type`, by the field `key`."""

    def write(folder: str, name: str, *, key: str, type: str = "account_opened") -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        (place / f"{name}.py").write_text(DEFINITION.format(name=name, key=key, type=type))
        return place

    return write


async def test_an_event_for_two_definitions_is_applied_to_both(
    workers: Workers, wire: Wire, records: Records, definition: Callable[..., Path], eventually: Eventually
) -> None:
    definition("both", "ledger", key="account")
    await workers.start(definition("both", "welcome", key="customer"))
    for _ in range(2):
        await wire.publish("account_opened", {"account": "a-1", "customer": "c-1"}, id="e-1")
    await wire.publish("ledger_closed", {"key": "a-1"}, id="e-2")

    async def applied() -> bool:
        rows = [(row["consumer"], row["message_id"], row["saga_key"], row["state"]) for row in await records.rows()]
        assert sorted(rows) == [
            ("ledger", "e-1", "a-1", "done"),
            ("ledger", "e-2", "a-1", "done"),
            ("welcome", "e-1", "c-1", "done"),
        ]
        return True

    await eventually(applied)
    assert await records.status("a-1", "ledger") == "completed"
    assert await records.status("c-1", "welcome") == "waiting"


async def test_a_consumer_stores_for_definitions_that_it_has_not_loaded(
    workers: Workers, wire: Wire, records: Records, definition: Callable[..., Path], eventually: Eventually
) -> None:
    """A rolling deploy: the release that knows the second definition is one process, the queue is shared."""
    old = await workers.start(definition("old", "ledger", key="account"))
    new = workers.build(definition("new", "welcome", key="customer"), frozenset({"advance", "relay", "sweep"}))
    await new.start()
    await wire.publish("account_opened", {"account": "a-1", "customer": "c-1"}, id="e-1")

    async def applied() -> bool:
        return sorted((row["consumer"], row["state"]) for row in await records.rows()) == [
            ("ledger", "done"),
            ("welcome", "done"),
        ]

    await eventually(applied)
    assert old.consumer.is_caught_up


async def test_a_type_without_a_definition_is_parked_until_one_comes(
    workers: Workers, wire: Wire, records: Records, definition: Callable[..., Path], amqp_url: str,
    namespace: Namespace, eventually: Eventually,
) -> None:  # fmt: skip
    await workers.start(definition("old", "ledger", key="account"))
    await asyncio.to_thread(bind, amqp_url, str(namespace), "customer_moved")
    await wire.publish("customer_moved", {"account": "a-1", "customer": "c-1"}, id="e-1")
    await eventually(lambda: has_fate(records, "parked: no_definition"))

    await workers.start(definition("new", "moving", key="customer", type="customer_moved"))
    await eventually(lambda: has_fate(records, "done"))

    assert await records.status("c-1", "moving") == "waiting"
    assert [row["consumer"] for row in await records.rows()] == ["moving"]


async def test_what_a_gone_definition_left_is_held_and_goes_on_when_it_is_back(
    workers: Workers, wire: Wire, records: Records, definition: Callable[..., Path], eventually: Eventually
) -> None:
    ledger = definition("ledger", "ledger", key="account")
    first = await workers.start(ledger)
    await wire.publish("account_opened", {"account": "a-1", "customer": "c-1"}, id="e-1")
    await eventually(lambda: has_fate(records, "done"))
    await workers.stop(first)
    await workers.start(definition("other", "welcome", key="customer"))
    await wire.publish("ledger_closed", {"key": "a-1"}, id="e-2")
    await eventually(lambda: has_fate(records, "held: definition_absent", id="e-2"))

    await workers.start(ledger)
    await eventually(lambda: has_fate(records, "done", id="e-2"))
    assert await records.status("a-1", "ledger") == "completed"


async def has_fate(records: Records, fate: str, *, id: str = "e-1") -> bool:
    return (await records.fates()).get(id) == fate
