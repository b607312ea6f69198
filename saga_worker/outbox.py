"""The outbox: what sagas have to say, kept until the broker has confirmed it.

Takes the effects of a transaction, guarantees that bytes, properties and id are final at commit and that a row has one
owner at a time. The relay publishes rows from memory after the commit and deletes them when they are confirmed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, assert_never
from uuid import UUID

import asyncpg
from pydantic_core import to_json

from saga_worker.saga.changes import SagaChange
from saga_worker.saga.inputs import MESSAGES, PublishEvent, ReplyToStarter, SendCommand
from saga_worker.saga.instance import Instance
from saga_worker.saga.routing import command_id, reply_queue
from saga_worker.sql import storable
from saga_worker.sql.connection import Connection

NOBODY: Final = 0  # owner of rows that any relay takes at once
EVENTS: Final = "events"  # destination of published events
Key = tuple[UUID, int]
_START: Final[Key] = (UUID(int=0), -1)


@dataclass(slots=True)
class OutboxRow:
    """One message as it goes out. `delay_seconds` is how long it has to wait, counted from when it was read.

    Never changed, but not frozen: that takes three times as long to make.
    """

    ref: UUID
    seq: int
    destination: str
    type: str
    exchange: str
    routing_key: str
    props: bytes
    body: bytes
    mandatory: bool
    message_id: str
    attempts: int = 0
    delay_seconds: float = 0.0
    properties: dict[str, Any] | None = field(default=None, compare=False)  # `props`, while nobody has to read it

    @property
    def key(self) -> Key:
        return self.ref, self.seq


def build(change: SagaChange, *, namespace: str, app_id: str | None = None, partitions: int = 1) -> list[OutboxRow]:
    """The rows of a saga's effects, final bytes and all. `app_id` names the sender; default: the namespace."""
    if change.after is None:
        return []
    replies_to = reply_queue(namespace, change.ref, partitions)
    messages = [effect for effect in change.effects if isinstance(effect, MESSAGES)]
    return [_row(change.after, effect, namespace, app_id or namespace, replies_to) for effect in messages]


async def append(conn: Connection, rows: Sequence[OutboxRow], *, owner: int) -> list[OutboxRow]:
    """Store the rows; those that were not there already, which are the ones to publish after the commit."""
    if not rows:
        return []
    by_key = {row.key: row for row in sorted(rows, key=_order)}
    values = [
        (r.ref, r.seq, r.destination, r.type, r.exchange, r.routing_key, r.mandatory, r.props, r.body)
        for r in by_key.values()
    ]
    stored = {(row["ref"], row["seq"]) for row in await conn.fetch("outbox_append", values, owner)}
    return [row for key, row in by_key.items() if key in stored]


async def foreign(conn: Connection, refs: Iterable[UUID], me: int) -> set[tuple[UUID, str]]:
    """(ref, destination) pairs for which somebody else has rows: ours have to stay behind them."""
    rows = await conn.fetch("outbox_foreign", list(refs), me)
    return {(row["ref"], row["destination"]) for row in rows}


async def oldest_foreign(conn: Connection, refs: Iterable[UUID], me: int) -> dict[tuple[UUID, str], int]:
    """(ref, destination) → the lowest number that somebody else has there: ours above it have to wait."""
    rows = await conn.fetch("outbox_older", list(refs), me)
    return {(row["ref"], row["destination"]): row["seq"] for row in rows}


async def unsent(conn: Connection, refs: Iterable[UUID]) -> dict[UUID, frozenset[int]]:
    """The numbers of messages that may not have gone out, for the sagas that have any."""
    seqs: dict[UUID, set[int]] = defaultdict(set)
    for row in await conn.fetch("outbox_unsent", list(refs)):
        seqs[row["ref"]].add(row["seq"])
    return {ref: frozenset(found) for ref, found in seqs.items()}


async def delete(conn: Connection, keys: Iterable[Key], *, owner: int) -> int:
    """Remove confirmed rows that still belong to `owner`; how many there were."""
    ordered = sorted(set(keys), key=_key_order)
    if not ordered:
        return 0
    return await conn.execute("outbox_delete", [k[0] for k in ordered], [k[1] for k in ordered], owner)


