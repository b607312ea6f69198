"""The wake table: a lower bound of a saga's timers, in database time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from saga_worker import timers
from saga_worker.saga.instance import Progress, Timer
from saga_worker.sql.connection import Database
from tests.stages.stored_rows import NOW, ORDER, keep, query, refs_of, saga, value

LATER = NOW + timedelta(hours=1)
FAR = NOW + timedelta(days=36_500)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=2) as opened:
        yield opened


async def wake(database: Database, *bounds: tuple[UUID, datetime]) -> None:
    async with database.transaction() as conn:
        await timers.lower(conn, bounds)


async def due(database: Database, limit: int = 200, *, versions: list[str] | None = None) -> list[UUID]:
    async with database.transaction() as conn:
        return await timers.due(conn, limit, versions=versions)


async def bound(database: Database, ref: UUID = ORDER) -> datetime | None:
    found: datetime | None = await value(database, "SELECT due_at FROM saga_worker.wake WHERE ref = $1", ref)
    return found


async def test_due_sagas_come_longest_overdue_first_and_no_others(database: Database) -> None:
    first, second, third = refs_of(3)
    await wake(database, (second, LATER), (first, NOW), (third, FAR))

    assert await due(database) == [first, second]
    assert await due(database, 1) == [first]


async def test_a_step_lowers_the_bound_and_never_raises_it(database: Database) -> None:
    await wake(database, (ORDER, LATER))
    await wake(database, (ORDER, FAR))
    assert await bound(database) == LATER

    await wake(database, (ORDER, NOW))
    assert await bound(database) == NOW


async def test_the_earliest_of_several_bounds_counts(database: Database) -> None:
    await wake(database, (ORDER, LATER), (ORDER, NOW), (ORDER, FAR))

    assert await bound(database) == NOW


async def test_a_timer_that_fired_corrects_the_bound_upward(database: Database) -> None:
    await wake(database, (ORDER, NOW))
    async with database.transaction() as conn:
        await timers.correct(conn, [(ORDER, FAR), (refs_of(1)[0], LATER)])

    assert await bound(database) == FAR
    assert await bound(database, refs_of(1)[0]) == LATER


async def test_a_timer_that_may_not_fire_yet_does_not_head_the_list(database: Database) -> None:
    await wake(database, (ORDER, NOW), (refs_of(1)[0], FAR))
    async with database.transaction() as conn:
        await timers.push_back(conn, [ORDER, refs_of(1)[0]], 5)

    assert await due(database) == []
    moved = await bound(database)
    assert moved is not None and moved <= await value(database, "SELECT clock_timestamp() + interval '5 seconds'")
    assert await bound(database, refs_of(1)[0]) == FAR


async def test_a_saga_without_timers_has_no_row(database: Database) -> None:
    await wake(database, (ORDER, NOW))
    async with database.transaction() as conn:
        await timers.clear(conn, [ORDER])

    assert await bound(database) is None


async def test_sagas_of_definitions_that_a_worker_lacks_do_not_starve_its_own(database: Database) -> None:
    old, new, gone = refs_of(3)
    await keep(database, saga(old, definition_version=1), saga(new, definition_version=2))
    await wake(database, (old, NOW), (new, LATER), (gone, LATER + timedelta(seconds=1)))

    assert await due(database, 1, versions=["checkout/2"]) == [new]
    assert await due(database, versions=["checkout/2"]) == [new, gone]


async def test_the_armed_timers_of_a_saga_stand_in_the_view(database: Database) -> None:
    """features: L9"""
    stored = saga(progress=Progress(timers={"timeout:1": Timer(NOW, 3), "fraud review": Timer(FAR, 4)}))
    await keep(database, stored, saga(refs_of(1)[0]))

    assert await query(database, "SELECT saga_id, name, epoch, due_at FROM saga_worker.v_timer ORDER BY epoch") == [
        (stored.saga_id, "timeout:1", 3, NOW), (stored.saga_id, "fraud review", 4, FAR),
    ]  # fmt: skip


async def test_nothing_is_done_for_no_sagas(database: Database) -> None:
    async with database.transaction() as conn:
        await timers.lower(conn, [])
        await timers.correct(conn, [])
        await timers.clear(conn, [])
        await timers.push_back(conn, [], 5)
    assert await value(database, "SELECT count(*) FROM saga_worker.wake") == 0
