"""Events sent to one saga by its key, without a broker: from then on they are like all others.

Takes a definition and an event, guarantees that one that could never be taken is refused at once and that what is
stored is a row of the inbox (once for a message id), read by the rules of the broker's deliveries. Whether the saga
takes it, parks it until it is there or has come so far, or ignores it, is decided by a worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from pydantic_core import to_json

from saga_worker import inbox, queries
from saga_worker.envelope import Delivery, EnvelopeLimits, Properties, Source, read
from saga_worker.envelope.document import read_object
from saga_worker.inbox import NewRow, Verdict
from saga_worker.routes import RouteTable
from saga_worker.saga.definition import Entry, Saga
from saga_worker.saga.errors import PoisonMessage, QueryRefused, SagaWorkerError
from saga_worker.saga.messages import Event, decode, encode
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import KeyKind, Route, canonical_key, ref_of, resolve_pointer
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection, Database
from saga_worker.telemetry import trace_headers
from saga_worker.wake_up import tell

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

SOURCE: Final = "signal"
_DEFAULT_LIMITS: Final = EnvelopeLimits()


class SignalRefused(SagaWorkerError):
    """The caller's: the saga could never take this, so nothing was stored."""


@dataclass(frozen=True, slots=True)
class Sent:
    """`row_id` is that of the inbox row; None: this very message was sent before."""

    message_id: str
    row_id: int | None


async def send(
    database: Database, saga: Saga[Any], event: Event, *, message_id: str | None = None, source: str = SOURCE
) -> Sent:
    """Store `event` for the saga whose key stands in it. Raises `SignalRefused`.

    With a `message_id` of the caller's own it may be sent again when the outcome is unknown: it is stored once.
    """
    row = signal_row(saga, None, event.wire_type, encode(event), message_id=message_id, source=source)
    async with database.transaction() as connection:
        sent = await store(connection, row)
    async with database.autocommit() as connection:
        await tell(connection)
    return sent


async def send_within(
    session: AsyncSession, schema: str, saga: Saga[Any], event: Event, *, message_id: str | None = None,
    source: str = SOURCE,
) -> Sent:  # fmt: skip
    """As `send`, in the transaction of an application's own session: it is sent if and when that commits.

    A worker finds it by its next look (SAGA_WORKER_POLL_SECONDS), since nobody is told of somebody else's commit.
    """
    from saga_worker.sql.sessions import joined

    row = signal_row(saga, None, event.wire_type, encode(event), message_id=message_id, source=source)
    return await store(await joined(session, schema), row)


async def store(connection: Connection, row: NewRow) -> Sent:
    """Store what `signal_row` has made, in the caller's transaction; raises `SignalRefused` when its id is taken."""
    (outcome,) = (await inbox.insert(connection, [row])).outcomes
    if outcome.verdict is Verdict.ID_REUSED:
        raise SignalRefused(f"Another message was sent before with the id {row.message_id}; give each its own.")
    return Sent(row.message_id, outcome.id)


def signal_row(
    saga: Saga[Any], key: str | None, type_: str, body: bytes, *, message_id: str | None = None, source: str = SOURCE,
    limits: EnvelopeLimits = _DEFAULT_LIMITS,
) -> NewRow:  # fmt: skip
    """The event as a row of the inbox; raises `SignalRefused` when it is none that this saga takes.

    With a `key` the body may leave out the field that it stands in; a body with another key is refused.
    """
    entry = dict(saga.entries()).get(type_)
    if entry is None:
        known = ", ".join(sorted(dict(saga.entries())))
        raise SignalRefused(f"{saga.name}, version {saga.version}, takes no {type_}; it takes: {known}.")
    try:
        wanted = None if key is None else canonical_key(_as_written(key, saga.key_kind), saga.key_kind)
        whole = body if wanted is None else _with_key(body, entry, saga.key_kind, wanted)
        row = _row(saga, entry, type_, whole, message_id or str(uuid4()), source, limits)
        decode(whole, entry.model, type_)
    except PoisonMessage as refusal:
        raise SignalRefused(f"{type_} is refused: {refusal.reason}: {refusal.error}") from None
    if wanted not in (None, row.saga_key):
        raise SignalRefused(f"The key in the body of {type_} is not {key}; leave it out, or name the other saga.")
    return row


async def definition_of(connection: Connection, registry: Registry, definition: str, key: str) -> Saga[Any]:
    """The definition that the saga of this key runs by, or will, when it starts; raises `SignalRefused`."""
    try:
        version = (await queries.find(connection, None, ref_of(definition, key), name=f"{definition}/{key}")).version
        saga = registry.find(definition, version)
    except QueryRefused:
        version, saga = None, registry.latest(definition)
    if saga is None:
        which = definition if version is None else f"{definition}, version {version}, by which {definition}/{key} runs,"
        known = ", ".join(f"{name} {number}" for name, number in registry.versions())
        raise SignalRefused(f"There is no definition {which} here; there are: {known}.")
    return saga


def _row(
    saga: Saga[Any], entry: Entry, type_: str, body: bytes, message_id: str, source: str, limits: EnvelopeLimits
) -> NewRow:
    route = Route(saga.name, saga.version, type_, Role.EVENT, entry.pointer, saga.key_kind)
    properties = Properties(message_id=message_id, app_id=source, type=type_, headers=trace_headers())
    delivery = Delivery(body, properties, "", type_, redelivered=False, delivery_tag=0, queue=Source.INBOX)
    [row] = read(delivery, RouteTable(0, {type_: [route]}), limits)
    if row.state is RowState.DEAD:
        raise PoisonMessage(row.reason or "", row.error or "")
    return row


def _with_key(body: bytes, entry: Entry, kind: KeyKind, key: str) -> bytes:
    """`body`, with the key put in front where a plain field of it is missing; the rest of the bytes is left alone."""
    document = read_object(body)
    try:
        resolve_pointer(document, entry.pointer)
    except PoisonMessage:
        name = entry.pointer.removeprefix("/").replace("~1", "/").replace("~0", "~")
        if "/" in entry.pointer.removeprefix("/"):
            raise
        value = to_json({name: _as_written(key, kind)})[:-1]
        rest = body.strip().removeprefix(b"{")
        return value + (b", " if document else b"") + rest
    return body


def _as_written(key: str, kind: KeyKind) -> str | int:
    """A key of the command line as it stands in JSON."""
    if kind is KeyKind.INT:
        try:
            return int(key)
        except ValueError:
            raise PoisonMessage("bad_key", "The key is no whole number; the definition's keys are int.") from None
    return key
