"""Finding sagas with work, and reading what they have before them.

Takes a cursor or refs, guarantees that no saga is passed over in a lap and that a backlog comes in the order in which
it has to be applied. Claiming locks nothing: the orchestrator locks the sagas and reads afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg

from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.saga.starters import stored_reply_to
from saga_worker.saga.trace import stored_trace
from saga_worker.sql.connection import Connection

ROWS_PER_SAGA: Final = 200  # of each kind; the number stands in read_backlog.sql
SAGA_BYTES: Final = 4_000_000
BATCH_BYTES: Final = 64_000_000
LAP_START: Final = UUID(int=0)
_LAST: Final = UUID(int=2**128 - 1)
Line: TypeAlias = tuple[UUID, str]  # the events of one source for one saga
_ROLES: Final = {int(role): role for role in Role}
_STATES: Final = {int(state): state for state in RowState}


@dataclass(frozen=True, slots=True)
class Claimed:
    """Sagas whose head may run, and where to go on. A lap that ended goes on at `LAP_START`."""

    refs: list[UUID]
    cursor: UUID
    lap_ended: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """Per saga: ready rows in order, then parked ones, then held and dead ones, each kind by id.

    `truncated`: sagas with more rows than were read (by number or bytes); they have to be claimed again.
    """

    rows: dict[UUID, list[InboxRow]]
    now: datetime
    truncated: frozenset[UUID]


async def claim(conn: Connection, cursor: UUID, definitions: Sequence[str], limit: int) -> Claimed:
    """Look at the next `limit` sagas with ready rows, from `cursor` on; those of `definitions` that are due.

    Idle is only who has gone a whole lap without finding any.
    """
    heads = await conn.fetch("claim_refs", cursor, list(definitions), limit)
    last = heads[-1]["ref"] if heads else _LAST
    lap_ended = len(heads) < limit or last == _LAST
    return Claimed(
        refs=[head["ref"] for head in heads if head["is_due"]],
        cursor=LAP_START if lap_ended else UUID(int=last.int + 1),
        lap_ended=lap_ended,
    )


async def read_backlog(conn: Connection, refs: Iterable[UUID], lines: Mapping[Line, int] | None = None) -> Backlog:
    """What the locked sagas have before them, and the database clock, in a snapshot taken after the locks.

    `lines`: of numbered events the number that is next, by saga and source.
    """
    wanted, lines = list(refs), lines or {}
    budget = min(SAGA_BYTES, BATCH_BYTES // max(1, len(wanted)))
    columns = [list(column) for column in zip(*((*line, number) for line, number in lines.items()), strict=True)]
    records = await conn.fetch("read_backlog", wanted, budget, *(columns or ([], [], [])))
    rows: dict[UUID, list[InboxRow]] = {ref: [] for ref in wanted}
    seen: Counter[tuple[UUID, int]] = Counter()
    truncated: set[UUID] = set()
    taken: set[int] = set()
    for record in sorted((r for r in records if r["id"] is not None), key=_order):
        if record["id"] in taken:
            continue  # the next of its line, and among the oldest
        taken.add(record["id"])
        ref, kind = record["ref"], _kind(record)
        # One of a known line is read as such when its turn is near: nobody has to look again because of it.
        is_counted = record["sequence"] is None or (ref, record["source"]) not in lines
        seen[ref, kind] += is_counted
        is_cut = record["body"] is None or seen[ref, kind] == ROWS_PER_SAGA
        if is_cut and is_counted:
            truncated.add(ref)
        if record["body"] is not None:
            rows[ref].append(_row(record))
    return Backlog(rows, records[0]["now"], frozenset(truncated | _long(lines, rows)))


def _long(lines: Mapping[Line, int], rows: Mapping[UUID, Sequence[InboxRow]]) -> set[UUID]:
    """Sagas with a line that can move on so far that there may be more of it than was read."""
    if not lines:
        return set()
    parked = Counter((ref, row.source) for ref, found in rows.items() for row in found if row.sequence is not None)
    heads = {(ref, row.source, row.sequence) for ref, found in rows.items() for row in found}
    return {line[0] for line, number in lines.items() if parked[line] >= ROWS_PER_SAGA and (*line, number) in heads}


def _order(record: asyncpg.Record) -> tuple[int, int, int]:
    kind = _kind(record)
    return kind, record["prio"] if kind == 0 else 0, record["id"]


def _kind(record: asyncpg.Record) -> int:
    """0 ready, 1 parked, 2 held or dead."""
    return min(int(record["state"]), 2)


def _row(record: asyncpg.Record) -> InboxRow:
    return InboxRow(
        id=record["id"],
        dedup=record["dedup"],
        consumer=record["consumer"],
        source=record["source"],
        message_id=record["message_id"],
        type=record["type"],
        role=_ROLES[record["role"]],
        ref=record["ref"],
        saga_key=record["saga_key"],
        correlation_id=record["correlation_id"],
        state=_STATES[record["state"]],
        reason=record["reason"],
        suspect=record["suspect"],
        attempts=record["attempts"],
        crashes=record["crashes"],
        first_failed_at=record["first_failed_at"],
        next_at=record["next_at"],
        expires_at=record["expires_at"],
        received_at=record["received_at"],
        body=record["body"],
        sequence=record["sequence"],
        trace=None if record["wanted_props"] is None else stored_trace(record["wanted_props"]),
        reply_to=None if record["wanted_props"] is None else stored_reply_to(record["wanted_props"]),
    )
