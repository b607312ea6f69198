"""A start of a program's own as an inbox row: read by the same rules as one that came from the broker.

Takes a definition and an event; gives the row, or raises `StartRefused` before anything is stored. Pure.
"""

from __future__ import annotations

from typing import Any

from saga_worker.client.contract import StartRefused
from saga_worker.envelope import Delivery, EnvelopeLimits, Properties, Source, read
from saga_worker.inbox import NewRow
from saga_worker.routes import RouteTable
from saga_worker.saga.definition import Saga, Start
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.messages import Event, decode, encode
from saga_worker.saga.routing import Route
from saga_worker.saga.rows import Role, RowState
from saga_worker.telemetry import trace_headers


def start_of(saga: Saga[Any], type_: str) -> Start[Any, Any, Any]:
    """How this type of event starts `saga`; raises `StartRefused` when it does not."""
    start = saga.starts.get(type_)
    if start is None:
        known = ", ".join(saga.starts)
        raise StartRefused("not_a_start", f"{type_} does not start {saga.name}; what does: {known}.")
    return start


def route_of(saga: Saga[Any], type_: str) -> Route:
    """The route by which a worker that has loaded `saga` takes this type of event."""
    return Route(saga.name, saga.version, type_, Role.EVENT, start_of(saga, type_).pointer, saga.key_kind)


def body_of(saga: Saga[Any], event: Event) -> bytes:
    """The event as it would be published."""
    start = start_of(saga, event.wire_type)
    if not isinstance(event, start.model):
        expected, given = start.model.__qualname__, type(event).__qualname__
        raise StartRefused("not_a_start", f"{event.wire_type} of {saga.name} is read as {expected}, not as {given}.")
    return encode(event)


def start_row(
    saga: Saga[Any], type_: str, body: bytes, *, source: str, idempotency_key: str, limits: EnvelopeLimits
) -> NewRow:
    """The row; its message id is the idempotency key."""
    route = route_of(saga, type_)
    properties = Properties(message_id=idempotency_key, app_id=source, type=type_, headers=trace_headers())
    delivery = Delivery(body, properties, "", type_, redelivered=False, delivery_tag=0, queue=Source.INBOX)
    [row] = read(delivery, RouteTable(0, {type_: [route]}), limits)
    if row.state is RowState.DEAD:
        raise StartRefused(row.reason or "", row.error or "")
    try:
        decode(body, start_of(saga, type_).model, type_)
    except PoisonMessage as refusal:
        raise StartRefused(refusal.reason, refusal.error) from None
    return row
