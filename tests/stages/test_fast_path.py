"""The fast path: a batch stored and applied in one transaction, with every promise of the general path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import pytest

from saga_worker import instances
from saga_worker.inbox import NewRow
from saga_worker.orchestrator import TakenIn
from saga_worker.saga.fold import Limits
from saga_worker.saga.retry import Retry
from saga_worker.saga.routing import ref_of
from tests.stages.pool_harness import (
    CardSent,
    Closed,
    Deposited,
    Harness,
    Opened,
    account_saga,
    harness,
    reply,
    row,
)

AT_ONCE = Limits(attempts=Retry.fixed(3, timedelta(0)))


async def take_in(h: Harness, *rows: NewRow, apart: Sequence[str] = ()) -> TakenIn:
    """As a consumer does: store and apply, then hand over and let the pool do what is left."""
    taken = await h.orchestrator.take_in(rows, frozenset(ref_of("account", key) for key in apart))
    h.pool.follow_up(taken.advanced)
    return taken


async def test_a_batch_is_applied_in_the_transaction_that_stores_it(database_url: str) -> None:
    async with harness(database_url) as h:
        taken = await take_in(
            h,
            row(Opened(account="a"), "a", message_id="1"),
            row(Deposited(account="a", cents=1), "a", message_id="2"),
            row(Opened(account="b"), "b", message_id="3"),
            row(Deposited(account="a", cents=2), "a", message_id="4"),
        )

        assert await h.states() == ["done"] * 4
        assert await h.deposits("a") == [1, 2]
        assert [sent.type for sent in h.sent] == ["send_card", "send_card"]
        assert taken.later == frozenset()
        journal = await h.query("SELECT inbox_id FROM saga_worker.journal ORDER BY inbox_id")
        rows = await h.query("SELECT id AS inbox_id FROM saga_worker.inbox ORDER BY id")
        assert journal == rows


async def test_a_whole_saga_runs_on_the_fast_path(database_url: str) -> None:
    async with harness(database_url) as h:
        await take_in(h, row(Opened(account="a"), "a", message_id="1"))
        await take_in(
            h,
            reply(CardSent(number="7"), h.sent[0].message_id, "a", message_id="2"),
            row(Closed(account="a"), "a", message_id="3"),
        )

        saga = (await h.query("SELECT status, revision FROM saga_worker.v_saga"))[0]
        assert (saga["status"], saga["revision"]) == ("completed", 3)


async def test_early_rows_are_parked_and_taken_up(database_url: str) -> None:
    async with harness(database_url) as h:
        await take_in(h, row(Deposited(account="a", cents=1), "a", message_id="1"))
        assert await h.states() == ["parked"]

        await take_in(h, row(Opened(account="a"), "a", message_id="2"))

        assert await h.states() == ["done", "done"]
        assert await h.deposits("a") == [1]


async def test_older_ready_rows_are_folded_before_the_new_ones(database_url: str) -> None:
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="1"))
        await h.store(row(Deposited(account="a", cents=1), "a", message_id="2"))

        await take_in(h, row(Deposited(account="a", cents=2), "a", message_id="3"))

        assert await h.deposits("a") == [1, 2]
        assert await h.states() == ["done"] * 3


async def test_rows_of_a_busy_saga_are_stored_for_the_pool(database_url: str) -> None:
    async with harness(database_url) as h:
        await take_in(h, row(Opened(account="a"), "a", message_id="1"), row(Opened(account="b"), "b", message_id="2"))
        async with h.database.transaction() as other:
            await instances.lock(other, [ref_of("account", "a")])
            taken = await take_in(
                h,
                row(Deposited(account="a", cents=1), "a", message_id="3"),
                row(Deposited(account="b", cents=1), "b", message_id="4"),
            )
            assert await h.states() == ["done", "done", "ready", "done"]
        assert taken.later == {ref_of("account", "a")}

        await h.drain()

        assert await h.deposits("a") == [1]


async def test_rows_of_a_missing_saga_whose_place_is_locked_are_stored_for_the_pool(database_url: str) -> None:
    async with harness(database_url) as h, h.database.transaction() as other:
        await instances.lock(other, [ref_of("account", "a")])
        await take_in(h, row(Deposited(account="a", cents=1), "a", message_id="1"))

        assert await h.states() == ["ready"]


async def test_redelivered_rows_go_to_the_pool_with_all_of_their_saga(database_url: str) -> None:
    async with harness(database_url) as h:
        await take_in(h, row(Opened(account="a"), "a", message_id="1"))

        await take_in(h, row(Deposited(account="a", cents=1), "a", message_id="2"), apart=["a"])
        assert await h.states() == ["done", "ready"]
        await take_in(h, row(Deposited(account="a", cents=2), "a", message_id="3"))

        assert await h.deposits("a") == [1, 2]


async def test_a_duplicate_changes_nothing(database_url: str) -> None:
    async with harness(database_url) as h:
        opened = row(Opened(account="a"), "a", message_id="1")
        deposited = row(Deposited(account="a", cents=1), "a", message_id="2")
        await take_in(h, opened, deposited, deposited)

        taken = await take_in(h, opened, deposited)

        assert (taken.inserted.duplicates, await h.deposits("a")) == (2, [1])
        assert await h.states() == ["done", "done"]


async def test_a_row_behind_a_head_in_back_off_waits_ready(database_url: str) -> None:
    async with harness(database_url, account_saga(breaks_at=1), limits=Limits(attempts=Retry.fixed(9))) as h:
        await take_in(h, row(Opened(account="a"), "a", message_id="1"))
        await take_in(h, row(Deposited(account="a", cents=1), "a", message_id="2"))
        await take_in(h, row(Deposited(account="a", cents=2), "a", message_id="3"))

        rows = await h.query("SELECT state, attempts, settled_at FROM saga_worker.inbox ORDER BY id")
        assert [(r["state"], r["attempts"]) for r in rows] == [(3, 0), (0, 1), (0, 0)]
        assert rows[2]["settled_at"] is None


async def test_a_row_behind_a_dead_one_is_held(database_url: str) -> None:
    async with harness(database_url, account_saga(breaks_at=1), limits=AT_ONCE) as h:
        await take_in(h, row(Opened(account="a"), "a", message_id="1"))
        await take_in(h, row(Deposited(account="a", cents=1), "a", message_id="2"))
        await h.drain()

        await take_in(h, row(Deposited(account="a", cents=2), "a", message_id="3"))

        assert await h.states() == ["done", "dead", "held"]


async def test_a_refused_write_stores_nothing(database_url: str) -> None:
    async with harness(database_url) as h:
        await h.query("ALTER TABLE saga_worker.saga ADD CONSTRAINT no_b CHECK (key <> 'b')")

        with pytest.raises(asyncpg.CheckViolationError):
            await take_in(h, *(row(Opened(account=key), key, message_id=key) for key in "abc"))

        assert await h.states() == []


async def test_the_two_paths_work_on_one_saga_without_losing_order(database_url: str) -> None:
    async with harness(database_url) as h:
        await take_in(h, row(Opened(account="a"), "a", message_id="o"))

        async def fast() -> None:
            for n in range(60):
                taken = await take_in(h, row(Deposited(account="a", cents=n), "a", message_id=f"d{n}"))
                h.pool.wake(taken.later)

        async def general() -> None:
            while await h.query("SELECT FROM saga_worker.inbox HAVING count(*) < 61"):
                await h.orchestrator.advance([ref_of("account", "a")])

        await asyncio.gather(fast(), general(), general())
        await h.drain()

        assert await h.deposits("a") == list(range(60))
