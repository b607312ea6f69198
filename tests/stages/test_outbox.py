"""The outbox: final bytes, one owner at a time, nothing taken by age."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from saga_worker import outbox, workers
from saga_worker.outbox import OutboxRow
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.inputs import Effect, PublishEvent, SendCommand
from saga_worker.saga.routing import command_id
from saga_worker.sql.connection import Database
from tests.stages.stored_rows import NOW, ORDER, keep, query, refs_of, saga, two_sessions, value

OTHER = refs_of(1)[0]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=4) as opened:
        yield opened


def command(seq: int, destination: str = "inventory") -> SendCommand:
    return SendCommand(seq, "reserve", destination, "reserve_stock", b'{"order_id":"4711"}', None)


def rows_of(*effects: Effect, ref: UUID = ORDER) -> list[OutboxRow]:
    return outbox.build(SagaChange(ref, None, saga(ref), effects=list(effects)), namespace="saga")


async def put(database: Database, *rows: OutboxRow, owner: int) -> list[OutboxRow]:
    async with database.transaction() as conn:
        return await outbox.append(conn, rows, owner=owner)


async def lease(database: Database, seconds: float = 60) -> int:
    async with database.transaction() as conn:
        return await workers.register(conn, [], "host", 1, lease_seconds=seconds)


async def take_over(database: Database, me: int, limit: int = 100) -> list[tuple[UUID, int]]:
    async with database.transaction() as conn:
        return [row.key for row in await outbox.take_over(conn, me, limit)]


# -- building -----------------------------------------------------------------------------------------------------


def test_a_command_goes_to_its_destination_and_asks_for_a_reply() -> None:
    instance = saga()
    effect = SendCommand(7, "reserve", "inventory", "reserve_stock", b"{}", NOW + timedelta(minutes=1))
    [row] = outbox.build(SagaChange(ORDER, None, instance, effects=[effect]), namespace="saga")

    assert (row.exchange, row.routing_key, row.mandatory) == ("saga.commands", "inventory.reserve_stock", True)
    assert (row.destination, row.type, row.body) == ("inventory", "reserve_stock", b"{}")
    assert row.message_id == command_id(ORDER, 7)
    assert json.loads(row.props) == {
        "message_id": row.message_id,
        "type": "reserve_stock",
        "app_id": "saga",
        "content_type": "application/json",
        "delivery_mode": 2,
        "timestamp": int(NOW.timestamp()),
        "reply_to": "saga.inbox",
        "headers": {
            "saga-id": str(instance.saga_id),
            "saga-name": "checkout",
            "saga-step": "reserve",
            "saga-deadline": "2026-01-02T03:05:05+00:00",
        },
    }


def test_an_undo_names_the_command_that_it_takes_back() -> None:
    [row] = rows_of(SendCommand(8, "reserve", "inventory", "release_stock", b"{}", None, undoes=7))

    assert json.loads(row.props)["headers"]["saga-undoes"] == command_id(ORDER, 7)


def test_an_event_is_published_to_whoever_listens_and_asks_for_nothing() -> None:
    [row] = rows_of(PublishEvent(9, "announce", "order_shipped", b"{}"))

    assert (row.exchange, row.routing_key, row.mandatory) == ("saga.events", "order_shipped", False)
    assert row.destination == "events"
    assert json.loads(row.props).keys().isdisjoint({"reply_to", "correlation_id"})


def test_the_sender_is_named_as_set() -> None:
    change = SagaChange(ORDER, None, saga(), effects=[command(1)])
    [row] = outbox.build(change, namespace="shop", app_id="checkout-service")

    assert json.loads(row.props)["app_id"] == "checkout-service"
    assert row.exchange == "shop.commands"


# -- storing ------------------------------------------------------------------------------------------------------


async def test_what_is_read_back_is_what_was_built(database: Database) -> None:
    rows = rows_of(command(1), PublishEvent(2, "announce", "order_shipped", b"\x00\xff"))
    await put(database, *rows, owner=7)

    async with database.transaction() as conn:
        assert await outbox.mine(conn, 7) == rows
        assert await outbox.mine(conn, 8) == []


async def test_a_resend_whose_first_copy_is_still_here_is_not_stored_nor_published(database: Database) -> None:
    first = await put(database, *rows_of(command(1)), owner=7)
    second = await put(database, *rows_of(command(1), command(2)), owner=8)

    assert [row.seq for row in first] == [1]
    assert [row.seq for row in second] == [2]
    assert await query(database, "SELECT seq, owner FROM saga_worker.outbox ORDER BY seq") == [(1, 7), (2, 8)]


async def test_the_view_names_a_message_as_the_wire_does(database: Database) -> None:
    refs = refs_of(50)
    stored = [saga(ref) for ref in refs]
    await keep(database, *stored)
    rows = [row for ref in refs for row in rows_of(command(3), ref=ref)]
    await put(database, *rows, owner=7)

    assert await query(database, "SELECT message_id, saga_id, owner FROM saga_worker.v_outbox") == [
        (row.message_id, s.saga_id, 7) for row, s in zip(rows, stored, strict=True)
    ]


async def test_rows_of_others_for_the_same_destination_are_seen(database: Database) -> None:
    await put(database, *rows_of(command(1), command(2, "payment")), owner=7)
    await put(database, *rows_of(command(3), ref=OTHER), owner=8)
    async with database.transaction() as conn:
        assert await outbox.foreign(conn, [ORDER, OTHER], 8) == {(ORDER, "inventory"), (ORDER, "payment")}
        assert await outbox.foreign(conn, [ORDER, OTHER], 7) == {(OTHER, "inventory")}


async def test_what_has_not_gone_out_is_known_by_saga(database: Database) -> None:
    await put(database, *rows_of(command(1), command(2)), owner=7)
    await put(database, *rows_of(command(5), ref=OTHER), owner=8)
    async with database.transaction() as conn:
        assert await outbox.unsent(conn, [ORDER, OTHER, refs_of(2)[1]]) == {ORDER: {1, 2}, OTHER: {5}}


async def test_own_rows_are_read_page_by_page(database: Database) -> None:
    rows = [row for ref in refs_of(3) for row in rows_of(command(1), command(2), ref=ref)]
    await put(database, *rows, owner=7)
    async with database.transaction() as conn:
        first = await outbox.mine(conn, 7, limit=4)
        rest = await outbox.mine(conn, 7, after=first[-1].key, limit=4)

    assert [row.key for row in [*first, *rest]] == sorted(row.key for row in rows)


# -- owning -------------------------------------------------------------------------------------------------------


async def test_a_living_owner_keeps_its_rows_however_old_they_are(database: Database) -> None:
    """features: M27"""
    owner, relay = await lease(database), await lease(database)
    await put(database, *rows_of(command(1)), owner=owner)

    assert await take_over(database, relay) == []


async def test_rows_of_the_dead_the_unknown_and_nobody_are_taken_over(database: Database) -> None:
    """features: M1"""
    dead, relay = await lease(database, -1), await lease(database)
    await put(database, *rows_of(command(1)), owner=dead)
    await put(database, *rows_of(command(2)), owner=9999)
    await put(database, *rows_of(command(3)), owner=outbox.NOBODY)

    assert await take_over(database, relay) == [(ORDER, 1), (ORDER, 2), (ORDER, 3)]
    assert await take_over(database, relay) == []


async def test_left_over_rows_are_taken_in_order_and_in_portions(database: Database) -> None:
    relay = await lease(database)
    rows = [row for ref in refs_of(4) for row in rows_of(command(2), command(1), ref=ref)]
    await put(database, *rows, owner=outbox.NOBODY)
    first = await take_over(database, relay, 5)
    second = await take_over(database, relay, 5)

    assert first + second == sorted(row.key for row in rows)
    assert len(first) == 5


async def test_two_relays_never_take_the_same_row(database: Database) -> None:
    one, two = await lease(database), await lease(database)
    await put(database, *[row for ref in refs_of(10) for row in rows_of(command(1), ref=ref)], owner=outbox.NOBODY)
    async with two_sessions(database) as (first, second):
        taken = await outbox.take_over(first.conn, one, 6)
        rest = await outbox.take_over(second.conn, two, 6)

        assert {row.key for row in taken}.isdisjoint(row.key for row in rest)
        assert len(taken) + len(rest) == 10


async def test_an_owner_that_lost_its_rows_cannot_delete_them(database: Database) -> None:
    """A frozen worker wakes up and gets its confirms: the rows are another's to send."""
    frozen, relay = await lease(database, -1), await lease(database)
    await put(database, *rows_of(command(1), command(2)), owner=frozen)
    await take_over(database, relay)
    keys = [(ORDER, 1), (ORDER, 2)]
    async with database.transaction() as conn:
        assert await outbox.delete(conn, keys, owner=frozen) == 0
        assert await outbox.postpone(conn, keys, frozen, "refused", 1) == 0
    async with database.transaction() as conn:
        assert await outbox.delete(conn, keys, owner=relay) == 2


