"""Worker rows: who is alive, what it can run, what it was about to run when it died.

Takes the lease of a process in database time, guarantees that a lease that is over is never renewed, and that a
number is one process for ever. Ownership of outbox rows and the suspicion of inbox rows hang on these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from saga_worker.sql.connection import Connection

LEASE_SECONDS = 15.0


async def register(
    conn: Connection, definitions: Sequence[str], host: str, pid: int, *, lease_seconds: float = LEASE_SECONDS
) -> int:
    """A new worker number, leased from now. `definitions` are "name/version"."""
    worker_id: int = await conn.fetchval("worker_register", list(definitions), host, pid, float(lease_seconds))
    return worker_id


async def heartbeat(conn: Connection, worker_id: int, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Renew the lease. False: it was over, so drop what is in memory and register anew."""
    return await conn.execute("worker_heartbeat", worker_id, float(lease_seconds)) == 1


async def leave(conn: Connection, worker_id: int) -> None:
    """Go at once: the process ends in order."""
    await conn.execute("worker_leave", worker_id)


async def caught_up(conn: Connection, worker_id: int) -> None:
    """The consumer has stored what its queue held when it connected."""
    await conn.execute("worker_caught_up", worker_id)


async def lost_broker(conn: Connection, worker_id: int) -> None:
    """The consumer has lost its connection: replies may wait in the queue until it has caught up again."""
    await conn.execute("worker_lost_broker", worker_id)


async def replies_are_stored(conn: Connection, grace_seconds: float) -> bool:
    """True when a live worker caught up at least `grace_seconds` ago: only then may reply time-outs fire."""
    return bool(await conn.fetchval("worker_replies_stored", float(grace_seconds)))


async def live_definitions(conn: Connection) -> frozenset[str]:
    """Every "name/version" that a live worker lists, and "name/old>newest" for what it upgrades."""
    return frozenset(row["definition"] for row in await conn.fetch("live_definitions"))


async def expire(conn: Connection) -> list[int]:
    """Workers whose lease is over, locked for this transaction: mark their suspects, then forget them."""
    return [row["worker_id"] for row in await conn.fetch("worker_expired")]


async def forget(conn: Connection, ids: Iterable[int]) -> None:
    """Delete these workers and their intents; their outbox rows are free for taking over."""
    if numbers := sorted(set(ids)):
        await conn.execute("worker_forget", numbers)


@dataclass(frozen=True, slots=True)
class Intent:
    """What a worker may die of next: inbox rows, and timers (local steps too) as (ref, "name:epoch").

    `alone`: no other code of an author runs in the process meanwhile.
    """

    ids: Sequence[int] = ()
    timers: Sequence[tuple[UUID, str]] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class TimerInHand:
    """A timer or local step that was in the intent of a worker when it died."""

    worker_id: int
    definition: str
    ref: UUID
    timer: str
    alone: bool


async def write_intent(conn: Connection, worker_id: int, slot: int, intent: Intent) -> None:
    """Record what is about to run, in a transaction of its own and before user code runs."""
    refs, timers = [ref for ref, _ in intent.timers], [timer for _, timer in intent.timers]
    await conn.execute("intent_write", worker_id, slot, list(intent.ids), intent.alone, refs, timers)


async def timers_in_hand(conn: Connection, expired_ids: Iterable[int]) -> list[TimerInHand]:
    """Timers and local steps that dead workers may have died of; `mark_suspects` forgets them."""
    if not (numbers := sorted(set(expired_ids))):
        return []
    rows = await conn.fetch("intent_timers", numbers)
    return [TimerInHand(r["worker_id"], r["definition"], r["ref"], r["timer"], r["alone"]) for r in rows]


async def accuse(conn: Connection, worker_id: int, ids: Sequence[int]) -> dict[int, int]:
    """Mark those of these ready rows, whose sagas are locked here, that other workers died of: id → crashes, now.

    Before any lease is over: a worker that is restarted at once must not die of the same row again and again.
    """
    if not ids:
        return {}
    return {row["id"]: row["crashes"] for row in await conn.fetch("accuse_rows", worker_id, list(ids))}


async def timers_of_others(conn: Connection, worker_id: int, refs: Sequence[UUID]) -> list[TimerInHand]:
    """Timers of these sagas, locked here, that stand in the word of another worker."""
    rows = await conn.fetch("intent_timers_of", worker_id, list(refs))
    return [TimerInHand(r["worker_id"], r["definition"], r["ref"], r["timer"], r["alone"]) for r in rows]


async def mark_suspects(conn: Connection, expired_ids: Iterable[int]) -> list[UUID]:
    """Mark what dead workers had in hand; the refs of the rows, to wake the pool.

    A row that was a suspect and ran alone has one crash more. Whoever locks the saga next judges that.
    """
    if not (numbers := sorted(set(expired_ids))):
        return []
    return [row["ref"] for row in await conn.fetch("mark_suspects", numbers)]
