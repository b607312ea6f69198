"""Twelve sessions on one inbox: events shuffled, a fifth of them twice, two starts per key. Nothing may be stranded.

`python tests/faults/stress.py --database-url … --runs 10` prints a line per run and exits 1 when a row was stranded
or doubled or a deadlock seen. The suite runs it once, smaller (`test_stress.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
from pydantic import BaseModel

from saga_worker import Event, Saga, Verdict, inbox, workers
from saga_worker.inbox import NewRow
from saga_worker.orchestrator import Orchestrator, Plan
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.fold import Limits
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Database


class Opened(Event):
    account: str


class Imported(Event):
    account: str


class Counted(Event):
    account: str
    n: int


class Tally(BaseModel):
    account: str
    seen: list[int] = []


tally = Saga("tally", state=Tally, deadline=timedelta(days=1))


@tally.starts_on(Opened, key=lambda e: e.account)
def opened(event: Opened) -> Tally:
    return Tally(account=event.account)


@tally.starts_on(Imported, key=lambda e: e.account)
def imported(event: Imported) -> Tally:
    return Tally(account=event.account)


@tally.on(Counted, key=lambda e: e.account)
def counted(state: Tally, event: Counted) -> Verdict:
    state.seen.append(event.n)
    return None


never = tally.wait("never")


class Never(Event):
    account: str


@never.on(Never, key=lambda e: e.account)
def ended(state: Tally, event: Never) -> Verdict:
    return None


tally.flow(never)


@dataclass
class Outcome:
    events: int
    deliveries: int
    stranded: int
    doubled: int
    missing: int
    deadlocks: int
    lease_lost: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        return self.stranded == self.doubled == self.missing == self.deadlocks == 0


async def stress(
    database_url: str, *, keys: int, per_key: int, sessions: int, seed: int, is_fast: bool = False
) -> Outcome:
    """One run on the migrated database at `database_url`, whose tables are emptied first."""
    rng = random.Random(seed)
    events = [_row(key, message) for key in range(keys) for message in _messages(key, per_key)]
    deliveries = events + rng.sample(events, len(events) // 5)
    rng.shuffle(deliveries)
    started = time.monotonic()
    async with Database(database_url, min_size=sessions, max_size=sessions + 2) as database:
        async with database.autocommit() as connection:
            await connection.raw.execute("TRUNCATE saga_worker.inbox, saga_worker.saga, saga_worker.journal")
            await connection.raw.execute("TRUNCATE saga_worker.outbox, saga_worker.wake")
        registry = Registry([tally])
        async with database.transaction() as connection:
            worker_id = await workers.register(connection, ["tally/1"], "stress", 1, lease_seconds=3600)
        plan = Plan(registry, Limits(), "stress", timedelta(days=1))
        orchestrator = Orchestrator(database, plan, worker_id=lambda: worker_id, replies_are_in=lambda: True)
        run = _Run(database, orchestrator, deliveries, rng, is_fast=is_fast)
        await asyncio.gather(
            *(run.ingest() for _ in range(sessions // 2)), *(run.drain() for _ in range(sessions - sessions // 2))
        )
        stranded, doubled, missing = await _judge(database, keys, per_key)
    seconds = round(time.monotonic() - started, 2)
    return Outcome(len(events), len(deliveries), stranded, doubled, missing, run.deadlocks, run.lease_lost, seconds)


class _Run:
    def __init__(
        self,
        database: Database,
        orchestrator: Orchestrator,
        deliveries: list[NewRow],
        rng: random.Random,
        *,
        is_fast: bool,
    ) -> None:
        self.is_fast = is_fast
        self.database, self.orchestrator, self.rng = database, orchestrator, rng
        self.waiting = deliveries
        self.ingesting = 0
        self.deadlocks = 0
        self.lease_lost = 0

    async def ingest(self) -> None:
        """Store batch after batch, as consumers do."""
        self.ingesting += 1
        while self.waiting:
            size = self.rng.randint(1, 60)
            batch, self.waiting = self.waiting[:size], self.waiting[size:]
            is_stored = False
            while not is_stored:
                is_stored = await self._store(batch)
        self.ingesting -= 1

    async def _store(self, batch: Sequence[NewRow]) -> bool:
        try:
            if self.is_fast:
                await self.orchestrator.take_in(batch)
            else:
                async with self.database.transaction() as connection:
                    await inbox.insert(connection, batch)
        except LeaseLost:
            self.lease_lost += 1
            return False
        except asyncpg.DeadlockDetectedError:
            self.deadlocks += 1
            return False
        return True

    async def drain(self) -> None:
        """Claim and advance until a whole lap finds nothing and nobody stores any more."""
        cursor = UUID(int=self.rng.getrandbits(128))
        idle_laps = 0
        while idle_laps < 2:
            was_ingesting = self.ingesting
            async with self.database.transaction() as connection:
                claimed = await inbox.claim(connection, cursor, ["tally"], 100)
            cursor = claimed.cursor
            await self.advance(claimed.refs)
            if claimed.refs or was_ingesting:
                idle_laps = 0
            elif claimed.lap_ended:
                idle_laps += 1

    async def advance(self, refs: Sequence[UUID]) -> None:
        try:
            await self.orchestrator.advance(refs)
        except LeaseLost:
            self.lease_lost += 1
        except asyncpg.DeadlockDetectedError:
            self.deadlocks += 1


async def _judge(database: Database, keys: int, per_key: int) -> tuple[int, int, int]:
    async with database.autocommit() as connection:
        stranded = len(await connection.raw.fetch("SELECT FROM saga_worker.inbox WHERE state NOT IN (3, 4)"))
        states = await connection.raw.fetch("SELECT state::text AS state FROM saga_worker.v_saga")
    seen = [json.loads(row["state"])["seen"] for row in states]
    doubled = sum(len(numbers) - len(set(numbers)) for numbers in seen)
    missing = keys * per_key - sum(len(set(numbers)) for numbers in seen)
    return stranded, doubled, missing


def _messages(key: int, per_key: int) -> list[Event]:
    account = f"k{key}"
    return [Opened(account=account), Imported(account=account)] + [
        Counted(account=account, n=n) for n in range(per_key)
    ]


def _row(key: int, message: Event) -> NewRow:
    number = f":{message.n}" if isinstance(message, Counted) else ""
    return NewRow(
        consumer="tally", source="stress", message_id=f"{message.wire_type}:{key}{number}", type=message.wire_type,
        role=Role.EVENT, ref=ref_of("tally", f"k{key}"), saga_key=f"k{key}", correlation_id=None, state=RowState.READY,
        reason=None, error=None, suspect=False, prio=1, expires_at_seconds=None, props=b"{}",
        body=message.model_dump_json().encode(),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", required=True, help="an empty database; it is migrated")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--keys", type=int, default=430)
    parser.add_argument("--per-key", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fast", action="store_true", help="the storing sessions take the fast path")
    options = parser.parse_args()
    clean = True
    for number in range(options.runs):
        outcome = asyncio.run(_migrated(options, options.seed + number))
        print(json.dumps({"run": number + 1, "seed": options.seed + number, **asdict(outcome)}), flush=True)
        clean = clean and outcome.is_clean
    return 0 if clean else 1


async def _migrated(options: argparse.Namespace, seed: int) -> Outcome:
    from saga_worker.sql.migrate import upgrade

    await upgrade(options.database_url)
    return await stress(
        options.database_url,
        keys=options.keys,
        per_key=options.per_key,
        sessions=options.sessions,
        seed=seed,
        is_fast=options.fast,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main())