async def mine(conn: Connection, owner: int, *, after: Key | None = None, limit: int = 100_000) -> list[OutboxRow]:
    """The rows of `owner` in the order of their key, from behind `after`."""
    ref, seq = after or _START
    return [_stored(row) for row in await conn.fetch("outbox_mine", owner, ref, seq, limit)]


async def take_over(conn: Connection, me: int, limit: int) -> list[OutboxRow]:
    """Make up to `limit` rows that nobody owns ours, in order; to be published after the commit."""
    return sorted((_stored(row) for row in await conn.fetch("outbox_take_over", me, limit)), key=_order)


async def release(conn: Connection, owner: int) -> int:
    """Give up what is left, for a worker that ends; how many rows there were."""
    return await conn.execute("outbox_release", owner)


async def postpone(conn: Connection, keys: Iterable[Key], owner: int, error: str, delay: float) -> int:
    """Count a refusal and put the rows off by `delay` seconds; how many still belonged to `owner`."""
    ordered = sorted(set(keys))
    if not ordered:
        return 0
    refs, seqs = [k[0] for k in ordered], [k[1] for k in ordered]
    return await conn.execute("outbox_postpone", refs, seqs, owner, storable(error), float(delay))


def _row(
    saga: Instance, effect: SendCommand | PublishEvent | ReplyToStarter, namespace: str, app_id: str, replies_to: str
) -> OutboxRow:
    message_id = command_id(saga.ref, effect.seq)
    headers = {"saga-id": str(saga.saga_id), "saga-name": saga.definition}
    if not isinstance(effect, ReplyToStarter):
        headers["saga-step"] = effect.step
    if effect.trace is not None:
        headers |= effect.trace.headers
    properties: dict[str, Any] = {
        "message_id": message_id,
        "type": effect.type,
        "app_id": app_id,
        "content_type": "application/json",
        "delivery_mode": 2,
        "timestamp": int(saga.updated_at.timestamp()),
        "headers": headers,
    }
    match effect:
        case SendCommand():
            properties["reply_to"] = replies_to
            if effect.deadline is not None:
                headers["saga-deadline"] = effect.deadline.isoformat()
            if effect.undoes is not None:
                headers["saga-undoes"] = command_id(saga.ref, effect.undoes)
            destination, exchange = effect.destination, f"{namespace}.commands"
            routing_key, mandatory = f"{effect.destination}.{effect.type}", True
        case PublishEvent():
            headers["saga-key"] = saga.key  # events of one saga stay in order for whoever takes them
            destination, exchange = EVENTS, f"{namespace}.events"
            routing_key, mandatory = effect.type, False
        case ReplyToStarter():
            properties["correlation_id"] = effect.correlation_id
            # Who does not wait any more has most often taken the queue away: then nobody wants to hear of it.
            destination, exchange = effect.reply_to, ""
            routing_key, mandatory = effect.reply_to, False
        case _ as never:
            assert_never(never)
    return OutboxRow(
        ref=saga.ref, seq=effect.seq, destination=destination, type=effect.type, exchange=exchange,
        routing_key=routing_key, props=to_json(properties), body=effect.body, mandatory=mandatory,
        message_id=message_id, properties=properties,
    )  # fmt: skip


def _stored(row: asyncpg.Record) -> OutboxRow:
    return OutboxRow(
        ref=row["ref"], seq=row["seq"], destination=row["destination"], type=row["type"], exchange=row["exchange"],
        routing_key=row["routing_key"], props=row["props"], body=row["body"], mandatory=row["mandatory"],
        message_id=command_id(row["ref"], row["seq"]), attempts=row["attempts"],
        delay_seconds=row["delay_seconds"] or 0.0,
    )  # fmt: skip


def _order(row: OutboxRow) -> tuple[int, int]:
    """That of the key; comparing UUIDs takes eight times as long as comparing their numbers."""
    return row.ref.int, row.seq


def _key_order(key: Key) -> tuple[int, int]:
    return key[0].int, key[1]
