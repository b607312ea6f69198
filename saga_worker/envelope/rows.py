"""One delivery to inbox rows: which definitions take it, under which key, or why nobody can.

Takes a delivery, the route table and limits; gives at least one row and never raises. What is refused becomes one
dead row that keeps body and properties as they came. A reply's consumer is left empty: only the database knows the
definition of its saga (`consumer` fills it in). Handed to `inbox.insert`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from saga_worker.envelope.delivery import Delivery, Source
from saga_worker.envelope.document import read_object
from saga_worker.envelope.properties import dump_delivery, stand_in_id
from saga_worker.inbox import NewRow
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.routing import Route, key_in, parse_command_id, ref_of
from saga_worker.saga.rows import Role, RowState

DAY_SECONDS: Final = 86_400.0
DEAD_QUEUE_DELIVERIES: Final = 3  # the last of these is stored unread
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_JSON_TYPES: Final = frozenset({"", "application/json"})
_PLAIN_ENCODINGS: Final = frozenset({"", "identity", "utf-8", "utf8"})


class Routes(Protocol):
    """What is read of the route table."""

    @property
    def by_type(self) -> Mapping[str, Sequence[Route]]: ...


@dataclass(frozen=True, slots=True)
class EnvelopeLimits:
    """`body_bytes`: more is refused undecoded. `kept_bytes`: what is kept of such a body."""

    body_bytes: int = 1_000_000
    kept_bytes: int = 1_000_000
    parking_seconds: float = 14 * DAY_SECONDS


class _Envelope(Struct, frozen=True):
    """What stands on the outside, all of it fit to be stored."""

    message_id: str
    source: str
    type: str
    correlation_id: str | None
    props: bytes


def read(delivery: Delivery, routes: Routes, limits: EnvelopeLimits) -> list[NewRow]:
    """The rows of `delivery`."""
    try:
        if _is_last_try(delivery):
            raise PoisonMessage(
                "delivery_limit", "The broker gave it up, and so did the workers that took it up again."
            )
        return _read(delivery, routes, limits)
    except PoisonMessage as refusal:
        return [_dead(delivery, refusal.reason, refusal.error, limits)]
    except Exception as error:  # a fault of ours must neither lose a message nor bring it back for ever
        return [_dead(delivery, "unreadable", f"Reading it raised {type(error).__name__}.", limits)]


def _read(delivery: Delivery, routes: Routes, limits: EnvelopeLimits) -> list[NewRow]:
    _check_size(delivery.body, limits)
    _check_content(delivery)
    command = parse_command_id(delivery.properties.correlation_id or "")
    envelope = _envelope(delivery, is_reply=command is not None)
    document = read_object(delivery.body)
    if command is not None:
        return [_row(delivery, envelope, role=Role.REPLY, ref=command[0])]
    known = routes.by_type.get(envelope.type, ())
    if not known:
        return [_unrouted(delivery, envelope, limits)]
    return [_routed(delivery, envelope, document, route) for route in known]


def _check_size(body: bytes, limits: EnvelopeLimits) -> None:
    if len(body) > limits.body_bytes:
        raise PoisonMessage(
            "payload_too_large",
            f"The body has {len(body)} bytes (sha256 {sha256(body).hexdigest()}); the limit is {limits.body_bytes}.",
        )


def _check_content(delivery: Delivery) -> None:
    encoding = delivery.properties.content_encoding or ""
    if encoding not in _PLAIN_ENCODINGS and encoding.strip().lower() not in _PLAIN_ENCODINGS:
        raise PoisonMessage("unsupported_encoding", "The content_encoding is neither empty nor identity.")
    kind = delivery.properties.content_type or ""
    if kind in _JSON_TYPES:
        return
    media_type, _, parameters = kind.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() not in _JSON_TYPES or charset not in ("", "charset=utf-8", "charset=utf8"):
        raise PoisonMessage("unsupported_content_type", "The content_type is not application/json in UTF-8.")


def _envelope(delivery: Delivery, *, is_reply: bool) -> _Envelope:
    properties = delivery.properties
    if not properties.message_id:
        raise PoisonMessage("missing_message_id", "It has no message_id, so a repeat of it could not be recognised.")
    if properties.correlation_id and not is_reply and _was_sent_to_the_queue(delivery):
        raise PoisonMessage("unknown_command", "It was sent to the inbox as a reply, but answers no command of ours.")
    type_ = properties.type
    if not type_:
        if is_reply or _was_sent_to_the_queue(delivery):
            raise PoisonMessage("missing_type", "A reply has to name its type.")
        type_ = delivery.routing_key
    return _Envelope(
        message_id=_fit(properties.message_id, "message_id"),
        source=_fit(properties.app_id or "", "source"),
        type=_fit(type_, "type"),
        correlation_id=_readable(properties.correlation_id) if properties.correlation_id else None,
        props=dump_delivery(delivery),
    )


def _fit(text: str, name: str) -> str:
    """`text`, if a table can hold and an operator type it."""
    if text.isascii() and text.isprintable() and len(text) <= 255:
        return text
    if _UNFIT.search(text) or len(text.encode()) > 255:
        raise PoisonMessage(
            f"invalid_{name}", f"The {name} is not UTF-8 of up to 255 bytes without control characters."
        )
    return text


def _was_sent_to_the_queue(delivery: Delivery) -> bool:
    """Through the default exchange, as replies are; events come through ours."""
    if delivery.queue is Source.DEAD:
        return delivery.properties.headers.get("x-first-death-exchange") == ""
    return delivery.exchange == ""


def _is_last_try(delivery: Delivery) -> bool:
    """Whether the dead queue has delivered it in vain; its own count of deliveries begins with the second."""
    if delivery.queue is not Source.DEAD or not delivery.redelivered:
        return False
    count = delivery.properties.headers.get("x-delivery-count")
    return isinstance(count, int) and count >= DEAD_QUEUE_DELIVERIES - 1


def _routed(delivery: Delivery, envelope: _Envelope, document: dict[str, Any], route: Route) -> NewRow:
    try:
        key = key_in(document, route)
    except PoisonMessage as refusal:
        return _row(
            delivery, envelope, role=Role.EVENT, consumer=route.definition, state=RowState.DEAD,
            reason=refusal.reason, error=refusal.error,
        )  # fmt: skip
    ref = ref_of(route.definition, key)
    return _row(delivery, envelope, role=Role.EVENT, consumer=route.definition, ref=ref, saga_key=key)


def _unrouted(delivery: Delivery, envelope: _Envelope, limits: EnvelopeLimits) -> NewRow:
    return _row(
        delivery, envelope, role=Role.EVENT, state=RowState.PARKED, reason="no_definition",
        expires_at_seconds=limits.parking_seconds,
    )  # fmt: skip


def _row(
    delivery: Delivery, envelope: _Envelope, *, role: Role, consumer: str = "", ref: UUID | None = None,
    saga_key: str | None = None, state: RowState = RowState.READY, reason: str | None = None,
    error: str | None = None, expires_at_seconds: float | None = None,
) -> NewRow:  # fmt: skip
    return NewRow(
        consumer=consumer, source=envelope.source, message_id=envelope.message_id, type=envelope.type, role=role,
        ref=ref, saga_key=saga_key, correlation_id=envelope.correlation_id, state=state, reason=reason, error=error,
        suspect=delivery.queue is Source.DEAD and state is RowState.READY, prio=1,
        expires_at_seconds=expires_at_seconds, props=envelope.props, body=delivery.body,
    )  # fmt: skip


def _dead(delivery: Delivery, reason: str, error: str, limits: EnvelopeLimits) -> NewRow:
    """The dead letter of a delivery that could not be read; everything in it can be stored."""
    properties = delivery.properties
    message_id = properties.message_id
    if not message_id or _UNFIT.search(message_id):
        message_id = stand_in_id(delivery)
    is_reply = parse_command_id(properties.correlation_id or "") is not None
    return NewRow(
        consumer="", source=_readable(properties.app_id or ""), message_id=message_id,
        type=_readable(properties.type or delivery.routing_key), role=Role.REPLY if is_reply else Role.EVENT,
        ref=None, saga_key=None, correlation_id=_readable(properties.correlation_id or "") or None,
        state=RowState.DEAD, reason=reason, error=error, suspect=False, prio=1, expires_at_seconds=None,
        props=dump_delivery(delivery), body=delivery.body[: limits.kept_bytes],
    )  # fmt: skip


def unstorable(delivery: Delivery, error: str, limits: EnvelopeLimits) -> NewRow:
    """The dead letter of a delivery that the database refuses: the body, and nothing a sender wrote beside it."""
    row = _dead(delivery, "unstorable", f"The database refused to store it: {error}", limits)
    return replace(row, source="", message_id=stand_in_id(delivery), type="", correlation_id=None, props=b"{}")


def _readable(text: str) -> str:
    """`text` with what no table holds written as escapes."""
    if not _UNFIT.search(text):
        return text
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _UNFIT.sub(lambda found: f"\\x{ord(found[0]):02x}", clean)
