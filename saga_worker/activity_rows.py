"""Rows of activities: written with the step that wants them, claimed, answered, given back.

Takes the effects of a transaction and the outcomes of attempts; guarantees that an outcome counts only under the
epoch its attempt was given, and that a result becomes an inbox row in the transaction that ends its activity. All
statements lock in the order of the key and never lock a saga.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct
from pydantic_core import from_json, to_json

from saga_worker.inbox import NewRow
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.inputs import (
    ACTIVITY_DONE,
    ACTIVITY_FAILED,
    ACTIVITY_LOST,
    CancelActivity,
    MoveActivity,
    RunActivity,
)
from saga_worker.saga.instance import Instance
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import Role, RowState
from saga_worker.saga.trace import Trace
from saga_worker.sql import storable
from saga_worker.sql.connection import Connection

SOURCE: Final = "activity"
RUNNING: Final = 1
Key = tuple[UUID, int]


class Attempt(Struct, frozen=True):
    """One attempt that was handed to a worker; `epoch` is what it may answer under."""

    id: str  # of its activity, the same for every attempt
    ref: UUID
    seq: int
    run: int
    undoes: int | None
    definition: str
    version: int
    saga_key: str
    step: str
    epoch: int
    number: int  # of this attempt, from 1
    uncertain: bool  # of an earlier attempt nobody knows how it ended
    deadline: datetime
    input: bytes
    age: float  # seconds from the beginning of the first attempt to that of this one
    trace: Trace | None = None

    @property
    def key(self) -> Key:
        return self.ref, self.seq


class Ended(Struct, frozen=True):
    """How an attempt ended: with a value, or with an error and perhaps another attempt after `rest` seconds."""

    attempt: Attempt
    value: bytes | None = None
    error: str | None = None
    is_terminal: bool = False
    is_uncertain: bool = False  # it may have worked
    rest: float | None = None  # None: this was the last
    was_stopped: bool = False  # by a worker that ends: it does not count
    partial: bytes | None = None  # what it has done before it failed
    outcome: str | None = None  # one that neither value nor error says

    @property
    def is_final(self) -> bool:
        return self.rest is None


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction did to activities, for the runner after the commit."""

    started: tuple[Attempt, ...] = ()  # running here
    waiting: bool = False  # some are ready for whoever claims first
    cancelled: tuple[Key, ...] = ()


class Orphan(Struct, frozen=True):
    """An activity of a version that nobody runs."""

    ref: UUID
    seq: int
    definition: str
    version: str  # "name/version"


class _Wanted(Struct, frozen=True):
    saga: Instance
    effect: RunActivity
    runs_here: bool

    @property
    def is_new(self) -> bool:
        return self.effect.run == 1 and self.effect.undoes is None


async def save(
    conn: Connection, changes: Sequence[SagaChange], *, worker_id: int, take: Callable[[UUID, str, str], bool]
) -> Written:
    """Move, cancel and start what these changes ask for; `take` says whether one of a step runs here at once."""
    await _move(conn, changes)
    cancelled = [(c.ref, e.seq) for c in changes for e in c.effects if isinstance(e, CancelActivity)]
    if cancelled:
        await conn.execute("activity_cancel", [ref for ref, _ in cancelled], [seq for _, seq in cancelled])
    wanted = [
        _Wanted(c.after, e, take(c.ref, c.after.definition, e.step))
        for c in changes
        for e in c.effects
        if isinstance(e, RunActivity) and c.after is not None
    ]
    wanted.sort(key=lambda w: (w.saga.ref, w.effect.seq))
    new = [w for w in wanted if w.is_new]
    started = await _begin(conn, new, worker_id)
    if len(new) < len(wanted):
        started += await _insert(conn, [w for w in wanted if not w.is_new], worker_id)
    return Written(tuple(started), len(started) < len(wanted), tuple(cancelled))


async def claim(
    conn: Connection, worker_id: int, versions: Sequence[str], limit: int, *, without: Sequence[str] = (),
    only: str | None = None,
) -> list[Attempt]:  # fmt: skip
    """Up to `limit` attempts that are due. Steps are named "definition/step"."""
    rows = await conn.fetch("activity_claim", worker_id, list(versions), limit, list(without), only)
    return [_attempt(row) for row in rows]


