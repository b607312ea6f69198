"""Whole workers on real servers: in this process, where a test only needs its stages, or in processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from saga_worker.testing.namespaces import Namespace
from tests.flow.processes import Processes
from tests.flow.records import Records
from tests.flow.wire import Wire, wire_to
from tests.flow.workers import Workers


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's own; what definitions add to the import path goes again."""
    for name in list(os.environ):
        if name.startswith("SAGA_WORKER_") and not name.startswith("SAGA_WORKER_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
async def wire(amqp_url: str, namespace: Namespace) -> AsyncIterator[Wire]:
    """The producer and the services of the test."""
    async with wire_to(amqp_url, namespace) as wire:
        yield wire


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[Records]:
    connection = await asyncpg.connect(database_url)
    try:
        yield Records(connection, database_url)
    finally:
        await connection.close()


@pytest.fixture
async def workers(database_url: str, amqp_url: str, namespace: Namespace, records: Records) -> AsyncIterator[Workers]:
    """Starts workers in this process; at the end they drain and every promise has to hold."""
    workers = Workers(database_url, amqp_url, str(namespace))
    yield workers
    await workers.stop()
    assert await records.broken_promises() == []


@pytest.fixture
def processes(database_url: str, amqp_url: str, namespace: Namespace, tmp_path: Path) -> Iterator[Processes]:
    """Starts `saga-worker` processes; those that still run at the end are killed."""
    servers = {"DATABASE_URL": database_url, "AMQP_URL": amqp_url, "NAMESPACE": str(namespace)}
    with Processes(servers, tmp_path) as processes:
        yield processes
