"""What `queue.declare` asks for, checked once.

Takes the frame's flags and arguments, refuses what RabbitMQ would refuse, and returns one frozen value. Arguments
that RabbitMQ knows and this broker does not are refused too: a trial must not pass by ignoring a promise. Hands to
`queues.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ConnectionFault, ReplyCode, precondition

DEFAULT_DELIVERY_LIMIT = 20
"""Of quorum queues since RabbitMQ 4.0; RabbitMQ 3 has none."""
MAX_NAME_BYTES = 255

_COUNTS = ("x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-delivery-limit")
_TEXTS = ("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy", "x-overflow", "x-queue-type")
_COMPARED = (*_COUNTS, *_TEXTS, "x-single-active-consumer")
_NOT_HERE = ("x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator", "x-queue-mirror")
_OVERFLOWS = {
    "classic": ("drop-head", "reject-publish", "reject-publish-dlx"),
    "quorum": ("drop-head", "reject-publish"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    durable: bool
    exclusive: bool
    auto_delete: bool
    is_quorum: bool = False
    single_active_consumer: bool = False
    message_ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    keeps_dead_letters: bool = False
    """Dead letters that reach no queue wait (`at-least-once`) instead of being dropped."""
    delivery_limit: int | None = None
    compared: Mapping[str, object] = field(default_factory=dict)
    """The arguments that a second declaration must repeat."""


def read_options(
    place: str, arguments: Mapping[str, object], *, durable: bool, exclusive: bool, auto_delete: bool, strict: bool
) -> QueueOptions:
    """`place` names the queue in error texts; `strict` is RabbitMQ 4.3, otherwise 3.10."""
    if strict and not durable and not exclusive:
        text = "Feature `transient_nonexcl_queues` is deprecated. By default, this feature is not permitted anymore."
        raise ConnectionFault(ReplyCode.INTERNAL_ERROR, text)
    _check(place, arguments)
    kind = str(arguments.get("x-queue-type", "classic"))
    _check_kind(place, kind, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
    limit = _count(arguments, "x-delivery-limit")
    if kind == "quorum" and strict and limit is None:
        limit = DEFAULT_DELIVERY_LIMIT
    return QueueOptions(
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        is_quorum=kind == "quorum",
        single_active_consumer=arguments.get("x-single-active-consumer") is True,
        message_ttl=_seconds(arguments, "x-message-ttl"),
        expires=_seconds(arguments, "x-expires"),
        max_length=_count(arguments, "x-max-length"),
        max_bytes=_count(arguments, "x-max-length-bytes"),
        overflow=str(arguments.get("x-overflow", "drop-head")),
        dead_letter_exchange=_text(arguments, "x-dead-letter-exchange"),
        dead_letter_routing_key=_text(arguments, "x-dead-letter-routing-key"),
        keeps_dead_letters=arguments.get("x-dead-letter-strategy") == "at-least-once",
        delivery_limit=limit,
        compared={name: value for name, value in arguments.items() if name in _COMPARED},
    )


def refuse_difference(place: str, current: QueueOptions, received: QueueOptions) -> None:
    """A queue is declared again with the same properties or not at all."""
    for name in ("durable", "auto_delete"):
        now, then = getattr(received, name), getattr(current, name)
        if now != then:
            text = f"received '{str(now).lower()}' but current is '{str(then).lower()}'"
            precondition(f"inequivalent arg '{name}' for {place}: {text}")
    for name in _COMPARED:
        if current.compared.get(name) != received.compared.get(name):
            text = f"received {_shown(received, name)} but current is {_shown(current, name)}"
            precondition(f"inequivalent arg '{name}' for {place}: {text}")


def _check(place: str, arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        if name in _COUNTS and (not isinstance(value, int) or isinstance(value, bool)):
            precondition(f"invalid arg '{name}' for {place}: expected integer, got {type(value).__name__}")
        if name in _COUNTS and isinstance(value, int) and value < 0:
            precondition(f"invalid arg '{name}' for {place}: {{value_negative,{value}}}")
        if name in _TEXTS and not isinstance(value, str):
            precondition(f"invalid arg '{name}' for {place}: expected longstr, got {type(value).__name__}")
        if name in _TEXTS and len(str(value).encode()) > MAX_NAME_BYTES:
            precondition(f"invalid arg '{name}' for {place}: longer than {MAX_NAME_BYTES} bytes")
        if name in _NOT_HERE:
            precondition(f"invalid arg '{name}' for {place}: the trial broker does not have it, use RabbitMQ")
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        precondition(f"invalid arg 'x-dead-letter-routing-key' for {place}: routing_key_but_no_dlx_defined")


def _check_kind(
    place: str, kind: str, arguments: Mapping[str, object], *, durable: bool, exclusive: bool, auto_delete: bool
) -> None:
    if kind not in _OVERFLOWS:
        precondition(f"invalid arg 'x-queue-type' for {place}: unsupported queue type '{kind}'")
    if arguments.get("x-overflow", "drop-head") not in _OVERFLOWS[kind]:
        precondition(f"invalid arg 'x-overflow' for {place}: invalid_overflow")
    if kind == "quorum":
        for refused, name in (
            (not durable, "non-durable"),
            (exclusive, "exclusive-owner"),
            (auto_delete, "auto-delete"),
        ):
            if refused:
                precondition(f"invalid property '{name}' for {place}")
    else:
        for name in ("x-delivery-limit", "x-dead-letter-strategy"):
            if name in arguments:
                precondition(f"invalid arg '{name}' for {place} of queue type rabbit_classic_queue")


def _count(arguments: Mapping[str, object], name: str) -> int | None:
    value = arguments.get(name)
    return value if isinstance(value, int) else None


def _seconds(arguments: Mapping[str, object], name: str) -> float | None:
    value = _count(arguments, name)
    return None if value is None else value / 1000


def _text(arguments: Mapping[str, object], name: str) -> str | None:
    value = arguments.get(name)
    return value if isinstance(value, str) else None


def _shown(options: QueueOptions, name: str) -> str:
    return f"'{options.compared[name]}'" if name in options.compared else "none"
