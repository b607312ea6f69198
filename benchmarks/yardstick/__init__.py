"""What PostgreSQL alone can do with the statements of a saga worker: pgbench, in one run with the product.

Scripts: `unbatched` (one commit per event), `unbatched3` (three: store, advance, relay), `batched` (100 events, one
commit), `merged` (100 events, two commits: store and advance, relay). Their tables have fewer and narrower indexes
than the product's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness.accounting import DatabaseCounters, Reading, Usage, per_event
from benchmarks.harness.servers import Servers, new_name
from saga_worker.trial.postgres import local_binaries, wheel_binaries

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Pgbench:
    """One run of a script."""

    script: str
    clients: int
    events_per_second: float
    usage: Usage
    cpu: dict[str, float]  # microseconds per event
    counted: dict[str, Any]

    def document(self) -> dict[str, Any]:
        return {
            "script": self.script, "clients": self.clients, "events_per_second": round(self.events_per_second),
            "postgresql_cpu_us_per_event": self.cpu["postgresql"], **self.counted,
        }  # fmt: skip


class Yardstick:
    """pgbench scripts on a database of their own; every run begins with fresh tables and a checkpoint."""

    def __init__(self, servers: Servers, *, sagas: int = 100_000, seconds: int = 3, scripts: Path = HERE) -> None:
        self.servers = servers
        self.scripts = scripts
        self.sagas = sagas
        self.seconds = seconds
        self.database = new_name()
        self.database_url = servers.url_of(self.database)
        self.pgbench, self.psql = _binary("pgbench"), _binary("psql")

    async def __aenter__(self) -> Self:
        await self.servers.drop(self.database)
        await self.servers.admin.execute(f'CREATE DATABASE "{self.database}"')
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.servers.drop(self.database)

    async def best(self, script: str, clients: Sequence[int], *, batch: int = 1) -> Pgbench:
        """The fastest of several numbers of clients."""
        runs = [await self.run(script, clients=count, batch=batch) for count in clients]
        return max(runs, key=lambda run: run.events_per_second)

    async def run(self, script: str, *, clients: int, batch: int = 1) -> Pgbench:
        _call(self.psql, "-q", "-v", "ON_ERROR_STOP=1", "-v", f"n={self.sagas}", "-f", self.scripts / "schema.sql",
              self.database_url)  # fmt: skip
        roots = {"postgresql": self.servers.postgresql, "harness": [os.getpid()]}
        before, reading = await DatabaseCounters.take(self.servers.admin, self.database), Reading.take(roots)
        said = _call(
            self.pgbench, "-n", "-M", "prepared", "-c", clients, "-j", 1, "-T", self.seconds, "-D", f"n={self.sagas}",
            "-D", f"b={batch}", "-f", self.scripts / f"{script}.sql", self.database_url,
        )  # fmt: skip
        usage = reading.until(Reading.take(roots))
        counted = before.until(await DatabaseCounters.take(self.servers.admin, self.database))
        rate, transactions = re.search(r"tps = ([\d.]+)", said), re.search(r"actually processed: (\d+)", said)
        assert rate is not None and transactions is not None, said
        events = max(1, int(transactions[1]) * batch)
        return Pgbench(
            script, clients, float(rate[1]) * batch, usage, usage.microseconds_per(events), per_event(counted, events)
        )


def _call(*command: object) -> str:
    # Blocks the event loop, on purpose: nothing else of the harness is to run beside pgbench.
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def _binary(name: str) -> str:
    """On PATH, or beside the server that this machine or the wheel brings."""
    if found := shutil.which(name):
        return found
    for binaries in (local_binaries(), wheel_binaries()):
        if binaries is not None and (binaries.directory / name).is_file():
            return str(binaries.directory / name)
    raise SystemExit(f"{name} is needed for the yardstick and was not found; on Debian: apt-get install postgresql.")
