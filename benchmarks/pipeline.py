"""Events per second of a three-command saga, all the way over RabbitMQ and back, beside what pgbench does alone.

    ./dev bench pipeline --json

One run measures, interleaved: the best unbatched yardstick (one transaction per event), the batched one (100 events
in three transactions), and the product: N sagas of four events each (a start, three replies), three commands and a
closing event out, every delivery acknowledged after its commit, every message confirmed. Correctness is checked before
a figure counts. Wall-clock rates on a shared machine vary; the ratio of one run is what is worth reading.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.yardstick import Yardstick
from saga_worker.testing import resolve_broker, resolve_database

HERE = Path(__file__).resolve().parent
EVENTS_PER_SAGA = 4
PAD = "x" * 200
CLIENTS = (8, 16)


class Pipeline:
    """One run of the product on a database and a namespace of its own."""

    def __init__(self, database_url: str, amqp_url: str, *, sagas: int, workers: int, is_fast: bool = True) -> None:
        self.namespace = f"bench_{uuid.uuid4().hex[:8]}"
        self.server_url = database_url
        self.database_url = database_url.rpartition("/")[0] + f"/{self.namespace}"
        self.amqp_url = amqp_url
        self.sagas = sagas
        self.workers = workers
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SAGA_WORKER_")},
            "SAGA_WORKER_DATABASE_URL": self.database_url,
            "SAGA_WORKER_AMQP_URL": amqp_url,
            "SAGA_WORKER_NAMESPACE": self.namespace,
            "SAGA_WORKER_DEFINITIONS": str(HERE / "three_commands.py"),
            "SAGA_WORKER_LOG_LEVEL": "warning",
            "SAGA_WORKER_FAST_PATH": str(is_fast).lower(),
        }

    async def run(self) -> dict[str, Any]:
        admin = await asyncpg.connect(self.server_url)
        await admin.execute(f'CREATE DATABASE "{self.namespace}"')
        processes: list[subprocess.Popen[bytes]] = []
        try:
            self._call("db", "upgrade")
            database = await asyncpg.connect(self.database_url)
            processes.append(self._start(HERE / "echo.py", self.amqp_url, self.namespace))
            processes += [self._start("-m", "saga_worker", "run") for _ in range(self.workers)]
            await _until(lambda: self._are_ready(database), 60)
            wal = await database.fetchrow("SELECT wal_bytes, wal_sync FROM pg_stat_wal")
            cpu = _cpu_seconds(processes)
            started = time.monotonic()
            publishing = asyncio.create_task(asyncio.to_thread(self._publish))
            await _until(lambda: self._are_done(database), 600)
            seconds = time.monotonic() - started
            await publishing
            cpu = [after - before for before, after in zip(cpu, _cpu_seconds(processes), strict=True)]
            wal_after = await database.fetchrow("SELECT wal_bytes, wal_sync FROM pg_stat_wal")
            await self._check(database)
            await database.close()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)
            await admin.execute(f'DROP DATABASE "{self.namespace}" WITH (FORCE)')
            await admin.close()
        events = self.sagas * EVENTS_PER_SAGA
        assert wal is not None and wal_after is not None
        return {
            "events_per_second": round(events / seconds), "events": events, "seconds": round(seconds, 2),
            "worker_cpu_us_per_event": round(sum(cpu[1:]) / events * 1e6),
            "wal_bytes_per_event": round(float(wal_after["wal_bytes"] - wal["wal_bytes"]) / events),
            "wal_syncs_per_1000_events": round((wal_after["wal_sync"] - wal["wal_sync"]) / events * 1000, 1),
        }  # fmt: skip

    def _start(self, *arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *map(str, arguments)], env=self.environment, stdout=subprocess.DEVNULL)

    def _call(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "saga_worker", *arguments], env=self.environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def _publish(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for number in range(self.sagas):
                data = {"key": f"k{number}", "pad": PAD}
                file.write(json.dumps({"id": f"s{number}", "type": "bench_started", "data": data}) + "\n")
            file.flush()
            self._call("publish", "--file", file.name, "--json")

    async def _are_ready(self, database: asyncpg.Connection) -> bool:
        ready = await database.fetchval("SELECT count(*) FROM saga_worker.worker WHERE caught_up_at IS NOT NULL")
        return bool(ready == self.workers)

    async def _are_done(self, database: asyncpg.Connection) -> bool:
        done = await database.fetchval("SELECT count(*) FROM saga_worker.saga WHERE finished_at IS NOT NULL")
        return bool(done == self.sagas)

    async def _check(self, database: asyncpg.Connection) -> None:
        """A fast wrong run does not count."""
        found = await database.fetchrow(
            "SELECT (SELECT count(*) FROM saga_worker.saga WHERE status = 3 AND revision = 4) AS completed,"
            " (SELECT count(*) FROM saga_worker.inbox WHERE state = 3) AS done,"
            " (SELECT count(*) FROM saga_worker.inbox WHERE state <> 3) AS other,"
            " (SELECT count(*) FROM saga_worker.journal) AS journal"
        )
        assert found is not None
        events = self.sagas * EVENTS_PER_SAGA
        wanted = {"completed": self.sagas, "done": events, "other": 0, "journal": events}
        assert dict(found) == wanted, f"wrong run: {dict(found)}, wanted {wanted}"
        await _until(lambda: _is_empty(database), 30)


async def _is_empty(database: asyncpg.Connection) -> bool:
    return not await database.fetchval("SELECT count(*) FROM saga_worker.outbox")


async def _until(condition: Any, deadline: float) -> None:
    end = time.monotonic() + deadline
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError("the run did not come to its end in time")
        await asyncio.sleep(0.1)


def _cpu_seconds(processes: list[subprocess.Popen[bytes]]) -> list[float]:
    hertz = os.sysconf("SC_CLK_TCK")
    found = []
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        found.append((int(fields[11]) + int(fields[12])) / hertz)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with_database = resolve_database(os.environ.get("SAGA_WORKER_TEST_DATABASE_URL"), fsync=True)
    with_broker = resolve_broker(os.environ.get("SAGA_WORKER_TEST_AMQP_URL"))
    try:
        return asyncio.run(_measure(options, with_database.url, with_broker.url)) | {
            "database": with_database.description, "broker": with_broker.description,
        }  # fmt: skip
    finally:
        with_broker.stop()
        with_database.stop()


async def _measure(options: argparse.Namespace, database_url: str, amqp_url: str) -> dict[str, Any]:
    name = f"yardstick_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f'CREATE DATABASE "{name}"')
    yardstick = Yardstick(database_url.rpartition("/")[0] + f"/{name}", seconds=options.seconds)
    pairs = []
    try:
        for _ in range(options.pairs):
            unbatched = max(
                [
                    await asyncio.to_thread(yardstick.events_per_second, "unbatched", clients=clients)
                    for clients in CLIENTS
                ]
            )
            batched = await asyncio.to_thread(yardstick.events_per_second, "batched", clients=2, batch=100)
            product = await Pipeline(
                database_url, amqp_url, sagas=options.sagas, workers=options.workers, is_fast=not options.general
            ).run()
            rate = product["events_per_second"]
            pairs.append(
                {
                    "unbatched": round(unbatched), "batched": round(batched), **product,
                    "ratio_unbatched": round(rate / unbatched, 2), "ratio_batched": round(rate / batched, 3),
                }
            )  # fmt: skip
            print(json.dumps(pairs[-1]), file=sys.stderr, flush=True)
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()
    return {
        "benchmark": "pipeline", "path": "general" if options.general else "fast",
        "sagas": options.sagas, "workers": options.workers,
        "events_per_second": statistics.median(p["events_per_second"] for p in pairs),
        "unbatched": statistics.median(p["unbatched"] for p in pairs),
        "batched": statistics.median(p["batched"] for p in pairs),
        "ratio_unbatched": statistics.median(p["ratio_unbatched"] for p in pairs),
        "ratio_batched": statistics.median(p["ratio_batched"] for p in pairs),
        "pairs": pairs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sagas", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=4, help="of each pgbench run")
    parser.add_argument("--general", action="store_true", help="store first, apply by the pool: no fast path")
    parser.add_argument("--json", action="store_true", help="one line of JSON (else indented)")
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
