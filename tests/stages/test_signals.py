"""Signals: what is refused at once, what is stored, and what the command line says of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import BaseModel

from saga_worker import Event, Saga, days, signals
from saga_worker.envelope import EnvelopeLimits
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.signals import SignalRefused, signal_row
from saga_worker.sql.connection import Database
from saga_worker.testing import eventually
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_saga, audit, execute, fetch, on, progress

CHECKOUT = """
from pydantic import BaseModel, Field
from saga_worker import Event, Saga, days

class OrderPlaced(Event):
    order_id: str

class Approved(Event):
    order_id: str
    cents: int

class Order(BaseModel):
    order_id: str

checkout = Saga("checkout", state=Order, deadline=days(1))

@checkout.starts_on(OrderPlaced, key=lambda e: e.order_id)
def placed(event: OrderPlaced) -> Order:
    return Order(order_id=event.order_id)

approval = checkout.wait("approval")

@approval.on(Approved, key=lambda e: e.order_id)
def approved(order: Order, event: Approved) -> None: ...

checkout.flow(approval)
"""
WORKER = (
    "INSERT INTO saga_worker.worker (lease_until, definitions, host, pid)"
    " VALUES (now() + interval '1 hour', '{}', 'h', 1)"
)


class Opened(Event):
    number: int
    note: str = ""


class Counted(Event):
    account: Opened
    cents: int


class Moved(Event):
    owner: UUID


class Account(BaseModel):
    number: int = 0


def accounts() -> Saga[Account]:
    saga = Saga("accounts", state=Account, deadline=days(1))

    @saga.starts_on(Opened, key=lambda e: e.number)
    def opened(event: Opened) -> Account:
        return Account(number=event.number)

    @saga.on(Counted, key=lambda e: e.account.number)
    def counted(account: Account, event: Counted) -> None: ...

    saga.flow(saga.sleep("for ever", days(1)))
    return saga


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_signal_is_a_row_like_that_of_any_event() -> None:
    """features: 72"""
    row = signal_row(accounts(), "42", "opened", b'{"number": 42}', message_id="m", source="console")

    assert (row.role, row.state, row.prio, row.consumer) == (Role.EVENT, RowState.READY, 1, "accounts")
    assert (row.ref, row.saga_key, row.type) == (ref_of("accounts", "42"), "42", "opened")
    assert (row.message_id, row.source, row.body) == ("m", "console", b'{"number": 42}')


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (b"{}", b'{"number":42}'),
        (b" { } ", b'{"number":42 }'),
        (b'{"note": "1.10"}', b'{"number":42, "note": "1.10"}'),
        (b'{"number": 42}', b'{"number": 42}'),
    ],
)
def test_the_field_of_the_key_may_be_left_out(body: bytes, stored: bytes) -> None:
    row = signal_row(accounts(), "042", "opened", body)

    assert (row.body, row.saga_key) == (stored, "42")
    assert json.loads(row.body)["number"] == 42


@pytest.mark.parametrize(
    ("key", "type_", "body", "sentence"),
    [
        ("42", "closed", b"{}", "accounts, version 1, takes no closed; it takes: counted, opened."),
        ("42", "opened", b"{", "opened is refused: invalid_json"),
        ("42", "opened", b"[]", "opened is refused: not_an_object"),
        ("42", "opened", b'{"number": 43}', "The key in the body of opened is not 42"),
        ("42", "opened", b'{"numbr": 42}', "schema_mismatch: opened does not fit Opened: numbr: extra_forbidden"),
        ("42", "opened", b'{"number": "42"}', "opened is refused: bad_key: The key is text"),
        ("4 2", "opened", b"{}", "opened is refused: bad_key: The key is no whole number"),
        ("42", "counted", b'{"cents": 1}', "counted is refused: bad_key: There is nothing at /account/number"),
        ("42", "opened", b'{"note": "' + b"x" * 200 + b'"}', "opened is refused: payload_too_large"),
    ],
)  # fmt: skip
def test_what_the_saga_could_never_take_is_refused_with_a_sentence(
    key: str, type_: str, body: bytes, sentence: str
) -> None:
    """features: 72, 86"""
    with pytest.raises(SignalRefused) as refused:
        signal_row(accounts(), key, type_, body, limits=EnvelopeLimits(body_bytes=200))

    assert sentence in str(refused.value)


def test_a_key_in_capitals_is_the_same_uuid() -> None:
    saga = Saga("flats", state=Account, deadline=days(1))

    @saga.starts_on(Moved, key=lambda e: e.owner)
    def moved(event: Moved) -> Account:
        return Account()

    key = "0198F2C0-0000-7000-8000-00000000000A"

    assert signal_row(saga, key, "moved", b"{}").saga_key == key.lower()


async def test_a_message_id_of_the_callers_own_is_stored_once(database_url: str) -> None:
    """features: 72, 89"""
    saga = accounts()
    async with Database(database_url, max_size=2) as database:
        first = await signals.send(database, saga, Opened(number=42), message_id="m")
        again = await signals.send(database, saga, Opened(number=42), message_id="m")
        with pytest.raises(SignalRefused, match="with the id m; give each its own"):
            await signals.send(database, saga, Opened(number=43), message_id="m")
        other = await signals.send(database, saga, Opened(number=43))
        async with database.autocommit() as connection:
            rows = await connection.raw.fetch("SELECT id, saga_key, state FROM saga_worker.inbox ORDER BY id")

    assert (first.message_id, again.row_id) == ("m", None)
    assert [tuple(row) for row in rows] == [(first.row_id, "42", 0), (other.row_id, "43", 0)]


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, database: str) -> str:
    """The place of the definition of a saga that is stored."""
    (tmp_path / "checkout.py").write_text(CHECKOUT)
    on(database, lambda c: add_saga(c, "4711", progress(active={"approval": None})))
    return str(tmp_path / "checkout.py")


def rows(database: str) -> list[dict[str, Any]]:
    return fetch(database, "SELECT * FROM saga_worker.inbox WHERE source <> 'shop'")


def settle(database: str, state: int, reason: str | None) -> None:
    """What a worker does with the row, as far as the command line can see."""

    async def work(connection: asyncpg.Connection) -> None:
        settled_at = "CASE WHEN $1::int IN (3, 4) THEN now() END"
        statement = (
            f"UPDATE saga_worker.inbox SET state = $1::int, reason = $2, settled_at = {settled_at}"
            " WHERE source = 'signal'"
        )

        async def one_is_settled() -> bool:
            return str(await connection.execute(statement, state, reason)) == "UPDATE 1"

        await eventually(one_is_settled)

    on(database, work)


def test_a_signal_is_stored_and_audited_and_nobody_waits_without_a_worker(
    run: Run, database: str, checkout: str
) -> None:
    """features: 72"""
    words = ("signal", "checkout/4711", "approved", "--body", '{"cents": 5}', "--definitions", checkout, "--id", "m")

    ran = run("saga", *words, "--actor", "ann", "--why", "called in", "--json")
    again = run("saga", *words, "--json")

    (row,) = rows(database)
    assert (ran.code, ran.documents) == (0, [{"id": "m", "row": row["id"], "state": "ready", "reason": None}])
    assert "No worker runs" in ran.err
    assert (row["type"], row["source"], row["role"], row["ref"]) == (
        "approved",
        "signal",
        0,
        ref_of("checkout", "4711"),
    )
    assert row["body"] == b'{"order_id":"4711", "cents": 5}'
    assert (again.code, again.documents) == (0, [{"id": "m", "row": None, "state": "duplicate", "reason": None}])
    assert audit(database) == [
        {"actor": "ann", "action": "signal", "target": "saga/checkout/4711", "reason": "called in"}
    ]


@pytest.mark.parametrize(
    ("state", "reason", "code", "said"),
    [
        (3, None, 0, "done"),
        (1, "not_expected_yet", 0, "parked (not_expected_yet)"),
        (4, "too_late", 1, "ignored (too_late)"),
    ],
)
def test_the_command_says_what_became_of_it(
    run: Run, database: str, checkout: str, state: int, reason: str | None, code: int, said: str
) -> None:
    """features: 72, 86, 87"""
    execute(database, WORKER)
    worker = threading.Thread(target=settle, args=(database, state, reason))
    worker.start()

    ran = run("saga", "signal", "checkout/4711", "approved", "--body", '{"cents": 5}', "--definitions", checkout)

    worker.join()
    assert (ran.code, ran.out.partition(": ")[2].strip()) == (code, said)


@pytest.mark.parametrize(
    ("name", "type_", "body", "code", "said"),
    [
        ("checkout/4711", "approvd", "{}", 1, "takes no approvd; it takes: approved, order_placed"),
        ("checkout/4711", "approved", "{}", 1, "approved does not fit Approved: cents: missing"),
        ("checkout/4711", "approved", '{"cents": "secret"}', 1, "cents: int_parsing"),
        ("billing/4711", "approved", "{}", 1, "There is no definition billing here; there are: checkout 1."),
        ("4711", "approved", "{}", 2, "Name the saga as DEFINITION/KEY"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_stored(
    run: Run, database: str, checkout: str, name: str, type_: str, body: str, code: int, said: str
) -> None:
    """features: 72"""
    ran = run("saga", "signal", name, type_, "--body", body, "--definitions", checkout)

    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err and "secret" not in ran.err
    assert rows(database) == []
    assert audit(database) == []


def test_a_signal_is_read_by_the_version_that_the_saga_runs_by(run: Run, database: str, checkout: str) -> None:
    execute(database, "UPDATE saga_worker.saga SET definition_version = 2")

    ran = run("saga", "signal", "checkout/4711", "approved", "--body", '{"cents": 5}', "--definitions", checkout)

    assert ran.code == 1
    assert "There is no definition checkout, version 2, by which checkout/4711 runs, here" in ran.err
