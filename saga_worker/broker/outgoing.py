"""A message to publish, and everything that can become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from saga_worker.envelope.delivery import Properties


class Outgoing(Struct, frozen=True):
    """One message; `properties.message_id` has to be there. `mandatory`: it must reach a queue."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has it: in a queue or, when not mandatory, wherever its bindings led."""


@dataclass(frozen=True, slots=True)
class Unroutable:
    """The broker returned it: no queue is bound for its key."""

    error: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The broker may or may not have it: send it again, the same id and bytes."""

    error: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """It can never be sent."""

    error: str


Outcome: TypeAlias = Confirmed | Unroutable | Unknown | Invalid
OnOutcome: TypeAlias = Callable[[Outgoing, Outcome], None]
