"""Storing what came in: one statement for a whole batch.

Takes rows in the order of arrival, guarantees that a message is stored once per consumer, that ids ascend in that
order, and that another body under a known id is kept as a dead letter. The transaction is the caller's.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from saga_worker.saga.rows import Role, RowState
from saga_worker.sql import storable
from saga_worker.sql.connection import Connection


class NewRow(Struct):
    """One message for one consumer, as it is to be stored. `consumer` is empty for a type that no route knows.

    Not frozen: the consumer of a reply is known last.

    Without the lock of its saga a row may be ready, done or dead only, or parked without a ref.
    """

    consumer: str
    source: str
    message_id: str
    type: str
    role: Role
    ref: UUID | None
    saga_key: str | None
    correlation_id: str | None
    state: RowState
    reason: str | None
    error: str | None
    suspect: bool
    prio: int  # 0: operator, 1: the rest
    expires_at_seconds: float | None  # from now, in database time
    props: bytes
    body: bytes

    @property
    def dedup(self) -> UUID:
        return dedup_of(self.consumer, self.source, self.message_id)

    @property
    def body_sha(self) -> bytes:
        return sha256(self.body).digest()


def operator_row(
    definition: str, ref: UUID, saga_key: str | None, command: str, *, message_id: str, source: str = "operator",
    props: bytes = b"{}", body: bytes = b"{}",
) -> NewRow:  # fmt: skip
    """A command to a saga, by an operator or in an operator's place: it has its turn before all other rows."""
    return NewRow(
        consumer=definition, source=source, message_id=message_id, type=command, role=Role.OPERATOR, ref=ref,
        saga_key=saga_key, correlation_id=None, state=RowState.READY, reason=None, error=None, suspect=False, prio=0,
        expires_at_seconds=None, props=props, body=body,
    )  # fmt: skip


class Verdict(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"  # the same body is stored already
    ID_REUSED = "id_reused"  # another body is stored under this id; this one is kept as a dead letter


class Stored(Struct, frozen=True):
    """What became of one row; `id` is that of the row it was stored as, None for a duplicate."""

    verdict: Verdict
    id: int | None


@dataclass(frozen=True, slots=True)
class Inserted:
    """`outcomes` has one entry per row that was given, in their order."""

    outcomes: list[Stored]
    new: list[tuple[UUID | None, int]]
    duplicates: int
    reused: int


class _Keyed(Struct, frozen=True):
    """A row with its keys, computed once, and its place in the batch."""

    place: int
    row: NewRow
    dedup: UUID
    body_sha: bytes
    state: RowState


def dedup_of(consumer: str, source: str, message_id: str) -> UUID:
    """The 16 bytes by which a message is known again."""
    return UUID(bytes=sha256(f"{consumer}\0{source}\0{message_id}".encode()).digest()[:16])


async def insert(conn: Connection, rows: Sequence[NewRow], *, born_done: Container[int] = ()) -> Inserted:
    """Store `rows`; a message that is known, also from this very batch, is not stored again.

    The rows at the places `born_done` are stored as `done`: for a transaction that applies them itself.
    """
    outcomes: dict[int, Stored] = {}
    pending = [
        _Keyed(place, row, row.dedup, row.body_sha, RowState.DONE if place in born_done else row.state)
        for place, row in enumerate(rows)
    ]
    while pending:
        pending = await _insert_once(conn, pending, outcomes)
    ordered = [outcomes[place] for place in range(len(rows))]
    return Inserted(
        outcomes=ordered,
        new=[(row.ref, o.id) for row, o in zip(rows, ordered, strict=True) if o.verdict is Verdict.NEW and o.id],
        duplicates=sum(o.verdict is Verdict.DUPLICATE for o in ordered),
        reused=sum(o.verdict is Verdict.ID_REUSED for o in ordered),
    )


async def _insert_once(conn: Connection, pending: list[_Keyed], outcomes: dict[int, Stored]) -> list[_Keyed]:
    """One statement, then what it ran into; the rows to try again under another key, or because their twin is gone."""
    first: dict[UUID, _Keyed] = {}
    for keyed in pending:
        first.setdefault(keyed.dedup, keyed)
    ids = await _write(conn, list(first.values()))
    for dedup, id_ in ids.items():
        keyed = first[dedup]
        outcomes[keyed.place] = Stored(_verdict(keyed), id_)
    others = [keyed for keyed in pending if keyed.place not in outcomes]
    hashes = await _twins(conn, others, first, ids)
    again: list[_Keyed] = []
    for keyed in others:
        twin = hashes.get(keyed.dedup)
        if twin is None:
            again.append(keyed)  # deleted by the retention while we looked
        elif twin == keyed.body_sha:
            outcomes[keyed.place] = Stored(Verdict.DUPLICATE, None)
        else:
            again.append(_reused(keyed))
    return again


async def _write(conn: Connection, keyed: Sequence[_Keyed]) -> dict[UUID, int]:
    rows = [
        (
            k.dedup, k.body_sha, r.consumer, r.source, r.message_id, r.type, r.role, r.ref, r.saga_key,
            r.correlation_id, k.state, r.reason, storable(r.error), r.suspect, r.prio, r.expires_at_seconds, r.props,
            r.body,
        )
        for k in keyed
        for r in (k.row,)
    ]  # fmt: skip
    return {row["dedup"]: row["id"] for row in await conn.fetch("insert_inbox", rows)}


async def _twins(
    conn: Connection, others: Sequence[_Keyed], first: dict[UUID, _Keyed], ids: dict[UUID, int]
) -> dict[UUID, bytes]:
    """Body hashes of the stored rows under these keys, in a statement that sees what the insert waited for."""
    hashes = {dedup: first[dedup].body_sha for dedup in ids}
    unknown = {keyed.dedup for keyed in others} - hashes.keys()
    if unknown:
        rows = await conn.fetch("read_twins", list(unknown))
        hashes |= {row["dedup"]: row["body_sha"] for row in rows}
    return hashes


def _reused(keyed: _Keyed) -> _Keyed:
    """The offender as a dead letter of its own, under a key that its body is part of."""
    row = keyed.row
    dedup = UUID(
        bytes=sha256(f"{row.consumer}\0{row.source}\0{row.message_id}\0".encode() + keyed.body_sha).digest()[:16]
    )
    offender = replace(
        row, state=RowState.DEAD, reason="id_reused", suspect=False, expires_at_seconds=None,
        error="Another body is stored under this consumer, source and message id; the first one counts.",
    )  # fmt: skip
    return _Keyed(keyed.place, offender, dedup, keyed.body_sha, offender.state)


def _verdict(keyed: _Keyed) -> Verdict:
    return Verdict.ID_REUSED if keyed.row.reason == "id_reused" else Verdict.NEW
