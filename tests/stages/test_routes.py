"""Routes as rows: every definition that any worker brought, agreed on how keys are found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from saga_worker import routes, workers
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.routing import KeyKind, Route
from saga_worker.saga.rows import Role
from saga_worker.saga.transitions import Status
from saga_worker.sql.connection import Database
from tests.stages.stored_rows import NOW, keep, query, refs_of, saga, two_sessions

PLACED = Route("checkout", 1, "order_placed", Role.EVENT, "/order_id", KeyKind.TEXT)
CANCELLED = replace(PLACED, type="order_cancelled")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=4) as opened:
        yield opened


async def register(database: Database, *brought: Route) -> None:
    async with database.transaction() as conn:
        await routes.register(conn, brought)


async def load(database: Database) -> routes.RouteTable:
    async with database.transaction() as conn:
        return await routes.load(conn)


async def test_a_type_is_routed_to_every_definition_that_any_worker_brought(database: Database) -> None:
    refund = replace(PLACED, definition="refund", key_pointer="/data/order~1id", key_kind=KeyKind.UUID)
    await register(database, PLACED, CANCELLED)
    await register(database, refund)

    assert (await load(database)).by_type == {"order_placed": [PLACED, refund], "order_cancelled": [CANCELLED]}


async def test_two_versions_of_a_definition_are_one_route(database: Database) -> None:
    await register(database, PLACED, replace(PLACED, version=2))
    await register(database, replace(PLACED, version=10))

    assert (await load(database)).by_type == {"order_placed": [replace(PLACED, version=10)]}


async def test_the_revision_rises_with_every_change_and_only_then(database: Database) -> None:
    async def revision() -> int:
        async with database.transaction() as conn:
            return await routes.revision(conn)

    seen = [await revision()]
    for brought in ((PLACED,), (PLACED,), (PLACED, CANCELLED), (), (replace(PLACED, version=2),)):
        await register(database, *brought)
        seen.append(await revision())

    assert seen == [0, 1, 1, 2, 2, 3]
    assert (await load(database)).rev == 3


async def test_an_empty_table_has_no_routes(database: Database) -> None:
    assert await load(database) == routes.RouteTable(0, {})


@pytest.mark.parametrize(
    "differing",
    [replace(PLACED, version=2, key_pointer="/id"), replace(CANCELLED, version=2, key_kind=KeyKind.INT)],
)
async def test_a_version_that_finds_keys_differently_is_refused_while_the_other_runs(
    database: Database, differing: Route
) -> None:
    async with database.transaction() as conn:
        await workers.register(conn, ["checkout/1"], "host", 1)
        await routes.register(conn, [PLACED])

    with pytest.raises(DefinitionError, match=r"checkout version 2 .* version 1, which still runs"):
        await register(database, differing)
    assert (await load(database)).by_type == {"order_placed": [PLACED]}


async def test_a_version_with_open_sagas_still_runs(database: Database) -> None:
    await register(database, PLACED)
    await keep(database, saga())

    with pytest.raises(DefinitionError):
        await register(database, replace(PLACED, version=2, key_pointer="/id"))


async def test_a_version_that_nothing_runs_any_more_makes_room(database: Database) -> None:
    await register(database, PLACED, CANCELLED)
    await keep(database, saga(refs_of(1)[0], status=Status.COMPLETED, finished_at=NOW))
    async with database.transaction() as conn:
        await workers.register(conn, ["checkout/1"], "host", 1, lease_seconds=-1)
        await workers.register(conn, ["checkout_other/1"], "host", 1)
    changed = replace(PLACED, version=2, key_pointer="/id")
    await register(database, changed)

    assert (await load(database)).by_type == {"order_placed": [changed]}


async def test_pointers_may_differ_between_types(database: Database) -> None:
    async with database.transaction() as conn:
        await workers.register(conn, ["checkout/1"], "host", 1)
    await register(database, PLACED)
    await register(database, replace(PLACED, version=2), replace(CANCELLED, version=2, key_pointer="/order/id"))

    assert len((await load(database)).by_type) == 2


async def test_two_workers_that_start_together_get_two_revisions(database: Database) -> None:
    async with two_sessions(database) as (one, two):
        await routes.register(one.conn, [PLACED])
        await one.commit()
        await routes.register(two.conn, [CANCELLED])
        await two.commit()

    assert await query(database, "SELECT type, rev FROM saga_worker.route ORDER BY rev") == [
        ("order_placed", 1), ("order_cancelled", 2),
    ]  # fmt: skip