async def next_due(conn: Connection) -> float | None:
    """In how many seconds the next ready activity is due."""
    seconds: float | None = await conn.fetchval("activity_next")
    return seconds


async def expired(conn: Connection, versions: Sequence[str], *, hung_after: float, limit: int) -> list[Attempt]:
    """Attempts whose worker is gone, or that hang; locked for this transaction."""
    return [_attempt(row) for row in await conn.fetch("activity_expired", list(versions), hung_after, limit)]


async def orphans(conn: Connection, versions: Sequence[str], *, limit: int) -> list[Orphan]:
    """Activities of these versions ("name/version") that wait for an attempt."""
    rows = await conn.fetch("activity_orphans", list(versions), limit)
    return [Orphan(row["ref"], row["seq"], row["definition"], row["version"]) for row in rows]


async def settle(conn: Connection, ended: Iterable[Ended]) -> list[NewRow]:
    """Write how these attempts ended; the inbox rows that have to be stored in this same transaction.

    Those that are not theirs any more have no effect, except that a success after all is told as a late one.
    """
    by_key = {e.attempt.key: e for e in sorted(ended, key=lambda e: (e.attempt.key, e.attempt.epoch))}
    finished = {k: e for k, e in by_key.items() if e.is_final and not _is_kept(e)}
    counted = await _end(conn, "activity_finish", finished)
    if len(finished) < len(by_key):
        kept = {k: e for k, e in by_key.items() if e.is_final and _is_kept(e)}
        counted |= await _end(conn, "activity_give_up", kept, [storable(e.error) for e in kept.values()])
        counted |= await _retry(conn, {k: e for k, e in by_key.items() if not e.is_final})
    results = [_result(e) for k, e in by_key.items() if k in counted and e.is_final]
    if len(counted) < len(by_key):
        late = await _too_late(conn, {k: e for k, e in by_key.items() if k not in counted})
        results += [_result(by_key[key], is_late=True) for key in sorted(late)]
    return results


def _is_kept(ended: Ended) -> bool:
    """Whether its row stays, for a late success or an operator's retry: the attempt may have worked, or could again."""
    return ended.error is not None and (ended.is_uncertain or not ended.is_terminal)


async def _end(conn: Connection, statement: str, ended: dict[Key, Ended], *more: Sequence[object]) -> set[Key]:
    if not ended:
        return set()
    epochs = [e.attempt.epoch for e in ended.values()]
    rows = await conn.fetch(statement, [k[0] for k in ended], [k[1] for k in ended], epochs, *more)
    return {(row["ref"], row["seq"]) for row in rows}


async def _retry(conn: Connection, ended: dict[Key, Ended]) -> set[Key]:
    outcomes = list(ended.values())
    return await _end(
        conn, "activity_retry", ended, [e.rest for e in outcomes], [e.is_uncertain for e in outcomes],
        [int(e.was_stopped) for e in outcomes], [storable(e.error) for e in outcomes],
    )  # fmt: skip


async def _too_late(conn: Connection, ended: dict[Key, Ended]) -> set[Key]:
    """Attempts that lost their epoch: late successes of what was given up; undos that waited for them may go."""
    await conn.execute("activity_ended", [k[0] for k in ended], [k[1] for k in ended])
    worked = [k for k, e in ended.items() if e.value is not None or e.partial is not None]
    if not worked:
        return set()
    rows = await conn.fetch("activity_late", [k[0] for k in worked], [k[1] for k in worked])
    return {(row["ref"], row["seq"]) for row in rows}


async def _move(conn: Connection, changes: Sequence[SagaChange]) -> None:
    """Of several moves of one activity the last."""
    moves = {
        (c.ref, e.seq): (c.ref, e.seq, e.version, e.step, e.timeout.total_seconds(), e.input)
        for c in changes
        for e in c.effects
        if isinstance(e, MoveActivity)
    }
    if moves:
        await conn.execute("activity_move", *zip(*moves.values(), strict=True))


