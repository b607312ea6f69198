"""What a test reads of the database of a whole worker: sagas, stored messages, and the promises of `check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from saga_worker.admin.check import verify
from saga_worker.settings import Settings

ROWS = """
SELECT v.*, i.error, i.body, i.props, i.correlation_id FROM saga_worker.v_inbox v
JOIN saga_worker.inbox i USING (id) ORDER BY v.id
"""


@dataclass(frozen=True, slots=True)
class Records:
    """One connection that only looks."""

    connection: asyncpg.Connection
    database_url: str

    async def saga(self, key: str, name: str = "checkout") -> dict[str, Any] | None:
        row = await self.connection.fetchrow("SELECT * FROM saga_worker.v_saga WHERE name = $1 AND key = $2", name, key)
        return dict(row) if row is not None else None

    async def status(self, key: str, name: str = "checkout") -> str | None:
        saga = await self.saga(key, name)
        return saga["status"] if saga is not None else None

    async def rows(self) -> list[dict[str, Any]]:
        """Every stored message, oldest first, with error, body and properties."""
        return [dict(row) for row in await self.connection.fetch(ROWS)]

    async def row(self, message_id: str) -> dict[str, Any] | None:
        return next((row for row in await self.rows() if row["message_id"] == message_id), None)

    async def fates(self) -> dict[str, str]:
        """Message id → `state` or `state: reason`."""
        return {row["message_id"]: fate(row) for row in await self.rows()}

    async def value(self, statement: str, *arguments: object) -> Any:
        return await self.connection.fetchval(statement, *arguments)

    async def broken_promises(self) -> list[str]:
        """What `saga-worker check` would complain about."""
        verdicts = await verify(Settings(database_url=self.database_url))
        return [f"{v.promise.id} {v.promise.text}: {', '.join(v.examples)}" for v in verdicts if not v.holds]


def fate(row: dict[str, Any]) -> str:
    return f"{row['state']}: {row['reason']}" if row["reason"] else str(row["state"])
