"""Locking and saving sagas: the races found by running them, each staged with two connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from saga_worker import inbox, instances, outbox
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.inputs import SendCommand
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Instance, Progress, Timer
from saga_worker.saga.routing import command_id
from saga_worker.saga.transitions import Status
from saga_worker.sql.connection import Database
from tests.stages.stored_rows import (
    NOW,
    ORDER,
    WORKER,
    PausingConnection,
    advanced,
    applied,
    created,
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


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=4) as opened:
        yield opened


async def test_what_was_saved_comes_back_as_it_was(database: Database) -> None:
    """features: 63"""
    command = CommandRecord(
        "reserve", CommandKind.FORWARD, Fate.SENT, "inventory", "reserve_stock", '{"n":"\\u0000"}', seq=1
    )
    progress = Progress(active={"reserve": 1}, commands={1: command}, timers={"reserve": Timer(NOW, 3)}, epoch=3)
    stored = saga(
        progress=progress, state=b'{"note":"\\u0000"}', attention="dead_letter", reason="because", unsettled=1
    )
    await keep(database, stored)

    async with database.transaction() as conn:
        assert (await instances.lock(conn, [ORDER])).found == {ORDER: stored}


async def test_a_locked_saga_is_busy_for_everybody_else(database: Database) -> None:
    """features: 61, 120"""
    free, *_ = refs_of(1)
    await keep(database, saga(), saga(free))

    async with two_sessions(database) as (one, two):
        await instances.lock(one.conn, [ORDER])
        locked = await instances.lock(two.conn, [ORDER, free])

        assert locked.busy == {ORDER}
        assert locked.found.keys() == {free}


async def test_the_place_of_a_missing_saga_is_locked_until_the_transaction_ends(database: Database) -> None:
    async with two_sessions(database) as (one, two):
        assert (await instances.lock(one.conn, [ORDER])).absent == {ORDER}
        assert (await instances.lock(two.conn, [ORDER])).busy == {ORDER}
        await one.commit()

        assert (await instances.lock(two.conn, [ORDER])).absent == {ORDER}


async def test_an_early_event_is_not_stranded_by_the_creation_of_its_saga(database: Database) -> None:
    """One parks while another would create: without the lock of the gap the second never sees the parked row.

    features: M2
    """
    async with two_sessions(database) as (parking, creating):
        await instances.lock(parking.conn, [ORDER])
        await inbox.insert(parking.conn, [parked("early")])
        assert (await instances.lock(creating.conn, [ORDER])).busy == {ORDER}
        await parking.commit()
        assert (await instances.lock(creating.conn, [ORDER])).absent == {ORDER}
        backlog = await inbox.read_backlog(creating.conn, [ORDER])

        assert [r.message_id for r in backlog.rows[ORDER]] == ["early"]


async def test_a_saga_created_between_the_two_looks_is_found_not_taken_for_absent(database: Database) -> None:
    async with two_sessions(database) as (creating, looking):
        await instances.lock(creating.conn, [ORDER])
        await instances.save(creating.conn, [created(saga())], worker_id=WORKER)
        locked = await instances.lock(PausingConnection(looking.conn, "lock_gaps", creating.commit), [ORDER])

        assert locked.found.keys() == {ORDER}
        assert not locked.absent


async def test_a_saga_created_and_locked_between_the_two_looks_is_busy(database: Database) -> None:
    async with two_sessions(database) as (other, looking):

        async def create_and_lock() -> None:
            await keep(database, saga())
            await instances.lock(other.conn, [ORDER])

        locked = await instances.lock(PausingConnection(looking.conn, "lock_gaps", create_and_lock), [ORDER])

        assert locked.busy == {ORDER}


async def test_what_is_read_after_the_lock_is_what_the_last_holder_committed(database: Database) -> None:
    """The saga, its backlog and its outbox may not come from a snapshot taken before the lock."""
    before = saga()
    await keep(database, before)
    async with two_sessions(database) as (holder, follower):
        await follower.conn.raw.fetchval("SELECT count(*) FROM saga_worker.inbox")
        await instances.lock(holder.conn, [ORDER])

        async def finish_the_holder() -> None:
            await instances.save(holder.conn, [advanced(before, seq=2)], worker_id=WORKER)
            await inbox.insert(holder.conn, [row("late")])
            command = SendCommand(2, "reserve", "inventory", "reserve_stock", b"{}", None)
            change = SagaChange(ORDER, before, replace(before, seq=2), effects=[command])
            await outbox.append(holder.conn, outbox.build(change, namespace="saga"), owner=WORKER)
            await holder.commit()

        locked = await instances.lock(PausingConnection(follower.conn, "lock_sagas", finish_the_holder), [ORDER])
        backlog = await inbox.read_backlog(follower.conn, [ORDER])

        assert locked.found[ORDER].revision == 2
        assert [r.message_id for r in backlog.rows[ORDER]] == ["late"]
        assert await outbox.unsent(follower.conn, [ORDER]) == {ORDER: {2}}


async def test_a_saga_that_is_not_at_the_locked_revision_is_not_written(database: Database) -> None:
    """features: 58"""
    before = saga()
    await keep(database, before)
    await store(database, row("m-2"))

    with pytest.raises(LeaseLost, match="1 of 1 sagas"):
        async with database.transaction() as conn:
            stale = replace(before, revision=2)
            await inbox.insert(conn, [row("of the same transaction")])
            await instances.save(conn, [advanced(stale, state=b'{"wrong":true}')], worker_id=WORKER)

    assert await query(database, "SELECT revision, state FROM saga_worker.saga") == [(1, b"{}")]
    assert await value(database, "SELECT count(*) FROM saga_worker.journal") == 1
    assert await value(database, "SELECT count(*) FROM saga_worker.inbox") == 1


async def test_a_second_creation_of_one_saga_is_a_lost_race_not_a_crash(database: Database) -> None:
    """features: 55, 164; M3"""
    await keep(database, saga())

    with pytest.raises(LeaseLost):
        await keep(database, saga())

    assert await value(database, "SELECT count(*) FROM saga_worker.saga") == 1


async def test_inputs_folded_in_one_transaction_share_the_fence(database: Database) -> None:
    first = saga(revision=2)
    await keep(database, first)
    after = replace(first, revision=5)
    change = SagaChange(ORDER, first, after, journal=[applied(number) for number in (3, 4, 5)])
    async with database.transaction() as conn:
        await instances.save(conn, [change], worker_id=WORKER)

    assert await query(database, "SELECT revision, epoch, worker FROM saga_worker.v_journal ORDER BY revision") == [
        (1, 0, WORKER), (2, 0, WORKER), (3, 2, WORKER), (4, 2, WORKER), (5, 2, WORKER),
    ]  # fmt: skip


async def test_the_journal_keeps_what_an_input_sent_and_armed(database: Database) -> None:
    """features: 116"""
    entry = applied(1, sent=(1, 2), timers=("fraud review:1", "deadline:2"))
    async with database.transaction() as conn:
        await instances.save(conn, [SagaChange(ORDER, None, saga(), journal=[entry])], worker_id=WORKER)

    [(sent, timers)] = await query(database, "SELECT sent_ids, timer_ids FROM saga_worker.v_journal")
    assert sent == [command_id(ORDER, 1), command_id(ORDER, 2)]
    assert timers == ["fraud review:1", "deadline:2"]


async def test_a_saga_that_did_not_change_is_not_written(database: Database) -> None:
    before = saga()
    await keep(database, before)
    [version] = await query(database, "SELECT xmin::text FROM saga_worker.saga")
    async with database.transaction() as conn:
        await instances.save(conn, [SagaChange(ORDER, before, before), SagaChange(ORDER, None, None)], worker_id=1)

    assert await query(database, "SELECT xmin::text FROM saga_worker.saga") == [version]


async def test_words_of_authors_that_postgres_cannot_keep_do_not_fail_the_batch(database: Database) -> None:
    await keep(database, saga(reason="cancelled by \0 \ud800", attention="x" * 5000))

    [(reason, attention)] = await query(database, "SELECT reason, attention FROM saga_worker.v_saga")
    assert reason == "cancelled by \ufffd ?"
    assert len(attention) == 2000


@pytest.mark.parametrize("size", [1, 200])
async def test_a_batch_is_created_and_advanced_whole(database: Database, size: int) -> None:
    sagas = [saga(ref) for ref in refs_of(size)]
    await keep(database, *sagas)
    async with database.transaction() as conn:
        locked = await instances.lock(conn, [s.ref for s in sagas])
        await instances.save(conn, [advanced(s) for s in locked.found.values()], worker_id=WORKER)

    assert await query(database, "SELECT DISTINCT revision FROM saga_worker.saga") == [(2,)]
    assert await value(database, "SELECT count(*) FROM saga_worker.journal") == 2 * size


def finished(ref: UUID, **values: Any) -> Instance:
    return saga(ref, **{"status": Status.COMPLETED, "finished_at": NOW - timedelta(days=900)} | values)


async def test_only_sagas_with_nothing_open_leave_with_their_history(database: Database) -> None:
    """features: 68; M25"""
    old, young, unsettled, sending, with_dead, with_parked, with_ready, open_ = refs_of(8)
    await keep(
        database,
        finished(old),
        finished(young, finished_at=NOW + timedelta(days=3650)),
        finished(unsettled, unsettled=1),
        finished(sending),
        finished(with_dead),
        finished(with_parked),
        finished(with_ready),
        saga(open_),
    )
    await store(database, dead(ref=with_dead), parked(ref=with_parked), row(ref=with_ready))
    async with database.transaction() as conn:
        command = SendCommand(1, "reserve", "inventory", "reserve_stock", b"{}", None)
        change = SagaChange(sending, None, saga(sending), effects=[command])
        await outbox.append(conn, outbox.build(change, namespace="saga"), owner=WORKER)
    async with database.transaction() as conn:
        assert await instances.retain(conn, timedelta(days=14)) == 1

    kept = await query(database, "SELECT ref FROM saga_worker.saga ORDER BY ref")
    assert kept == [(ref,) for ref in sorted({young, unsettled, sending, with_dead, with_parked, with_ready, open_})]
    assert await query(database, "SELECT count(*) FROM saga_worker.journal WHERE ref = $1", old) == [(0,)]
    assert await query(database, "SELECT ref FROM saga_worker.tombstone") == [(old,)]


async def test_a_saga_that_is_locked_is_not_purged(database: Database) -> None:
    await keep(database, finished(ORDER))
    async with two_sessions(database) as (holder, sweeper):
        await instances.lock(holder.conn, [ORDER])

        assert await instances.retain(sweeper.conn, timedelta(days=14)) == 0


async def test_a_final_status_and_its_time_imply_each_other(database: Database) -> None:
    with pytest.raises(Exception, match="saga_finished"):
        await keep(database, saga(status=Status.COMPLETED, finished_at=None))
    with pytest.raises(Exception, match="saga_finished"):
        await keep(database, saga(status=Status.RUNNING, finished_at=NOW))