def _outcome(ended: Ended) -> str:
    if ended.outcome is not None:
        return ended.outcome
    if ended.value is not None:
        return ACTIVITY_DONE
    return (
        ACTIVITY_LOST if ended.is_uncertain or (ended.attempt.uncertain and not ended.is_terminal) else ACTIVITY_FAILED
    )


def _result(ended: Ended, *, is_late: bool = False) -> NewRow:
    """The result as an inbox row. One per run, and one more if an attempt worked after it was given up."""
    attempt = ended.attempt
    message_id = f"{SOURCE}:{attempt.id}" + (f":{attempt.run}" if attempt.run > 1 else "") + (":late" * is_late)
    return NewRow(
        consumer=attempt.definition, source=SOURCE, message_id=message_id, type=_outcome(ended), role=Role.ACTIVITY,
        ref=attempt.ref, saga_key=None, correlation_id=attempt.id, state=RowState.READY, reason=None, error=None,
        suspect=False, prio=1, expires_at_seconds=None, props=b"{}",
        body=ended.value if ended.value is not None else _why(ended),
    )  # fmt: skip


def _why(ended: Ended) -> bytes:
    why = {"error": storable(ended.error), "attempts": ended.attempt.number, "is_terminal": ended.is_terminal}
    return to_json(why if ended.partial is None else {**why, "partial": from_json(ended.partial)})


async def _begin(conn: Connection, wanted: Sequence[_Wanted], worker_id: int) -> list[Attempt]:
    """Those that nobody can have seen before: nothing has to be looked up, nor read back."""
    if not wanted:
        return []
    rows = [
        (
            w.saga.ref, w.effect.seq, w.saga.definition, w.saga.definition_version, w.saga.key, w.effect.step,
            w.effect.timeout.total_seconds(), w.runs_here, w.effect.input, *_columns(w.effect.trace),
        )
        for w in wanted
    ]  # fmt: skip
    decided_at = wanted[0].saga.updated_at  # database time, the same for all sagas of a transaction
    await conn.execute("activity_begin", rows, worker_id, decided_at)
    return [
        Attempt(
            id=command_id(w.saga.ref, w.effect.seq), ref=w.saga.ref, seq=w.effect.seq, run=1, undoes=None,
            definition=w.saga.definition, version=w.saga.definition_version, saga_key=w.saga.key, step=w.effect.step,
            epoch=1, number=1, uncertain=False, deadline=decided_at + w.effect.timeout, input=w.effect.input, age=0.0,
            trace=w.effect.trace,
        )
        for w in wanted
        if w.runs_here
    ]  # fmt: skip


async def _insert(conn: Connection, wanted: Sequence[_Wanted], worker_id: int) -> list[Attempt]:
    """Undos, which may have to wait, and activities that somebody wants once more."""
    rows = [
        (
            w.saga.ref, w.effect.seq, w.effect.run, w.effect.undoes, w.saga.definition, w.saga.definition_version,
            w.saga.key, w.effect.step, w.effect.timeout.total_seconds(), w.effect.input, w.runs_here,
            *_columns(w.effect.trace),
        )
        for w in wanted
    ]  # fmt: skip
    stored = await conn.fetch("activity_insert", *zip(*rows, strict=True), worker_id)
    return [_attempt(row) for row in stored if row["state"] == RUNNING]


def _columns(trace: Trace | None) -> tuple[str | None, str | None]:
    return (trace.parent, trace.state or None) if trace is not None else (None, None)


def _attempt(row: asyncpg.Record) -> Attempt:
    return Attempt(
        id=command_id(row["ref"], row["seq"]), ref=row["ref"], seq=row["seq"], run=row["run"], undoes=row["undoes"],
        definition=row["definition"], version=row["definition_version"], saga_key=row["saga_key"], step=row["step"],
        epoch=row["epoch"], number=row["attempts"], uncertain=row["uncertain"], deadline=row["timeout_at"],
        input=row["input"], age=row["age"],
        trace=Trace(row["traceparent"], row["tracestate"] or "") if row["traceparent"] is not None else None,
    )  # fmt: skip
