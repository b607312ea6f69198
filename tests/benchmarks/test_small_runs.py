"""Small runs of the benchmarks on real servers: they measure, they check, and they notice a wrong run."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest

from benchmarks import pipeline
from benchmarks.harness.command import Options
from benchmarks.harness.deployment import Product, WrongRun
from benchmarks.harness.history import multiply
from benchmarks.harness.servers import Servers, new_name, servers
from benchmarks.yardstick import Yardstick
from saga_worker.trial.postgres import EmbeddedPostgres

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"), pytest.mark.postgres_server,
    pytest.mark.rabbitmq,
]  # fmt: skip


@pytest.fixture
async def durable(
    private_postgres: EmbeddedPostgres, real_amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Servers]:
    monkeypatch.setenv("SAGA_WORKER_TEST_DATABASE_URL", private_postgres.url)
    monkeypatch.setenv("SAGA_WORKER_TEST_AMQP_URL", real_amqp_url)
    async with servers() as found:
        yield found


@pytest.mark.slow
async def test_a_pair_of_fifty_sagas_gives_every_ratio(durable: Servers) -> None:
    async with Yardstick(durable, sagas=1000, seconds=1) as yardstick:
        clients = dict.fromkeys(pipeline.SCRIPTS, 2)
        pair = await pipeline.one_pair(Options(sagas=50, repeats=1), durable, yardstick, clients)

    assert set(pair.ratios()) == set(pipeline.FIGURES)
    assert all(ratio > 0 for name, ratio in pair.ratios().items())
    assert pair.product.events == 200
    assert pair.product.cpu["worker"] > 0
    assert pair.product.cpu["postgresql"] > 0
    assert pair.limits["unbatched3"].counted["commits_per_1000_events"] == pytest.approx(3000, rel=0.1)


async def test_a_saga_too_many_is_a_wrong_run(durable: Servers) -> None:
    async with Product(durable) as product:
        await product.complete(20)
        await product.stop_workers()
        await product.check()

        with pytest.raises(WrongRun, match="'ended': 20"):
            await product.check_tables(21)
    assert not await durable.admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", product.namespace)


async def test_a_made_up_history_is_like_a_real_one(durable: Servers) -> None:
    database = new_name()
    await durable.admin.execute(f'CREATE DATABASE "{database}"')
    product = Product(durable, database=database)
    await product.prepare()
    async with product:
        await product.complete(40)
        await product.stop_workers()
        await multiply(product.database, 400)
        rows = await product.database.fetchrow(
            "SELECT (SELECT count(*) FROM saga_worker.saga), (SELECT count(*) FROM saga_worker.inbox),"
            " (SELECT count(*) FROM saga_worker.journal), (SELECT max(id) FROM saga_worker.inbox),"
            " nextval('saga_worker.inbox_id_seq') AS next"
        )
        owners = await product.database.fetchval(
            "SELECT count(DISTINCT saga_id) FROM saga_worker.journal JOIN saga_worker.saga USING (saga_id, ref)"
        )
    async with Product(durable, database=database) as again:
        await again.complete(40)
        await again.stop_workers()
        await again.check()
    await durable.drop(database)

    assert rows is not None
    assert tuple(rows)[:3] == (400, 160 + 9 * 40, 160 + 9 * 40)
    assert owners == 40 + 9 * 10
    assert rows["next"] == rows["max"] + 1
