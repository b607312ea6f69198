"""What operators and time do to the inbox: replay, discard, expiry, new routes, absent definitions, retention."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from saga_worker import inbox, instances, workers
from saga_worker.inbox import DeadFilter
from saga_worker.routes import RouteTable
from saga_worker.saga.routing import INTERNAL, KeyKind, Route, ref_of
from saga_worker.saga.rows import Role, RowChange, RowState
from saga_worker.saga.transitions import Status
from saga_worker.sql.connection import Database
from tests.stages.stored_rows import (
    NOW,
    ORDER,
    dead,
    keep,
    parked,
    query,
    refs_of,
    row,
    saga,
    store,
    two_sessions,
    value,
)

EVERYTHING = DeadFilter()
OTHER = refs_of(1)[0]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=4) as opened:
        yield opened


async def replay(database: Database, which: DeadFilter = EVERYTHING) -> inbox.Replayed:
    async with database.transaction() as conn:
        return await inbox.replay(conn, which, actor="ann", reason="fixed")


# -- replay and discard -------------------------------------------------------------------------------------------


async def test_a_replayed_row_is_as_if_it_had_just_come(database: Database) -> None:
    [id_] = await store(database, row("m"))
    async with database.transaction() as conn:
        died = RowChange(id_, RowState.DEAD, "handler_error", "It raised.", suspect=True, attempts=5, crashes=2)
        await inbox.settle(conn, [died])
    replayed = await replay(database)

    assert replayed == inbox.Replayed([id_], frozenset({ORDER}), expired=[], unrouted=[], last_id=None)
    columns = "id, message_id, state, reason, error, suspect, attempts, crashes, body"
    assert await query(database, f"SELECT {columns} FROM saga_worker.inbox") == [
        (id_, "m", RowState.READY, None, None, False, 0, 0, row().body)
    ]


async def test_only_dead_rows_are_replayed_and_each_once(database: Database) -> None:
    await store(database, row(), parked(), row(state=RowState.DONE), dead())

    assert len((await replay(database)).ids) == 1
    assert (await replay(database)).ids == []


async def test_two_replays_at_once_replay_once(database: Database) -> None:
    await store(database, dead())
    async with two_sessions(database) as (one, two):
        first = await inbox.replay(one.conn, EVERYTHING, actor="ann")
        await one.commit()
        second = await inbox.replay(two.conn, EVERYTHING, actor="bob")

        assert (len(first.ids), len(second.ids)) == (1, 0)


async def test_who_replayed_what_and_why_is_recorded(database: Database) -> None:
    [id_] = await store(database, dead())
    await replay(database)

    [(actor, action, target, reason, before, after)] = await query(
        database, "SELECT actor, action, target, reason, before, after FROM saga_worker.v_audit"
    )
    assert (actor, action, target, reason) == ("ann", "replay", f"inbox/{id_}", "fixed")
    assert json.loads(before)["reason"] == "handler_error"
    assert json.loads(after) == {"state": "ready"}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (DeadFilter(reason="bad_key"), [1]),
        (DeadFilter(type="order_cancelled"), [2]),
        (DeadFilter(saga_key="42"), [3]),
        (DeadFilter(consumer="refund"), [4]),
        (DeadFilter(since=NOW + timedelta(days=36_500)), []),
        (DeadFilter(since=NOW - timedelta(days=36_500)), [0, 1, 2, 3, 4]),
        (DeadFilter(reason="handler_error", type="order_placed"), [0, 3, 4]),
        (DeadFilter(ids=[]), []),
    ],
)
async def test_filters_choose_and_all_have_to_fit(database: Database, which: DeadFilter, expected: list[int]) -> None:
    ids = await store(
        database, dead(), dead(reason="bad_key"), dead(type="order_cancelled"), dead(saga_key="42"),
        dead(consumer="refund"),
    )  # fmt: skip

    assert (await replay(database, which)).ids == [ids[number] for number in expected]


async def test_a_message_that_waited_for_an_internal_definition_is_refused(database: Database) -> None:
    """features: 132"""
    await store(database, no_definition("m"))
    internal = Route("checkout", 1, "order_placed", INTERNAL, "/order_id", KeyKind.TEXT)
    async with database.transaction() as conn:
        assert await inbox.reroute_unrouted(conn, RouteTable(1, {"order_placed": [internal]})) == []

    assert await query(database, "SELECT state, reason, role FROM saga_worker.inbox") == [
        (RowState.DEAD, "internal_only", Role.EVENT)
    ]


async def test_many_dead_rows_are_replayed_page_by_page(database: Database) -> None:
    ids = await store(database, *[dead() for _ in range(5)])
    page = await replay(database, DeadFilter(limit=2))
    pages = [page.ids]
    while page.last_id is not None:
        page = await replay(database, DeadFilter(after=page.last_id, limit=2))
        pages.append(page.ids)

    assert pages == [ids[:2], ids[2:4], ids[4:]]


async def test_a_row_whose_saga_was_purged_is_refused(database: Database) -> None:
    """features: M25"""
    ended = saga(status=3, finished_at=NOW - timedelta(days=900))
    await keep(database, ended)
    async with database.transaction() as conn:
        await instances.retain(conn, timedelta(days=14))
    [late, other] = await store(database, dead(), dead(ref=OTHER))
    replayed = await replay(database)

    assert (replayed.ids, replayed.expired) == ([other], [late])
    assert await value(database, "SELECT state FROM saga_worker.inbox WHERE id = $1", late) == RowState.DEAD


async def test_a_row_of_a_later_saga_of_a_purged_key_is_replayed(database: Database) -> None:
    """features: 55, 67"""
    [old] = await store(database, dead())
    for _ in range(2):  # the second purge counts as the first one did
        await keep(database, saga(status=3, finished_at=NOW - timedelta(days=900)))
        await query(database, "UPDATE saga_worker.inbox SET state = 4, settled_at = now()")  # or the saga would stay
        async with database.transaction() as conn:
            assert await instances.retain(conn, timedelta(days=14)) == 1
    await query(database, "UPDATE saga_worker.inbox SET state = 5, settled_at = NULL")
    await keep(database, saga())
    [young] = await store(database, dead())
    replayed = await replay(database)

    assert (replayed.ids, replayed.expired) == ([young], [old])


async def test_a_row_without_saga_is_replayed_by_giving_it_one(database: Database) -> None:
    [id_] = await store(database, dead("m", ref=None, saga_key=None, consumer="", reason="unknown_type"))
    async with database.transaction() as conn:
        replayed = await inbox.replay(conn, EVERYTHING, actor="ann")
        assert (replayed.ids, replayed.unrouted) == ([], [id_])
        [lost] = await inbox.unrouted(conn, replayed.unrouted)
        assert (lost.message_id, lost.body) == ("m", row().body)
        assert await inbox.assign(
            conn, lost, consumer="checkout", ref=ORDER, key="4711", role=Role.EVENT, actor="ann", reason="routed"
        )

    assert await query(database, "SELECT id, state, consumer, ref, dedup FROM saga_worker.inbox") == [
        (id_, RowState.READY, "checkout", ORDER, inbox.dedup_of("checkout", "shop", "m"))
    ]
    assert await value(database, "SELECT target FROM saga_worker.v_audit") == f"inbox/{id_}"


async def test_a_row_without_saga_that_was_stored_again_meanwhile_is_not_assigned(database: Database) -> None:
    await store(database, dead("m", ref=None, consumer=""), row("m"))
    async with database.transaction() as conn:
        [lost] = await inbox.unrouted(conn, (await inbox.replay(conn, EVERYTHING, actor="ann")).unrouted)
        assert not await inbox.assign(
            conn, lost, consumer="checkout", ref=ORDER, key="4711", role=Role.EVENT, actor="a"
        )


async def test_discarding_ignores_the_row_and_has_its_saga_looked_at(database: Database) -> None:
    [id_, without_saga] = await store(database, dead(), dead(ref=None))
    async with database.transaction() as conn:
        discarded = await inbox.discard(conn, EVERYTHING, actor="ann", reason="a test order")

    assert discarded.ids == [id_, without_saga]
    assert discarded.refs == {ORDER}
    assert await query(
        database, "SELECT type, role, state, reason, prio, ref FROM saga_worker.inbox ORDER BY id"
    ) == [
        ("order_placed", Role.EVENT, RowState.IGNORED, "discarded", 1, ORDER),
        ("order_placed", Role.EVENT, RowState.IGNORED, "discarded", 1, None),
        ("recheck", Role.OPERATOR, RowState.READY, None, 0, ORDER),
    ]  # fmt: skip
    assert await value(database, "SELECT count(*) FROM saga_worker.v_audit WHERE action = 'discard'") == 2


# -- parking ------------------------------------------------------------------------------------------------------


async def test_sagas_with_rows_parked_too_long_are_named(database: Database) -> None:
    await store(database, parked(expires_at_seconds=-1.0), parked(expires_at_seconds=-2.0), parked(ref=OTHER))
    await store(database, parked(ref=None, consumer="", reason="no_definition", expires_at_seconds=-1.0))
    async with database.transaction() as conn:
        assert await inbox.expired_parked(conn, 200) == [ORDER]


def route(definition: str, pointer: str = "/order_id") -> Route:
    return Route(definition, 1, "order_placed", Role.EVENT, pointer, KeyKind.TEXT)


def no_definition(message_id: str, **values: object) -> inbox.NewRow:
    plain = {"ref": None, "saga_key": None, "consumer": "", "reason": "no_definition"}
    return parked(message_id, **(plain | values))


async def test_a_row_that_came_before_its_route_is_fanned_out_when_the_route_is_there(database: Database) -> None:
    await store(database, no_definition("m"), no_definition("n", type="still_unknown"))
    table = RouteTable(1, {"order_placed": [route("checkout"), route("refund"), route("odd", "/nowhere")]})
    async with database.transaction() as conn:
        woken = await inbox.reroute_unrouted(conn, table)

    assert woken == sorted([ORDER, ref_of("refund", "4711")])
    assert await query(
        database, "SELECT message_id, consumer, saga_key, state, reason FROM saga_worker.inbox ORDER BY 1, 2"
    ) == [
        ("m", "checkout", "4711", RowState.READY, None),
        ("m", "odd", None, RowState.DEAD, "bad_key"),
        ("m", "refund", "4711", RowState.READY, None),
        ("n", "", None, RowState.PARKED, "no_definition"),
    ]


async def test_a_rerouted_message_is_still_known_when_it_is_delivered_again(database: Database) -> None:
    await store(database, no_definition("m"))
    async with database.transaction() as conn:
        await inbox.reroute_unrouted(conn, RouteTable(1, {"order_placed": [route("checkout")]}))

    assert await store(database, row("m")) == []


async def test_two_sweepers_do_not_route_one_row_twice(database: Database) -> None:
    await store(database, no_definition("m"))
    table = RouteTable(1, {"order_placed": [route("checkout")]})
    async with two_sessions(database) as (one, two):
        assert await inbox.reroute_unrouted(one.conn, table) == [ORDER]
        assert await inbox.reroute_unrouted(two.conn, table) == []


async def test_a_row_that_no_route_came_for_dies_as_unknown_type(database: Database) -> None:
    """features: M6"""
    await store(
        database, no_definition("m", expires_at_seconds=-1.0), no_definition("n"), parked(expires_at_seconds=-1.0)
    )
    async with database.transaction() as conn:
        assert await inbox.expire_unrouted(conn) == 1

    assert await query(database, "SELECT message_id, reason FROM saga_worker.v_dead") == [("m", "unknown_type")]


# -- absent definitions -------------------------------------------------------------------------------------------


async def states(database: Database, ref: UUID) -> list[tuple[int, str | None]]:
    return await query(database, "SELECT state, reason FROM saga_worker.inbox WHERE ref = $1 ORDER BY id", ref)


async def test_rows_of_a_definition_that_nobody_runs_are_held_and_freed(database: Database) -> None:
    await keep(database, saga(), saga(OTHER, definition="refund"))
    await store(database, row(), row(prio=0, role=Role.OPERATOR), row(ref=OTHER))
    async with database.transaction() as conn:
        await workers.register(conn, ["refund/1", "checkout/2"], "host", 1)
        assert await inbox.hold_absent(conn) == 1

    assert await states(database, ORDER) == [(RowState.HELD, "definition_absent"), (RowState.READY, None)]
    assert await states(database, OTHER) == [(RowState.READY, None)]

    async with database.transaction() as conn:
        assert await inbox.free_absent(conn) == []
        await workers.register(conn, ["checkout/1"], "host", 2)
    async with database.transaction() as conn:
        assert await inbox.free_absent(conn) == [ORDER]
    assert await states(database, ORDER) == [(RowState.READY, None), (RowState.READY, None)]


async def test_rows_of_a_saga_that_is_over_for_good_are_for_any_version(database: Database) -> None:
    """Also what was held while its effects were not settled yet."""
    await keep(database, saga(status=Status.COMPLETED, finished_at=NOW, unsettled=1))
    await store(database, row())
    async with database.transaction() as conn:
        await workers.register(conn, ["checkout/2", "checkout-later/1"], "host", 1)
        assert await inbox.hold_absent(conn) == 1
    assert await states(database, ORDER) == [(RowState.HELD, "definition_absent")]

    await query(database, "UPDATE saga_worker.saga SET unsettled = 0")
    async with database.transaction() as conn:
        assert await inbox.free_absent(conn) == [ORDER]
        assert await inbox.hold_absent(conn) == 0

    await query(database, "UPDATE saga_worker.worker SET definitions = '{checkout-later/1}'")
    async with database.transaction() as conn:
        assert await inbox.hold_absent(conn) == 1


async def test_a_worker_whose_lease_is_over_runs_nothing(database: Database) -> None:
    await keep(database, saga())
    await store(database, row())
    async with database.transaction() as conn:
        await workers.register(conn, ["checkout/1"], "host", 1, lease_seconds=-1)
        assert await inbox.hold_absent(conn) == 1


async def test_rows_of_a_saga_that_somebody_holds_are_his_to_judge(database: Database) -> None:
    await keep(database, saga())
    await store(database, row())
    async with two_sessions(database) as (holder, sweeper):
        await instances.lock(holder.conn, [ORDER])

        assert await inbox.hold_absent(sweeper.conn) == 0


async def test_every_waiting_saga_is_looked_at_wherever_the_look_begins(database: Database) -> None:
    refs = refs_of(30)
    await keep(database, *[saga(ref) for ref in refs])
    await store(database, *[row(ref=ref) for ref in refs])
    async with database.transaction() as conn:
        assert await inbox.hold_absent(conn, 30) == 30


# -- retention ----------------------------------------------------------------------------------------------------


async def settled(database: Database, *rows: inbox.NewRow, days: int) -> None:
    ids = await store(database, *rows)
    async with database.autocommit() as conn:
        await conn.raw.execute(
            "UPDATE saga_worker.inbox SET settled_at = CASE WHEN settled_at IS NULL THEN NULL ELSE now() - $2::interval"
            " END, received_at = now() - $2::interval WHERE id = ANY($1)",
            ids,
            timedelta(days=days),
        )


async def retain(database: Database, limit: int = 5000) -> bool:
    async with database.transaction() as conn:
        return await inbox.retain(conn, timedelta(days=14), limit)


async def test_settled_rows_leave_after_the_window_and_nothing_else_does(database: Database) -> None:
    """features: 67"""
    done = {"state": RowState.DONE}
    ignored = {"state": RowState.IGNORED, "reason": "too_late"}
    await settled(database, row("a", **done), row("b", **ignored), dead("c"), parked("d"), row("e"), days=15)
    await settled(database, row("f", **done), days=13)
    await retain(database)

    assert await query(database, "SELECT message_id FROM saga_worker.inbox ORDER BY 1") == [
        ("c",), ("d",), ("e",), ("f",),
    ]  # fmt: skip


async def test_retention_laps_over_the_table_in_stretches(database: Database) -> None:
    await settled(database, *[row(state=RowState.DONE) for _ in range(5)], dead(), days=15)
    laps = [await retain(database, 2) for _ in range(4)]
    [id_] = await query(database, "SELECT id FROM saga_worker.inbox")
    async with database.autocommit() as conn:  # replayed long ago, below the cursor of the next stretch
        await conn.raw.execute(
            "UPDATE saga_worker.inbox SET state = 3, settled_at = now() - interval '15 days' WHERE id = $1", id_[0]
        )
    await retain(database, 2)

    assert laps[:2] == [False, False]
    assert True in laps
    assert await value(database, "SELECT count(*) FROM saga_worker.inbox") == 0


async def test_two_retentions_do_not_wait_for_each_other(database: Database) -> None:
    await settled(database, row(state=RowState.DONE), days=15)
    await retain(database)
    async with two_sessions(database) as (one, two):
        await inbox.retain(one.conn, timedelta(days=14))

        assert await inbox.retain(two.conn, timedelta(days=14)) is True
