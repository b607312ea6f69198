from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from saga_worker.admin.gauges import Gauges
from saga_worker.admin.health import HealthServer, application
from saga_worker.saga.errors import ConfigurationError
from saga_worker.saga.rows import RowState
from saga_worker.saga.transitions import Status
from saga_worker.sql.connection import Database
from saga_worker.telemetry import Metrics
from saga_worker.testing import eventually
from tests.stages.operator_rows import add_row, add_saga, progress, soon


@asynccontextmanager
async def served(**arguments: object) -> AsyncIterator[HealthServer]:
    server = HealthServer(("127.0.0.1", 0), application(**arguments))  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(server: HealthServer, path: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def test_ready_only_when_every_part_says_so() -> None:
    parts = {"database": True, "broker": False}
    async with served(readiness={name: (lambda name=name: parts[name]) for name in parts}) as server:
        before = await get(server, "/readyz")
        parts["broker"] = True
        after = await get(server, "/readyz")

    assert (before[0], json.loads(before[1])) == (503, {"ready": False, "parts": {"database": True, "broker": False}})
    assert (after[0], json.loads(after[1])["ready"]) == (200, True)


async def test_alive_does_not_ask_for_the_servers() -> None:
    async with served(readiness={"database": lambda: False}) as server:
        assert await get(server, "/livez") == (200, "ok\n")


async def test_not_alive_when_the_worker_says_so() -> None:
    async with served(readiness={}, alive=lambda: False) as server:
        assert (await get(server, "/livez"))[0] == 503


async def test_metrics_show_what_was_counted() -> None:
    registry = CollectorRegistry()
    Metrics(registry).duplicates.inc(3)
    async with served(readiness={}, registry=registry) as server:
        status, text = await get(server, "/metrics")

    assert status == 200
    assert "saga_worker_inbox_duplicates_total 3.0" in text


async def test_signals_stay_with_the_worker() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with served(readiness={}) as server:
        await get(server, "/livez")
        during = signal.getsignal(signal.SIGTERM)

    assert during is before


async def test_a_stopped_server_frees_its_port() -> None:
    async with served(readiness={}) as server:
        port = server.port

    again = HealthServer(("127.0.0.1", port), application({}))
    await again.start()
    assert (await get(again, "/livez"))[0] == 200
    await again.stop()


async def test_a_taken_port_is_named() -> None:
    async with served(readiness={}) as server:
        second = HealthServer(("127.0.0.1", server.port), application({}))

        with pytest.raises(ConfigurationError, match="SAGA_WORKER_HTTP_BIND"):
            await second.start()


async def test_stopping_what_never_started_is_nothing() -> None:
    await HealthServer(("127.0.0.1", 0), application({})).stop()


async def test_the_gauges_are_those_of_the_database(database_url: str) -> None:
    """features: L1"""
    connection = await asyncpg.connect(database_url)
    await add_saga(connection, "stuck", progress())
    await add_saga(connection, "waiting", progress(timers={"deadline": soon()}))
    await add_saga(connection, "asking", progress(), attention="no_answer: charge")
    await add_saga(connection, "unknown", progress(), status=Status.COMPENSATED, unsettled=2)
    await add_saga(connection, "late", progress(), status=Status.COMPLETED, unsettled=1)
    await add_row(connection, message_id="old", key="4711", received=timedelta(minutes=5))
    await add_row(connection, message_id="dead", key="4712", state=RowState.DEAD, reason="handler_error")
    await connection.close()
    registry = CollectorRegistry()

    async with Database(database_url) as database:
        await Gauges(database, into=Metrics(registry)).read()

    assert registry.get_sample_value("saga_worker_inbox_rows", {"state": "ready"}) == 1
    assert registry.get_sample_value("saga_worker_inbox_rows", {"state": "dead"}) == 1
    assert 300 <= (registry.get_sample_value("saga_worker_inbox_oldest_ready_seconds") or 0) < 400
    assert registry.get_sample_value("saga_worker_sagas_attention") == 1
    assert registry.get_sample_value("saga_worker_sagas_stuck") == 1
    assert registry.get_sample_value("saga_worker_commands_unsettled") == 3


async def test_gauges_are_read_as_soon_as_the_database_is_there(database_url: str) -> None:
    registry = CollectorRegistry()
    database = Database(database_url)
    gauges = Gauges(database, into=Metrics(registry), period_seconds=0.01)

    gauges.start()  # not open yet: the first readings fail
    await asyncio.sleep(0)
    await database.open()
    await eventually(lambda: registry.get_sample_value("saga_worker_inbox_rows", {"state": "ready"}) == 0)

    await gauges.stop()
    await database.close()
