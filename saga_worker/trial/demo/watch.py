"""What the demo can see of itself: the product's read-only views, read some ten times a second.

Takes a database and a schema, guarantees that every figure is measured there, and hands `Snapshot`s to whoever waits
for a condition or draws the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from saga_worker.sql import in_schema
from saga_worker.sql.connection import dsn_of

PERIOD_SECONDS: Final = 0.1

# The figures of the summary that anybody can ask the views for again.
QUERIES: Final = {
    "sagas": "SELECT count(*) FROM saga_worker.v_saga",
    "completed": "SELECT count(*) FROM saga_worker.v_saga WHERE status = 'completed'",
    "compensated": "SELECT count(*) FROM saga_worker.v_saga WHERE status = 'compensated'",
    "late_successes": "SELECT count(*) FROM saga_worker.v_inbox WHERE reason = 'late_reply' AND type = 'charged'",
    "replayed": "SELECT count(DISTINCT target) FROM saga_worker.v_audit WHERE action = 'replay'",
    "stuck": """\
SELECT count(*) FROM saga_worker.v_saga s
WHERE s.status IN ('running', 'waiting', 'compensating') AND s.attention IS NULL
  AND NOT EXISTS (SELECT FROM saga_worker.v_timer t WHERE t.saga_id = s.saga_id)
  AND NOT EXISTS (SELECT FROM saga_worker.v_outbox o WHERE o.saga_id = s.saga_id)
  AND NOT EXISTS (SELECT FROM saga_worker.v_inbox i WHERE i.saga_id = s.saga_id AND i.state IN ('ready', 'held'))""",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The views at one moment; `dead` and `parked` are message ids."""

    sagas: dict[str, int] = field(default_factory=dict)
    inbox: dict[str, int] = field(default_factory=dict)
    outbox: int = 0
    dead: Sequence[str] = ()
    parked: Sequence[str] = ()

    @property
    def started(self) -> int:
        return sum(self.sagas.values())

    @property
    def stored(self) -> int:
        return sum(self.inbox.values())

    @property
    def finished(self) -> int:
        return self.sagas.get("completed", 0) + self.sagas.get("compensated", 0)

    @property
    def is_quiet(self) -> bool:
        """Nothing on its way: every saga has ended, every row is final, every message is confirmed."""
        moving = sum(self.inbox.get(state, 0) for state in ("ready", "held", "parked"))
        return not moving and not self.outbox and self.started == self.finished


class Watch:
    """Reads the views until it is closed."""

    def __init__(self, database_url: str, schema: str) -> None:
        self._dsn = dsn_of(database_url)
        self._schema = schema
        self._connection: asyncpg.Connection | None = None
        self._reading = asyncio.Lock()
        self.now = Snapshot()
        self.seen_parked: set[str] = set()

    async def open(self) -> None:
        self._connection = await asyncpg.connect(self._dsn, timeout=10, command_timeout=10)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=2)

    async def until(self, condition: Callable[[], bool], *, what: str, seconds: float) -> Snapshot:
        """Look until the condition holds; raises `TimeoutError` that says what did not happen."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (await self.look() and condition()):
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"Within {seconds:g} s it did not happen that {what}; the views say {self.now}.")
            await asyncio.sleep(PERIOD_SECONDS)
        return self.now

    async def look(self) -> Snapshot:
        """The views now, in one snapshot."""
        assert self._connection is not None
        async with self._reading, self._connection.transaction(isolation="repeatable_read", readonly=True):
            sagas = await self._fetch("SELECT status, count(*) FROM saga_worker.v_saga GROUP BY 1")
            inbox = await self._fetch("SELECT state, count(*) FROM saga_worker.v_inbox GROUP BY 1")
            outbox = await self._fetch("SELECT count(*) FROM saga_worker.v_outbox")
            dead = await self._fetch("SELECT message_id FROM saga_worker.v_dead")
            parked = await self._fetch("SELECT message_id FROM saga_worker.v_inbox WHERE state = 'parked'")
        self.now = Snapshot(
            dict(map(tuple, sagas)), dict(map(tuple, inbox)), outbox[0][0], _firsts(dead), _firsts(parked)
        )
        self.seen_parked.update(self.now.parked)
        return self.now

    async def figures(self) -> dict[str, int]:
        """What `QUERIES` say now."""
        async with self._reading:
            return {name: int((await self._fetch(query))[0][0]) for name, query in QUERIES.items()}

    async def stored(self, message_ids: Sequence[str]) -> int:
        """How many of these ids have a final row."""
        query = """SELECT count(DISTINCT message_id) FROM saga_worker.v_inbox
                   WHERE message_id = ANY($1::text[]) AND state IN ('done', 'ignored', 'dead')"""
        async with self._reading:
            return int((await self._fetch(query, list(message_ids)))[0][0])

    async def _fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        assert self._connection is not None
        rows: list[asyncpg.Record] = await self._connection.fetch(in_schema(query, self._schema), *args)
        return rows


def _firsts(rows: Sequence[asyncpg.Record]) -> list[str]:
    return [row[0] for row in rows]
