"""PostgreSQL and RabbitMQ for a benchmark: the given ones, else private ones from this machine's binaries.

Hands on their URLs, the roots of their process trees and a description of the machine. A private PostgreSQL runs with
the defaults of its release: durable, 128 MB of shared buffers, autovacuum on.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from benchmarks.harness.accounting import broker_processes, cores, postmaster_of
from benchmarks.harness.amqp import Amqp
from saga_worker.testing.backends import (
    AMQP_URL_VARIABLE,
    DATABASE_URL_VARIABLE,
    Backend,
    Kind,
    resolve_broker,
    resolve_database,
)
from saga_worker.trial.postgres import EmbeddedPostgres, local_binaries

REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = ("asyncpg", "aio-pika", "pydantic", "sqlalchemy", "uuid-utils")
_SETTINGS = (
    "shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method",
    "wal_compression", "autovacuum",
)  # fmt: skip
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@dataclass(slots=True)
class Servers:
    """Both servers, answering. `admin` is a connection that may create databases."""

    database_url: str
    amqp_url: str
    admin: asyncpg.Connection
    postgresql: list[int]  # process ids of the roots
    rabbitmq: list[int]
    machine: dict[str, Any] = field(default_factory=dict)

    def url_of(self, database: str) -> str:
        return urlsplit(self.database_url)._replace(path=f"/{database}").geturl()

    async def drop(self, database: str) -> None:
        await self.admin.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


def new_name() -> str:
    """For a database or a namespace."""
    return f"bench_{uuid.uuid4().hex[:8]}"


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """Both servers; what was started for this ends with it."""
    if sys.platform != "linux":
        sys.exit("The benchmarks account for CPU by /proc: they need Linux.")
    database = _database()
    broker = resolve_broker(os.environ.get(AMQP_URL_VARIABLE))
    if not broker.is_real:
        sys.exit(f"There is no RabbitMQ to measure with: set {AMQP_URL_VARIABLE}, or install rabbitmq-server.")
    admin = await asyncpg.connect(database.url)
    try:
        found = Servers(
            database.url, broker.url, admin, postmaster_of(await admin.fetchval("SELECT pg_backend_pid()")),
            broker_processes(urlsplit(broker.url).port or 5672),
        )  # fmt: skip
        found.machine = await _describe(found)
        yield found
    finally:
        await admin.close()
        broker.stop()
        database.stop()


def _database() -> Backend:
    url = os.environ.get(DATABASE_URL_VARIABLE)
    if url or (binaries := local_binaries()) is None:
        return resolve_database(url, fsync=True)
    server = EmbeddedPostgres(binaries, fsync=True, settings={"shared_buffers": "128MB"}).start()
    return Backend(server.url, Kind.LOCAL, f"private PostgreSQL from {binaries.description}", server.close)


async def _describe(found: Servers) -> dict[str, Any]:
    settings = {name: await found.admin.fetchval(f"SHOW {name}") for name in _SETTINGS}
    if weakened := {name: settings[name] for name, wanted in _DURABLE.items() if settings[name] != wanted}:
        sys.exit(f"PostgreSQL runs with {weakened}: figures of a server that may lose commits are worth nothing.")
    broker = await Amqp.connect(found.amqp_url)
    await broker.close()
    return _hardware() | {
        "date": datetime.now(UTC).date().isoformat(), "commit": _commit(),
        "postgresql": await found.admin.fetchval("SHOW server_version"), "settings": settings,
        "rabbitmq": broker.server_version, "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }  # fmt: skip


def _hardware() -> dict[str, Any]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(), "cores": cores(),
        "memory_gb": round(int(memory[1]) / 1e6) if memory else None, "kernel": platform.release(),
    }  # fmt: skip


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
