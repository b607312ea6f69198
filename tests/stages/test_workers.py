"""Workers: leases in database time, and what a worker was about to run when it died."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from saga_worker import inbox, workers
from saga_worker.saga.rows import RowChange, RowState
from saga_worker.sql.connection import Database
from saga_worker.workers import Intent
from tests.stages.stored_rows import ORDER, dead, query, refs_of, row, store, two_sessions, value


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=4) as opened:
        yield opened


async def register(database: Database, *definitions: str, seconds: float = 60) -> int:
    async with database.autocommit() as conn:
        return await workers.register(conn, definitions, "host", 42, lease_seconds=seconds)


async def bury(database: Database) -> list[int]:
    """What the reaper does with workers whose lease is over."""
    async with database.transaction() as conn:
        expired = await workers.expire(conn)
        await workers.mark_suspects(conn, expired)
        await workers.forget(conn, expired)
    return expired


async def die(database: Database, ids: list[int], *, alone: bool = False) -> None:
    """A worker writes its intent and is never heard of again."""
    worker_id = await register(database, seconds=-1)
    async with database.autocommit() as conn:
        await workers.write_intent(conn, worker_id, 0, Intent(ids, alone=alone))


async def suspicion(database: Database) -> list[tuple[bool, int]]:
    return await query(database, "SELECT suspect, crashes FROM saga_worker.inbox ORDER BY id")


async def test_a_lease_is_renewed_while_it_runs(database: Database) -> None:
    worker_id = await register(database, seconds=5)
    async with database.autocommit() as conn:
        before = await value(database, "SELECT lease_until FROM saga_worker.worker")
        assert await workers.heartbeat(conn, worker_id, 60)
    assert await value(database, "SELECT lease_until > $1 FROM saga_worker.worker", before)


async def test_a_lease_that_is_over_stays_over(database: Database) -> None:
    worker_id = await register(database, seconds=-0.001)
    async with database.autocommit() as conn:
        assert not await workers.heartbeat(conn, worker_id, 60)
        assert await workers.expire(conn) == [worker_id]


async def test_a_worker_that_was_forgotten_cannot_come_back(database: Database) -> None:
    worker_id = await register(database, seconds=-1)
    assert await bury(database) == [worker_id]
    async with database.autocommit() as conn:
        assert not await workers.heartbeat(conn, worker_id, 60)
    assert await register(database) != worker_id


async def test_a_living_worker_is_not_buried(database: Database) -> None:
    """features: M27"""
    await register(database)

    assert await bury(database) == []


async def test_a_worker_that_ends_in_order_is_gone_at_once(database: Database) -> None:
    worker_id = await register(database)
    async with database.autocommit() as conn:
        await workers.write_intent(conn, worker_id, 0, Intent([1]))
        await workers.leave(conn, worker_id)

    assert await bury(database) == []  # nobody has to find it dead
    assert await value(database, "SELECT count(*) FROM saga_worker.worker") == 0
    assert await value(database, "SELECT count(*) FROM saga_worker.intent") == 0


async def test_each_dead_worker_is_buried_by_one_process(database: Database) -> None:
    worker_id = await register(database, seconds=-1)
    async with two_sessions(database) as (one, two):
        assert await workers.expire(one.conn) == [worker_id]
        assert await workers.expire(two.conn) == []


async def test_only_live_workers_count_for_what_can_be_run(database: Database) -> None:
    await register(database, "checkout/1", "refund/2")
    await register(database, "checkout/1", "checkout/2")
    await register(database, "gone/1", seconds=-1)
    async with database.autocommit() as conn:
        assert await workers.live_definitions(conn) == {"checkout/1", "checkout/2", "refund/2"}


async def test_replies_count_as_stored_only_after_the_grace(database: Database) -> None:
    worker_id = await register(database)
    async with database.autocommit() as conn:
        assert not await workers.replies_are_stored(conn, 0)
        await workers.caught_up(conn, worker_id)
        assert await workers.replies_are_stored(conn, 0)
        assert not await workers.replies_are_stored(conn, 60)
        await workers.lost_broker(conn, worker_id)
        assert not await workers.replies_are_stored(conn, 0)


async def test_a_dead_worker_that_had_caught_up_says_nothing(database: Database) -> None:
    worker_id = await register(database)
    async with database.autocommit() as conn:
        await workers.caught_up(conn, worker_id)
        await workers.leave(conn, worker_id)
        assert not await workers.replies_are_stored(conn, 0)


async def test_catching_up_twice_counts_from_the_first_time(database: Database) -> None:
    worker_id = await register(database)
    async with database.autocommit() as conn:
        await workers.caught_up(conn, worker_id)
        first = await value(database, "SELECT caught_up_at FROM saga_worker.worker")
        await workers.caught_up(conn, worker_id)
    assert await value(database, "SELECT caught_up_at FROM saga_worker.worker") == first


# -- poison -------------------------------------------------------------------------------------------------------


async def test_what_a_dead_worker_had_in_hand_becomes_suspect_and_no_crash_is_counted(database: Database) -> None:
    ids = await store(database, row(), row(), row())
    await die(database, ids[:2])
    await bury(database)

    assert await suspicion(database) == [(True, 0), (True, 0), (False, 0)]


async def test_a_row_that_was_alone_by_chance_has_no_crash_either(database: Database) -> None:
    ids = await store(database, row())
    await die(database, ids)
    await bury(database)

    assert await suspicion(database) == [(True, 0)]


async def test_a_suspect_that_is_alone_when_its_worker_dies_has_one_crash_more(database: Database) -> None:
    guilty, neighbour = await store(database, row(), row(ref=refs_of(1)[0]))
    await die(database, [guilty, neighbour])
    await bury(database)
    await die(database, [guilty])  # alone by chance
    await bury(database)
    for _ in range(2):
        await die(database, [guilty], alone=True)
        await bury(database)

    assert await suspicion(database) == [(True, 2), (True, 0)]


async def test_one_death_is_counted_once_however_often_it_is_looked_at(database: Database) -> None:
    [id_] = await store(database, row(suspect=True))
    await die(database, [id_], alone=True)
    for _ in range(3):
        async with database.transaction() as conn:
            await workers.mark_suspects(conn, await workers.expire(conn))

    assert await suspicion(database) == [(True, 1)]


async def test_rows_that_were_settled_before_the_death_are_no_suspects(database: Database) -> None:
    done, died = await store(database, row(), dead())
    async with database.transaction() as conn:
        await inbox.settle(conn, [RowChange(done, RowState.DONE)])
    await die(database, [done, died])
    await bury(database)

    assert await suspicion(database) == [(False, 0), (False, 0)]


async def test_a_later_intent_of_the_same_slot_replaces_the_earlier_one(database: Database) -> None:
    first, second = await store(database, row(), row())
    worker_id = await register(database, seconds=-1)
    async with database.autocommit() as conn:
        await workers.write_intent(conn, worker_id, 0, Intent([first]))
        await workers.write_intent(conn, worker_id, 0, Intent([second]))
        await workers.write_intent(conn, worker_id, 1, Intent([first]))
        await workers.write_intent(conn, worker_id, 1, Intent())
    await bury(database)

    assert await suspicion(database) == [(False, 0), (True, 0)]


async def test_the_sagas_of_suspects_are_named(database: Database) -> None:
    ids = await store(database, row(), row(ref=refs_of(1)[0]))
    await die(database, ids)
    async with database.transaction() as conn:
        marked = await workers.mark_suspects(conn, await workers.expire(conn))

    assert set(marked) == {ORDER, refs_of(1)[0]}


async def test_marking_waits_for_nobody_who_is_writing_the_row(database: Database) -> None:
    [id_] = await store(database, row())
    await die(database, [id_])
    async with two_sessions(database) as (writer, reaper):
        await inbox.settle(writer.conn, [RowChange(id_, RowState.DONE)])

        assert await workers.mark_suspects(reaper.conn, await workers.expire(reaper.conn)) == []


async def test_an_intent_leaves_the_settings_of_the_session_alone(database: Database) -> None:
    worker_id = await register(database)
    async with database.autocommit() as conn:
        await workers.write_intent(conn, worker_id, 0, Intent([1]))
        assert await conn.raw.fetchval("SHOW synchronous_commit") == "on"
