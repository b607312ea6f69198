"""The inbox table: storing once, claiming fairly, reading in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from saga_worker import inbox, instances
from saga_worker.inbox import Verdict
from saga_worker.inbox.claim import LAP_START, ROWS_PER_SAGA
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.rows import Role, RowChange, RowState
from saga_worker.sql.connection import Database
from saga_worker.testing import eventually
from tests.stages.stored_rows import (
    NOW,
    ORDER,
    PausingConnection,
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

LAST_REF = UUID(int=2**128 - 1)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=8) as opened:
        yield opened


async def claim(
    database: Database, cursor: UUID = LAP_START, *, definitions: tuple[str, ...] = ("checkout",), limit: int = 200
) -> inbox.Claimed:
    async with database.transaction() as conn:
        return await inbox.claim(conn, cursor, definitions, limit)


async def backlog(database: Database, *refs: UUID) -> inbox.Backlog:
    async with database.transaction() as conn:
        await instances.lock(conn, refs)
        return await inbox.read_backlog(conn, refs)


# -- storing ------------------------------------------------------------------------------------------------------


async def test_ids_ascend_in_the_order_of_arrival(database: Database) -> None:
    arrived = [row(f"m-{number}") for number in range(100)]
    ids = await store(database, *arrived)

    assert ids == sorted(ids)
    stored = await query(database, "SELECT message_id FROM saga_worker.inbox ORDER BY id")
    assert stored == [(r.message_id,) for r in arrived]
    assert [r.dedup for r in arrived] != sorted(r.dedup for r in arrived)


async def test_a_message_is_stored_as_it_came(database: Database) -> None:
    body, props = bytes(range(256)), b'{"headers":{"a":null}}'
    await store(database, row("m", body=body, props=props, correlation_id="c", type="t", source="s"))

    [stored] = (await backlog(database, ORDER)).rows[ORDER]
    assert (stored.body, stored.correlation_id, stored.type, stored.source) == (body, "c", "t", "s")
    assert await value(database, "SELECT props FROM saga_worker.inbox") == props


async def test_a_repeat_is_not_stored_again(database: Database) -> None:
    """features: 89"""
    await store(database, row("m"))
    async with database.transaction() as conn:
        again = await inbox.insert(conn, [row("m"), row("n")])

    assert [o.verdict for o in again.outcomes] == [Verdict.DUPLICATE, Verdict.NEW]
    assert (again.duplicates, again.reused, len(again.new)) == (1, 0, 1)
    assert await value(database, "SELECT count(*) FROM saga_worker.inbox") == 2


async def test_twins_in_one_batch_are_stored_once_and_the_first_counts(database: Database) -> None:
    async with database.transaction() as conn:
        inserted = await inbox.insert(conn, [row("m"), row("m"), row("m", body=b"other"), row("m", body=b"other")])

    assert [o.verdict for o in inserted.outcomes] == [
        Verdict.NEW, Verdict.DUPLICATE, Verdict.ID_REUSED, Verdict.DUPLICATE,
    ]  # fmt: skip
    assert await query(database, "SELECT state, reason, body FROM saga_worker.inbox ORDER BY state") == [
        (RowState.READY, None, row().body), (RowState.DEAD, "id_reused", b"other"),
    ]  # fmt: skip


async def test_one_id_of_two_producers_or_for_two_consumers_is_two_messages(database: Database) -> None:
    ids = await store(database, row("m"), row("m", source="other"), row("m", consumer="other"))

    assert len(ids) == 3


@pytest.mark.parametrize("winner_commits", [True, False])
async def test_another_body_under_an_id_that_is_just_being_stored_is_seen(
    database: Database, winner_commits: bool
) -> None:
    """The winner is not visible to the statement that waited for it, only to the next one."""
    async with two_sessions(database) as (winner, loser):
        await inbox.insert(winner.conn, [row("m", body=b"first")])
        waiting = asyncio.create_task(inbox.insert(loser.conn, [row("m", body=b"second")]))
        await _until_somebody_waits(database)
        await (winner.commit() if winner_commits else winner.roll_back())

        [outcome] = (await waiting).outcomes
        assert outcome.verdict is (Verdict.ID_REUSED if winner_commits else Verdict.NEW)
        assert outcome.id is not None


async def test_a_new_consumer_sees_what_the_old_one_had_not_committed(database: Database) -> None:
    """Fail-over: the old one has e1 in hand, the new one gets e1 again and e2. Inserting first makes it wait."""
    async with two_sessions(database) as (old, new):
        await inbox.insert(old.conn, [row("e1")])
        await instances.lock(new.conn, [ORDER])
        waiting = asyncio.create_task(inbox.insert(new.conn, [row("e1"), row("e2")]))
        await _until_somebody_waits(database)
        await old.commit()
        await waiting
        read = await inbox.read_backlog(new.conn, [ORDER])

        assert [r.message_id for r in read.rows[ORDER]] == ["e1", "e2"]


async def test_a_message_whose_twin_is_purged_while_we_look_is_stored(database: Database) -> None:
    [old] = await store(database, row("m", state=RowState.DONE))

    async def purge() -> None:
        async with database.autocommit() as conn:
            await conn.raw.execute("DELETE FROM saga_worker.inbox WHERE id = $1", old)

    async with database.transaction() as conn:
        inserted = await inbox.insert(PausingConnection(conn, "read_twins", purge), [row("m"), row("n")])

    assert [o.verdict for o in inserted.outcomes] == [Verdict.NEW, Verdict.NEW]
    assert await value(database, "SELECT count(*) FROM saga_worker.inbox") == 2


async def test_overlapping_batches_in_any_order_do_not_deadlock(database: Database) -> None:
    """features: M32"""

    async def consume(number: int, *, backwards: bool) -> None:
        ids = [f"{number}-{n}" for n in range(60)]
        await store(database, *[row(id_) for id_ in (reversed(ids) if backwards else ids)])

    async with asyncio.timeout(60):
        for number in range(15):
            await asyncio.gather(*(consume(number, backwards=bool(n % 2)) for n in range(4)))

    assert await value(database, "SELECT count(*) FROM saga_worker.inbox") == 15 * 60


async def test_rows_that_are_born_settled_or_dead_have_their_times(database: Database) -> None:
    await store(database, row(state=RowState.DONE), dead(), parked())

    assert await query(
        database,
        "SELECT state, settled_at IS NULL, last_failed_at IS NULL, expires_at IS NULL FROM saga_worker.inbox"
        " ORDER BY id",
    ) == [(RowState.DONE, False, True, True), (RowState.DEAD, True, False, True), (RowState.PARKED, True, True, False)]


async def test_two_hundred_rows_are_stored_in_one_statement_each_way(database: Database) -> None:
    rows = [row(ref=ref) for ref in refs_of(200)]
    assert len(await store(database, *rows)) == 200
    async with database.transaction() as conn:
        assert (await inbox.insert(conn, rows)).duplicates == 200


async def _until_somebody_waits(database: Database) -> None:
    await eventually(lambda: value(database, "SELECT count(*) FROM pg_locks WHERE NOT granted"))


# -- claiming -----------------------------------------------------------------------------------------------------


async def test_a_busy_saga_does_not_hide_the_others(database: Database) -> None:
    refs = refs_of(6)
    await store(database, *[row(ref=refs[0]) for _ in range(500)], *[row(ref=ref) for ref in refs[1:]])

    assert (await claim(database)).refs == refs


async def test_a_lap_passes_every_saga_once_and_begins_again(database: Database) -> None:
    refs = refs_of(7)
    await store(database, *[row(ref=ref) for ref in refs])
    first = await claim(database, refs[2], limit=3)
    second = await claim(database, first.cursor, limit=3)
    third = await claim(database, second.cursor, limit=10)

    assert first.refs == refs[2:5]
    assert not first.lap_ended
    assert second.refs == refs[5:]
    assert (second.lap_ended, second.cursor) == (True, LAP_START)
    assert third.refs == refs


async def test_a_saga_at_the_very_end_of_the_lap_is_found_and_ends_it(database: Database) -> None:
    await store(database, row(ref=LAST_REF))
    claimed = await claim(database, LAST_REF, limit=1)

    assert claimed == inbox.Claimed([LAST_REF], LAP_START, lap_ended=True)


async def test_an_empty_inbox_ends_the_lap(database: Database) -> None:
    assert await claim(database) == inbox.Claimed([], LAP_START, lap_ended=True)


async def test_the_head_of_a_saga_decides_for_all_its_rows(database: Database) -> None:
    head, _ = await store(database, row(), row())
    async with database.transaction() as conn:
        await inbox.settle(conn, [RowChange(head, RowState.READY, next_at=NOW + timedelta(days=9999))])

    assert (await claim(database)).refs == []


async def test_an_operator_is_not_kept_waiting_by_a_row_in_back_off(database: Database) -> None:
    [head] = await store(database, row())
    async with database.transaction() as conn:
        await inbox.settle(conn, [RowChange(head, RowState.READY, next_at=NOW + timedelta(days=9999))])
    await store(database, row("cancel", prio=0, role=Role.OPERATOR))

    assert (await claim(database)).refs == [ORDER]


async def test_a_worker_claims_only_for_definitions_it_has(database: Database) -> None:
    """features: 80"""
    await store(database, row(consumer="refund"))

    assert (await claim(database)).refs == []
    assert (await claim(database, definitions=("checkout", "refund"))).refs == [ORDER]


async def test_rows_that_are_not_ready_are_not_claimed(database: Database) -> None:
    await store(database, parked(), dead(), row(state=RowState.DONE))

    assert (await claim(database)).refs == []


# -- reading ------------------------------------------------------------------------------------------------------


async def test_a_backlog_comes_in_the_order_in_which_it_has_to_be_applied(database: Database) -> None:
    early, ready_1, died, ready_2 = await store(database, parked(), row(), dead(body=b"secret"), row())
    [operator] = await store(database, row(prio=0, role=Role.OPERATOR))
    read = await backlog(database, ORDER)

    assert [r.id for r in read.rows[ORDER]] == [operator, ready_1, ready_2, early, died]
    assert read.rows[ORDER][-1].body == b""
    assert read.truncated == frozenset()


async def test_a_backlog_has_an_entry_and_a_clock_also_where_nothing_waits(database: Database) -> None:
    read = await backlog(database, *refs_of(2))

    assert read.rows == {ref: [] for ref in refs_of(2)}
    assert abs(await value(database, "SELECT clock_timestamp()") - read.now) < timedelta(seconds=30)


async def test_more_rows_than_fit_are_left_and_said_to_be_left(database: Database) -> None:
    many, few = refs_of(2)
    await store(database, *[row(ref=many) for _ in range(ROWS_PER_SAGA + 1)], row(ref=few))
    read = await backlog(database, many, few)

    assert len(read.rows[many]) == ROWS_PER_SAGA
    assert read.truncated == {many}


async def test_large_bodies_are_read_in_portions_and_one_at_least(database: Database) -> None:
    big = [row(body=bytes([number]) * 3_000_000) for number in range(3)]
    await store(database, *big)
    read = await backlog(database, ORDER)

    assert [r.message_id for r in read.rows[ORDER]] == [big[0].message_id]
    assert read.truncated == {ORDER}


async def test_outcomes_are_written_as_they_were_decided(database: Database) -> None:
    ids = await store(database, *[row() for _ in range(3)])
    changes = [
        RowChange(ids[0], RowState.DONE, settled_at=NOW),
        RowChange(
            ids[1], RowState.READY, error="no \0 luck", attempts=2, next_at=NOW, first_failed_at=NOW, suspect=True
        ),
        RowChange(ids[2], RowState.IGNORED, reason="too_late"),
    ]
    async with database.transaction() as conn:
        await inbox.settle(conn, changes)

    columns = "state, reason, error, attempts, suspect, next_at, first_failed_at, settled_at IS NOT NULL"
    assert await query(database, f"SELECT {columns} FROM saga_worker.inbox ORDER BY id") == [
        (RowState.DONE, None, None, 0, False, None, None, True),
        (RowState.READY, None, "no \ufffd luck", 2, True, NOW, NOW, False),
        (RowState.IGNORED, "too_late", None, 0, False, None, None, True),
    ]


async def test_an_outcome_for_a_row_that_is_gone_fails_the_transaction(database: Database) -> None:
    [id_] = await store(database, row())

    with pytest.raises(LeaseLost):
        async with database.transaction() as conn:
            await inbox.settle(conn, [RowChange(id_, RowState.DONE), RowChange(id_ + 1, RowState.DONE)])

    assert await value(database, "SELECT state FROM saga_worker.inbox") == RowState.READY


async def test_a_saga_and_its_backlog_belong_together_in_the_view(database: Database) -> None:
    stored = saga()
    await keep(database, stored)
    await store(database, row(), row(ref=refs_of(1)[0]))

    assert await query(database, "SELECT saga_id, state FROM saga_worker.v_inbox ORDER BY id") == [
        (stored.saga_id, "ready"), (None, "ready"),
    ]  # fmt: skip


async def test_the_next_of_a_line_is_read_however_many_wait_behind_it(database: Database) -> None:
    async with database.transaction() as connection:
        inserted = await inbox.insert(connection, [row(f"n{n}") for n in range(300, 0, -1)])
        parked_rows = [
            RowChange(id=id_, state=RowState.PARKED, reason="out_of_sequence", expires_at=NOW, sequence=300 - place)
            for place, (_, id_) in enumerate(inserted.new)
        ]
        await inbox.settle(connection, parked_rows)
    async with database.transaction() as connection:
        gap = await inbox.read_backlog(connection, [ORDER], {(ORDER, "shop"): 5, (ORDER, "other"): 1})
        blind = await inbox.read_backlog(connection, [ORDER])
        behind = await inbox.read_backlog(connection, [ORDER], {(ORDER, "shop"): 301})

    assert {5, 6, 7} <= {each.sequence for each in gap.rows[ORDER]}
    assert len({each.id for each in gap.rows[ORDER]}) == len(gap.rows[ORDER])
    assert gap.truncated == {ORDER}, "the line can move, and there is more of it"
    assert blind.truncated == {ORDER}, "whose line is not known may have its next anywhere"
    assert not behind.truncated, "nothing of the line can have its turn"
