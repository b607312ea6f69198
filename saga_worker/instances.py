"""The rows of sagas: lock them, create and save them with their journal.

Takes refs, guarantees that what `lock` gives is current and ours until the transaction ends, and that `save` writes
only what was locked. The orchestrator calls both in one transaction and commits it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.instance import Instance
from saga_worker.saga.records import dump_progress, load_progress
from saga_worker.saga.transitions import Status
from saga_worker.sql import storable
from saga_worker.sql.connection import Connection


@dataclass(frozen=True, slots=True)
class Locked:
    """What became of each ref: an existing saga that is ours, a place without a saga that is ours, or not ours."""

    found: dict[UUID, Instance]
    absent: frozenset[UUID]
    busy: frozenset[UUID]


async def lock(conn: Connection, refs: Iterable[UUID]) -> Locked:
    """Lock the sagas of `refs` until the transaction ends, without ever waiting.

    A missing saga is locked too, by its place: only then may its messages be parked, or it be created.
    """
    wanted = frozenset(refs)
    found = await _lock_rows(conn, wanted)
    missing = wanted - found.keys()
    if not missing:
        return Locked(found, frozenset(), frozenset())
    gaps = {row["r"] for row in await conn.fetch("lock_gaps", list(missing))}
    # Whether a saga is there has to be asked after its gap lock, in a new snapshot.
    existing = {row["ref"] for row in await conn.fetch("existing_refs", list(gaps))} if gaps else set()
    if existing:
        found |= await _lock_rows(conn, existing)
    absent = frozenset(gaps - existing)
    return Locked(found, absent, wanted - found.keys() - absent)


async def save(conn: Connection, changes: Sequence[SagaChange], *, worker_id: int) -> None:
    """Write the sagas that changed, and one journal row per applied input.

    Raises `LeaseLost` when a saga is not at the revision that was locked; the transaction must be rolled back.
    """
    moved = (c for c in changes if c.after is not None and c.after is not c.before)
    changed = sorted(moved, key=lambda c: c.ref.int)  # comparing UUIDs takes eight times as long
    new: list[Instance] = []
    ended: list[Instance] = []
    moved_on: list[tuple[Instance, int]] = []
    for change in changed:
        before, after = change.before, change.after
        assert after is not None
        if before is not None and not change.has_begun:
            moved_on.append((after, len(change.journal)))
            continue
        new.append(after)
        if before is not None:
            ended.append(before)
    await _supersede(conn, ended)
    await _insert(conn, new)
    await _update(conn, moved_on)
    await _journal(conn, changed, worker_id)


async def retain(conn: Connection, window: timedelta, limit: int = 500) -> int:
    """Delete final, settled sagas with their history, unless a message of theirs is open; how many.

    They go after twice the window: their inbox rows, which tell a repeat, have to be gone before them, not after.
    """
    await conn.execute("retain_tombstones", 4 * window.total_seconds(), limit)
    old = await conn.fetch("lock_old_sagas", 2 * window.total_seconds(), limit)
    return await conn.execute("purge_sagas", [row["saga_id"] for row in old]) if old else 0


async def _lock_rows(conn: Connection, refs: Iterable[UUID]) -> dict[UUID, Instance]:
    return {row["ref"]: _instance(row) for row in await conn.fetch("lock_sagas", list(refs))}


def _instance(row: asyncpg.Record) -> Instance:
    return Instance(
        saga_id=row["saga_id"],
        ref=row["ref"],
        definition=row["definition"],
        definition_version=row["definition_version"],
        key=row["key"],
        status=Status(row["status"]),
        revision=row["revision"],
        seq=row["seq"],
        unsettled=row["unsettled"],
        attention=row["attention"],
        reason=row["reason"],
        state=row["state"],
        progress=load_progress(row["progress"]),
        started_at=row["started_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
    )


async def _supersede(conn: Connection, ended: list[Instance]) -> None:
    """Earlier runs from now on: they give up their ref to the next one, and are found by their id."""
    if not ended:
        return
    written = await conn.execute("supersede_sagas", [s.saga_id for s in ended], [s.revision for s in ended])
    if written != len(ended):
        raise LeaseLost(f"{len(ended) - written} of {len(ended)} sagas are not at the revision that was locked.")


async def _insert(conn: Connection, new: list[Instance]) -> None:
    if not new:
        return
    rows = [
        (
            s.saga_id, s.ref, s.definition, s.definition_version, s.key, s.status, s.revision, s.seq, s.unsettled,
            storable(s.attention), storable(s.reason), s.state, dump_progress(s.progress), s.started_at, s.updated_at,
            s.finished_at,
        )
        for s in new
    ]  # fmt: skip
    try:
        await conn.execute("insert_sagas", rows)
    except asyncpg.UniqueViolationError as error:
        raise LeaseLost("A saga was created by somebody else although its place was locked.") from error


async def _update(conn: Connection, changed: list[tuple[Instance, int]]) -> None:
    if not changed:
        return
    rows = [
        (
            s.saga_id, s.revision - applied, s.definition_version, s.status, s.revision, s.seq, s.unsettled,
            storable(s.attention), storable(s.reason), s.state, dump_progress(s.progress), s.updated_at, s.finished_at,
        )
        for s, applied in changed
    ]  # fmt: skip
    written = await conn.execute("update_sagas", rows, [row[0] for row in rows])
    if written != len(changed):
        raise LeaseLost(f"{len(changed) - written} of {len(changed)} sagas are not at the revision that was locked.")


async def _journal(conn: Connection, changed: list[SagaChange], worker_id: int) -> None:
    rows = [_journal_values(c, c.after, entry) for c in changed if c.after is not None for entry in c.journal]
    if not rows:
        return
    written = await conn.execute("insert_journal", rows, worker_id)
    if written != len(rows):
        raise LeaseLost(f"{len(rows) - written} of {len(rows)} journal rows were not written.")


def _journal_values(change: SagaChange, after: Instance, entry: JournalRow) -> tuple[object, ...]:
    before = None if change.has_begun else change.before
    return (
        after.saga_id, entry.revision, entry.definition_version, entry.input_kind, entry.consumer, entry.source,
        entry.message_id, entry.inbox_id, entry.decided_at, entry.from_status, entry.to_status,
        list(entry.sent), list(entry.timers),
        # The revision that was locked: all inputs folded in one transaction share it, no later one can have it.
        before.revision if before is not None else 0,
        after.ref,
    )  # fmt: skip
