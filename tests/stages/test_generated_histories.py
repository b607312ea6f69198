"""Random definitions and histories through PostgreSQL: transaction by transaction the tables hold what the core says.

At the end of each test the promises are verified on the database itself.

features: 57, 163, 167; L1, L2, L4, L7, L8
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from saga_worker.admin.check import verify
from saga_worker.settings import Settings
from saga_worker.sql.connection import dsn_of
from saga_worker.testing import ledgers
from saga_worker.testing.checker import check
from tests.saga.acts import histories, play
from tests.saga.generated import MAKERS, Shape, build, shapes
from tests.saga.scripted import BROKEN, LOCALS
from tests.stages.mirror import CLOCK, Mirror, ScriptedWorld

EXAMPLES = 80  # of each of four tests
SLOW: list[HealthCheck] = [*HealthCheck]  # pyright: ignore[reportAssignmentType]
HISTORIES = histories(MAKERS, own_work=True, more_control=["wake"])


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    yield
    BROKEN.clear()
    LOCALS.clear()


@pytest.fixture
def still_clock(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database whose clock stands where it is put, and nothing random in what is decided on it."""
    asyncio.run(_put_clock(database_url))
    monkeypatch.setattr("saga_worker.orchestrator.deciding.random", SimpleNamespace(random=lambda: 0.0))
    return database_url


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_the_tables_hold_what_the_core_decides(still_clock: str, part: int) -> None:
    with asyncio.Runner() as runner:
        mirror = Mirror(still_clock)
        runner.run(mirror.open())
        played: list[ScriptedWorld] = []

        @seed(part)
        @settings(
            max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW, database=None, phases=[Phase.generate]
        )
        @given(shape=shapes(children=False), history=HISTORIES, starts=st.sampled_from([True, True, True, True, False]))
        def tell(shape: Shape, history: list[Any], starts: bool) -> None:
            world = ScriptedWorld(build(shape, f"generated {part}.{len(played)}"))
            played.append(world)
            play(world, history, starts=starts)
            runner.run(mirror.play(world))

        tell()
        verdicts = runner.run(verify(Settings(database_url=still_clock)))
        views = runner.run(ledgers.read_views(still_clock))
        runner.run(mirror.close())

    assert len(played) >= EXAMPLES - 1
    assert mirror.lost > EXAMPLES and mirror.transactions > 5 * EXAMPLES, (mirror.lost, mirror.transactions)
    assert [verdict for verdict in verdicts if not verdict.holds] == []
    report = check(mirror.published, mirror.delivered, views, minimum_acknowledged=EXAMPLES)
    # The order of undos is another one where branches are undone beside each other: the core's tests look at that.
    assert [verdict for verdict in report.verdicts if not verdict.holds and verdict.invariant != "I9"] == []


async def _put_clock(url: str) -> None:
    connection = await asyncpg.connect(dsn_of(url))
    try:
        await connection.execute(CLOCK)
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET search_path = clock, pg_catalog, public")
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    finally:
        await connection.close()