async def test_a_lease_that_ends_while_rows_are_taken_over_gives_each_row_one_owner(database: Database) -> None:
    dead, one, two = await lease(database, -1), await lease(database), await lease(database)
    await put(database, *rows_of(command(1)), owner=dead)
    async with two_sessions(database) as (first, second):
        await outbox.take_over(first.conn, one, 10)
        assert await outbox.take_over(second.conn, two, 10) == []
        await first.commit()

        assert await outbox.take_over(second.conn, two, 10) == []


async def test_a_worker_that_ends_gives_its_rows_up_at_once(database: Database) -> None:
    """features: M15"""
    leaving, relay = await lease(database), await lease(database)
    await put(database, *rows_of(command(1)), owner=leaving)
    async with database.transaction() as conn:
        assert await outbox.release(conn, leaving) == 1

    assert await take_over(database, relay) == [(ORDER, 1)]


async def test_a_refused_row_waits_and_says_why(database: Database) -> None:
    await put(database, *rows_of(command(1), command(2)), owner=7)
    async with database.transaction() as conn:
        assert await outbox.postpone(conn, [(ORDER, 1)], 7, "no queue takes inventory.reserve_stock", 30) == 1
    async with database.transaction() as conn:
        refused, free = await outbox.mine(conn, 7)

    assert (refused.attempts, free.attempts, free.delay_seconds) == (1, 0, 0)
    assert 0 < refused.delay_seconds <= 30
    assert await value(database, "SELECT last_error FROM saga_worker.v_outbox WHERE seq = 1") == (
        "no queue takes inventory.reserve_stock"
    )


async def test_deleting_what_another_is_writing_waits_for_nobody(database: Database) -> None:
    await put(database, *rows_of(command(1), command(2)), owner=7)
    async with two_sessions(database) as (one, two):
        await outbox.postpone(one.conn, [(ORDER, 1)], 7, "refused", 1)

        assert await outbox.delete(two.conn, [(ORDER, 2), (ORDER, 1)], owner=7) == 1


async def test_nothing_is_done_for_no_rows(database: Database) -> None:
    async with database.transaction() as conn:
        assert await outbox.append(conn, [], owner=7) == []
        assert await outbox.delete(conn, [], owner=7) == 0
        assert await outbox.postpone(conn, [], 7, "", 1) == 0
        assert await outbox.unsent(conn, []) == {}
