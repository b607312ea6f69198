"""Small runs of the benchmarks on real servers: they measure, they check, and they notice a wrong run."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import activities, compensation, pipeline, real_log
from benchmarks.against_handwritten import Handwritten
from benchmarks.harness.amqp import Amqp, AmqpFailure
from benchmarks.harness.command import Options
from benchmarks.harness.deployment import Product, WrongRun
from benchmarks.harness.history import multiply
from benchmarks.harness.servers import REPOSITORY, Servers, new_name, servers
from benchmarks.yardstick import Yardstick
from saga_worker.trial.postgres import EmbeddedPostgres

Eventually = Callable[..., Awaitable[Any]]

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
        pair = await pipeline.one_pair(Options(sagas=50, repeats=1), lambda: Product(durable), yardstick, clients)

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


async def test_a_terminated_benchmark_leaves_nothing_behind(durable: Servers, eventually: Eventually) -> None:
    async def databases() -> list[str]:
        rows = await durable.admin.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'bench_%'")
        return [row["datname"] for row in rows]

    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.scale", cwd=REPOSITORY, stderr=asyncio.subprocess.DEVNULL
    )
    (namespace,) = await eventually(databases, deadline=60)
    program.terminate()
    await program.wait()

    assert await databases() == []
    broker = await Amqp.connect(durable.amqp_url)
    with pytest.raises(AmqpFailure, match="404"):
        await broker.depth(f"{namespace}.inbox")
    await broker.close()


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


@pytest.mark.slow
async def test_sagas_of_activities_are_measured_beside_pgbench(durable: Servers) -> None:
    async with Yardstick(durable, sagas=1000, seconds=1) as yardstick:
        options = Options(sagas=50, repeats=1)
        pair = await activities.one_pair(options, yardstick, 2, lambda: activities.product_of(options, durable, 2))

    assert pair.product.events == 200
    assert pair.ratios()["R12"] == pytest.approx(3 * pair.sagas_per_second / pair.limit.events_per_second)


@pytest.mark.slow
async def test_a_refused_command_makes_the_same_saga_a_compensated_one(durable: Servers) -> None:
    pair = await compensation.one_pair(Options(sagas=50, repeats=1), durable)

    assert (pair.completed.events, pair.compensated.events) == (200, 300)


async def test_the_handwritten_worker_plays_the_same_saga_and_is_checked(durable: Servers) -> None:
    async with Handwritten(durable, workers=2) as deployment:
        run = await deployment.measure(20, warm_up=5)

        assert run.events == 80
        with pytest.raises(WrongRun, match="'ended': 25"):
            await deployment.check_tables(26)


EVENTS = [  # id, type, application
    ("1", "A_SUBMITTED", "a"), ("2", "A_SUBMITTED", "b"), ("3", "A_PREACCEPTED", "a"), ("4", "A_DECLINED", "b"),
    ("5", "A_SUBMITTED", "c"), ("6", "A_ACTIVATED", "a"), ("7", "O_SENT", "c"),
]  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wt") as lines:
        for id_, type_, application in EVENTS:
            data = {"application": application, "lifecycle:transition": "COMPLETE"}
            if type_ == "A_SUBMITTED":
                data |= {"AMOUNT_REQ": "100", "REG_DATE": "2011-10-01"}
            lines.write(json.dumps({"id": id_, "type": type_, "source": "bank", "data": data}) + "\n")
    return path


def test_a_log_can_be_read_for_its_first_applications_only(log: Path) -> None:
    assert real_log.read(log, None).outcomes == {"a": "activated", "b": "declined", "c": None}
    first = real_log.read(log, 2)
    assert [event[0] for event in first.events] == ["1", "2", "3", "4", "6"]
    assert first.ended == 2


@pytest.mark.slow
async def test_a_log_ends_as_it_says_or_the_run_is_wrong(durable: Servers, log: Path) -> None:
    result = await real_log.measure(Options(pairs=1, repeats=1, log=log, against="HEAD"), durable)

    assert result.detail["outcomes"] == {"activated": 1, "declined": 1, "open": 1}
    assert set(result.detail["events_per_second"]) == {"before", "now"}
    lied = replace(read := real_log.read(log, None), outcomes=read.outcomes | {"a": "declined"})
    async with real_log.LoanApplications(durable, lied, REPOSITORY, settings={}) as deployment:
        with pytest.raises(WrongRun, match="Application a is completed with activated"):
            await deployment.play()
