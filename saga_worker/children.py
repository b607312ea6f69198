"""What sagas tell each other: rows for the inbox of the other, written with the decision that wants them.

Takes the effects of a transaction; guarantees that a child is started, taken back or heard of exactly when its parent's
(or its own) decision is committed. Nobody locks the other's saga: what is told is an inbox row, and has its turn there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pydantic_core import to_json

from saga_worker import inbox
from saga_worker.inbox import NewRow
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.fold.backlog import SAGA_SOURCE, UNAWAITED_SOURCE
from saga_worker.saga.inputs import START, TAKE_BACK, MoreChildren, StartChildren, TellParent, UndoChildren
from saga_worker.saga.instance import Instance
from saga_worker.saga.routing import child_message_id, parse_child_message_id, ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection

ONLY_CHILD: Final = 0  # its number in the table; items are numbered from 1
_Stored = tuple[UUID, int, int, UUID, str, str, bytes | None]


async def save(conn: Connection, changes: Sequence[SagaChange]) -> frozenset[UUID]:
    """Start, take back and tell what these changes want; the sagas that have something to read now."""
    stored: list[_Stored] = []
    ranges: list[tuple[Instance, MoreChildren | UndoChildren]] = []
    rows: list[NewRow] = []
    for change in changes:
        for effect in change.effects:
            match effect:
                case StartChildren() if change.after is not None:
                    rows += _begin(change.after, effect, stored)
                case MoreChildren() | UndoChildren() if change.after is not None:
                    ranges.append((change.after, effect))
                case TellParent() if change.after is not None:
                    rows.append(_answer(change.after, effect))
                case _:
                    pass
    if stored:
        await conn.execute("child_insert", stored)
    if ranges:
        rows += await _read(conn, ranges)
    inserted = await inbox.insert(conn, rows)
    return frozenset(ref for ref, _ in inserted.new if ref is not None)


def _begin(parent: Instance, effect: StartChildren, stored: list[_Stored]) -> list[NewRow]:
    """The rows that start the first children; all of them are noted in `stored`, those that wait with their state."""
    source = f"{SAGA_SOURCE}{parent.definition}" if effect.is_awaited else UNAWAITED_SOURCE
    rows: list[NewRow] = []
    for number, (given_key, body) in enumerate(effect.children, 1):
        item = number if effect.is_many else None
        message_id = child_message_id(parent.ref, effect.seq, item)
        key = given_key or message_id
        ref = ref_of(effect.definition, key)
        is_started = number <= effect.started
        if effect.is_awaited:
            kept = None if is_started else body
            stored.append((parent.ref, effect.seq, item or ONLY_CHILD, ref, effect.definition, key, kept))
        if is_started:
            rows.append(_row(parent, effect.definition, source, message_id, START, ref, key, body))
    return rows


async def _read(conn: Connection, ranges: Sequence[tuple[Instance, MoreChildren | UndoChildren]]) -> list[NewRow]:
    """The rows for children that were noted earlier: their turn has come, or they are to go back."""
    found = await conn.fetch(
        "child_read",
        [parent.ref for parent, _ in ranges],
        [effect.seq for _, effect in ranges],
        [_first(effect) for _, effect in ranges],
        [_first(effect) + effect.count - 1 for _, effect in ranges],
        [isinstance(effect, MoreChildren) for _, effect in ranges],
    )
    rows: list[NewRow] = []
    for child in found:
        parent, effect = ranges[child["place"] - 1]
        number = child["item"] if child["item"] != ONLY_CHILD else None
        type_, seq, body = TAKE_BACK, child["seq"], b"{}"
        if isinstance(effect, MoreChildren):
            type_, body = START, child["body"]
        else:
            seq = effect.undo
        message_id = child_message_id(parent.ref, seq, number)
        source = f"{SAGA_SOURCE}{parent.definition}"
        rows.append(_row(parent, child["definition"], source, message_id, type_, child["ref"], child["key"], body))
    return rows


def _first(effect: MoreChildren | UndoChildren) -> int:
    return ONLY_CHILD if isinstance(effect, UndoChildren) and not effect.is_many else effect.first


def _answer(child: Instance, effect: TellParent) -> NewRow:
    """The row of a child for its parent, under the id of what the parent has asked."""
    asked = parse_child_message_id(effect.id)
    assert asked is not None, f"{effect.id} is no id of ours"
    source = f"{SAGA_SOURCE}{child.definition}"
    return _row(child, effect.definition, source, effect.id, effect.outcome, asked[0], None, effect.body)


def _row(
    teller: Instance, consumer: str, source: str, message_id: str, type_: str, ref: UUID, key: str | None, body: bytes
) -> NewRow:  # fmt: skip
    trace = teller.progress.trace
    return NewRow(
        consumer=consumer, source=source, message_id=message_id, type=type_, role=Role.CHILD, ref=ref, saga_key=key,
        correlation_id=None, state=RowState.READY, reason=None, error=None, suspect=False, prio=1,
        expires_at_seconds=None, props=to_json({"headers": trace.headers}) if trace else b"{}", body=body,
    )  # fmt: skip
