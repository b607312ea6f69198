"""Defects of earlier systems (docs/defects.md) that need the tables, and that no other test of this folder is about."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from saga_worker import ActivityContext, inbox, workers
from saga_worker.inbox import DeadFilter
from saga_worker.saga.fold import Limits
from saga_worker.saga.retry import Retry
from saga_worker.testing import eventually
from tests.stages.own_work_harness import TripAsked, World, event, stages, trip_saga
from tests.stages.pool_harness import Closed, Deposited, Opened, account_saga, harness, row


async def test_a_table_that_does_not_tell_repeats_any_more_stores_nothing(database_url: str) -> None:
    """features: M20"""
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="1"))
        await h.query("ALTER TABLE saga_worker.inbox DROP CONSTRAINT inbox_dedup_key")

        for _ in range(2):
            with pytest.raises(asyncpg.InvalidColumnReferenceError, match="no unique or exclusion constraint"):
                await h.store(row(Deposited(account="a", cents=1), "a", message_id="2"))

        assert len(await h.query("SELECT FROM saga_worker.inbox")) == 1


async def test_a_letter_that_dies_again_while_others_are_replayed_stays_a_dead_letter(database_url: str) -> None:
    """features: M24"""
    broken = account_saga(breaks_at=7)
    once = Limits(attempts=Retry.none())
    async with harness(database_url, broken, limits=once) as h:
        for key in ("a", "b", "c"):
            await h.store(row(Opened(account=key), key, message_id=f"open {key}"))
            await h.store(row(Deposited(account=key, cents=7), key, message_id=f"pay {key}"))
        await h.drain()
        dead = [r["id"] for r in await h.query("SELECT id FROM saga_worker.v_dead ORDER BY id")]
        assert len(dead) == 3

        first = await _replay(h.database, limit=1)
        await h.drain()  # still broken: what was replayed dies again before the next page is read
        rest = await _replay(h.database, limit=10, after=first[-1])

        assert (first, rest) == (dead[:1], dead[1:])
        assert [r["id"] for r in await h.query("SELECT id FROM saga_worker.v_dead")] == dead[:1]

    async with harness(database_url, account_saga()) as h:  # the next release can count so far
        assert await _replay(h.database, limit=10) == dead[:1]
        await h.drain()
        for key in ("a", "b", "c"):
            assert await h.deposits(key) == [7]
            await h.store(row(Closed(account=key), key, message_id=f"close {key}"))
        assert await h.query("SELECT FROM saga_worker.v_dead") == []


async def _replay(database: object, *, limit: int, after: int = 0) -> list[int]:
    async with database.transaction() as connection:  # type: ignore[attr-defined]
        replayed = await inbox.replay(connection, DeadFilter(limit=limit, after=after), actor="test")
    return replayed.ids


async def test_a_step_that_outlasts_its_lease_runs_once_while_its_worker_lives(database_url: str) -> None:
    """features: 59; M8"""
    world, may_end = World(), asyncio.Event()

    async def wait(step: str, ctx: ActivityContext) -> str:
        await may_end.wait()
        return "1A"

    world.ends["seat"] = wait
    async with stages(database_url, trip_saga(world)) as s:
        await s.store(event(TripAsked(trip="t"), "t", "1"))
        await eventually(lambda: "seat" in world.names())
        begun = (await s.query("SELECT clock_timestamp() AS at"))[0]["at"]

        async def outlast() -> bool:
            """The lease is over and renewed, again and again, while everybody looks for what is lost."""
            async with s.database.transaction() as connection:
                assert await workers.heartbeat(connection, s.worker_id, lease_seconds=4.0)
            await s.sweep()
            return bool(await s.query("SELECT WHERE clock_timestamp() > $1::timestamptz + interval '5 s'", begun))

        await eventually(outlast)
        may_end.set()
        await s.until_status("completed")

    assert world.names().count("seat") == 1
