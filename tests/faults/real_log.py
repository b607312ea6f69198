"""A real event log through two workers that are killed by turns: 262,200 events, none lost, none doubled.

    python tests/faults/real_log.py --log loan_applications.jsonl.gz --database-url … --amqp-url …

Makes a database and a namespace of its own on the servers given, publishes the log, kills one worker with SIGKILL
every ten seconds and starts it anew, publishes the first lines again, and judges the end by SQL, by the messages that
participants received, and by `saga-worker check`. Prints one JSON object; exits 1 when anything is off.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg

ROOT = Path(__file__).resolve().parents[2]
ENDS = {"A_DECLINED": "declined", "A_CANCELLED": "cancelled", "A_ACTIVATED": "activated"}
WORKERS = 2


class Machinery:
    """The processes of one run."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.namespace = f"reallog_{uuid.uuid4().hex[:8]}"
        self.database_url = options.database_url.rpartition("/")[0] + f"/{self.namespace}"
        self.directory = directory
        self.ledger = directory / "sink.jsonl"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SAGA_WORKER_")},
            "SAGA_WORKER_DATABASE_URL": self.database_url,
            "SAGA_WORKER_AMQP_URL": options.amqp_url,
            "SAGA_WORKER_NAMESPACE": self.namespace,
            "SAGA_WORKER_DEFINITIONS": str(ROOT / "definitions" / "loan_application.py"),
            "SAGA_WORKER_LOG_FORMAT": "json",
            "SAGA_WORKER_LEASE_SECONDS": "5",
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.participant: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self.peak_rss_mb = 0.0

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "saga_worker", *arguments]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False
        )

    def start_worker(self, number: int) -> None:
        log = (self.directory / f"worker{number}.log").open("ab")
        process = subprocess.Popen(self.command("run"), env=self.environment, stdout=log, stderr=log)
        if number < len(self.workers):
            self.workers[number] = process
        else:
            self.workers.append(process)

    def start_participant(self) -> None:
        arguments = ["--namespace", self.namespace, "--ledger", str(self.ledger), "--destinations", "credit"]
        self.participant = subprocess.Popen(
            [sys.executable, "-m", "saga_worker.trial.participants", *arguments],
            env=self.environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def kill_one(self, number: int) -> None:
        self.sample()
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait()
        self.kills += 1
        self.start_worker(number)

    def sample(self) -> None:
        for process in self.workers:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            peaks = [line for line in status.splitlines() if line.startswith("VmHWM")]
            if peaks:
                self.peak_rss_mb = max(self.peak_rss_mb, int(peaks[0].split()[1]) / 1024)

    def stop(self) -> list[int]:
        self.sample()
        processes = [*self.workers, *([self.participant] if self.participant else [])]
        for process in processes:
            process.terminate()
        return [process.wait(60) for process in processes]


async def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    machinery = Machinery(options, directory)
    admin = await asyncpg.connect(options.database_url)
    await admin.execute(f'CREATE DATABASE "{machinery.namespace}"')
    upgraded = machinery.call("db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    database = await asyncpg.connect(machinery.database_url)
    started = time.monotonic()
    try:
        machinery.start_participant()
        for number in range(WORKERS):
            machinery.start_worker(number)
        await until(lambda: queue_is_bound(database), "two workers", 60)
        publishing = asyncio.create_task(publish(machinery, options.log, options.limit))
        killing = asyncio.create_task(kill_by_turns(machinery, options.kill_seconds))
        published = await publishing
        await until(lambda: is_quiet(database), "the first pass to be applied", options.deadline)
        applied_seconds = time.monotonic() - started
        again = await publish(machinery, options.log, min(options.again, options.limit or options.again))
        await until(lambda: is_quiet(database), "the second pass to be recognised", options.deadline)
        killing.cancel()
        await until(lambda: is_quiet(database), "the last worker to take up its work", 60)
        checked = machinery.call("check", "--json")
        codes = machinery.stop()
        found = await judge(database, (await asyncio.to_thread(machinery.ledger.read_text)).splitlines())
    finally:
        for process in [*machinery.workers, *([machinery.participant] if machinery.participant else [])]:
            if process.poll() is None:
                process.kill()
        await database.close()
        if not options.keep:
            await admin.execute(f'DROP DATABASE "{machinery.namespace}" WITH (FORCE)')
        await admin.close()
    return {
        "published": published, "published_again": again, "kills": machinery.kills, **found,
        "check_exit": checked.returncode, "check": [line for line in checked.stdout.splitlines() if line],
        "stop_exits": codes, "peak_rss_mb": round(machinery.peak_rss_mb), "applied_seconds": round(applied_seconds, 1),
        "seconds": round(time.monotonic() - started, 1), "namespace": machinery.namespace,
    }  # fmt: skip


async def publish(machinery: Machinery, log: Path, limit: int | None) -> dict[str, Any]:
    arguments = ["publish", "--file", str(log), "--json", *(["--limit", str(limit)] if limit else [])]
    process = await asyncio.create_subprocess_exec(
        *machinery.command(*arguments), env=machinery.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    summary: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
    return summary


async def kill_by_turns(machinery: Machinery, seconds: float) -> None:
    number = 0
    while True:
        await asyncio.sleep(seconds)
        machinery.kill_one(number % WORKERS)
        number += 1


async def queue_is_bound(database: asyncpg.Connection) -> bool:
    return bool(
        await database.fetchval("SELECT count(*) = $1 FROM saga_worker.worker WHERE caught_up_at IS NOT NULL", WORKERS)
    )


_last: dict[str, Any] = {}


async def is_quiet(database: asyncpg.Connection) -> bool:
    """Nothing ready, nothing to send, nothing that moves: the same figures twice, two seconds apart."""
    figures = await database.fetchrow(
        "SELECT (SELECT count(*) FROM saga_worker.inbox WHERE state = 0) AS ready,"
        " (SELECT count(*) FROM saga_worker.outbox) AS outbox,"
        " (SELECT coalesce(max(id), 0) FROM saga_worker.inbox) AS stored,"
        " (SELECT count(*) FROM saga_worker.saga WHERE status IN (0, 2)) AS moving"
    )
    assert figures is not None
    before, _last["figures"] = _last.get("figures"), dict(figures)
    if figures["ready"] or figures["outbox"] or figures["moving"] or before != dict(figures):
        _last["since"] = time.monotonic()
        return False
    return bool(time.monotonic() - _last["since"] > 3)


async def until(condition: Any, what: str, deadline: float) -> None:
    end = time.monotonic() + deadline
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline:g} s for {what}; last seen: {_last.get('figures')}")
        await asyncio.sleep(0.5)


async def judge(database: asyncpg.Connection, ledger: list[str]) -> dict[str, Any]:
    outcomes = await database.fetch(
        "SELECT coalesce(state ->> 'outcome', 'open') AS outcome, status, count(*) AS sagas"
        " FROM saga_worker.v_saga GROUP BY 1, 2 ORDER BY 1, 2"
    )
    rows = await database.fetch(
        "SELECT state, coalesce(reason, '') AS reason, count(*) AS rows FROM saga_worker.v_inbox"
        " WHERE source = 'bank' GROUP BY 1, 2 ORDER BY 1, 2"
    )
    doubled = await database.fetchval(
        "SELECT count(*) FROM (SELECT FROM saga_worker.v_journal GROUP BY consumer, source, message_id"
        " HAVING count(*) > 1) AS twice"
    )
    keys = {
        r["ref"]: r["outcome"]
        for r in await database.fetch(
            "SELECT ref, coalesce(state ->> 'outcome', 'open') AS outcome FROM saga_worker.v_saga"
        )
    }
    commands: dict[str, dict[str, set[str]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for line in ledger:
        entry = json.loads(line)
        commands[entry["type"]][entry["message_id"].partition(".")[0]].add(entry["message_id"])
    expected = {"pay_out": ("activated",), "release_hold": ("declined", "cancelled")}
    wrong = {}
    for type_, ends in expected.items():
        wanted = {_prefix(ref) for ref, outcome in keys.items() if outcome in ends}
        got = commands[type_]
        wrong[type_] = {
            "missing": len(wanted - got.keys()), "unexpected": len(got.keys() - wanted),
            "more_than_one_id": sum(len(ids) != 1 for ids in got.values()), "commands": sum(map(len, got.values())),
        }  # fmt: skip
    return {
        "outcomes": {f"{r['outcome']}/{r['status']}": r["sagas"] for r in outcomes},
        "rows": {f"{r['state']}{':' + r['reason'] if r['reason'] else ''}": r["rows"] for r in rows},
        "journal_doubled": doubled, "commands": wrong,
    }  # fmt: skip


def _prefix(ref: uuid.UUID) -> str:
    from saga_worker.saga.routing import command_id

    return command_id(ref, 0).partition(".")[0]


def expected_of(log: Path, limit: int | None) -> tuple[int, dict[str, int]]:
    """Events, and sagas by outcome, read off the log itself."""
    outcome: dict[str, str] = {}
    events = 0
    with gzip.open(log, "rt") as lines:
        for line in lines:
            if limit and events >= limit:
                break
            events += 1
            entry = json.loads(line)
            application = entry["data"]["application"]
            outcome[application] = ENDS.get(entry["type"], outcome.get(application, "open"))
    return events, dict(collections.Counter(outcome.values()))


def is_right(report: dict[str, Any], events: int, outcomes: dict[str, int]) -> bool:
    found: dict[str, int] = collections.Counter()
    for name, count in report["outcomes"].items():
        found[name.partition("/")[0]] += count
    states: dict[str, int] = collections.Counter()
    for name, count in report["rows"].items():
        states[name.partition(":")[0]] += count
    commands_right = all(not any(v for k, v in c.items() if k != "commands") for c in report["commands"].values())
    return (
        dict(found) == outcomes and states["done"] + states["ignored"] == events == sum(states.values())
        and report["journal_doubled"] == 0 and report["check_exit"] == 0 and commands_right
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--database-url", required=True, help="any database of the server; one is created beside it")
    parser.add_argument("--amqp-url", required=True)
    parser.add_argument("--limit", type=int, help="only so many lines of the log")
    parser.add_argument("--again", type=int, default=20_000, help="lines published a second time")
    parser.add_argument("--kill-seconds", type=float, default=10.0)
    parser.add_argument("--deadline", type=float, default=1800.0)
    parser.add_argument("--keep", action="store_true", help="keep the database")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="real-log-") as directory:
        report = asyncio.run(run(options, Path(directory)))
    events, outcomes = expected_of(options.log, options.limit)
    report["right"] = is_right(report, events, outcomes)
    print(json.dumps(report, indent=2, default=str))
    return 0 if report["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
