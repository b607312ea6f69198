"""Publishes events group by group, one group on the wire while the next is read.

Takes any iterator of events and a ledger; memory holds two groups. A group without an answer is sent again under the
same ids when the broker is back, a few times; what then is still open counts as unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, assert_never

from saga_worker.admin.event_file import Event
from saga_worker.admin.ledger import Ledger
from saga_worker.admin.partition_keys import Keys
from saga_worker.broker import (
    AmqpPath,
    BrokerConnection,
    BrokerUnavailable,
    Confirmed,
    Invalid,
    Outcome,
    Outgoing,
    Properties,
    Publisher,
    Topology,
    Unknown,
    Unroutable,
)
from saga_worker.broker.topology import KEY_HEADER
from saga_worker.envelope import FieldValue
from saga_worker.saga.trace import PARENT
from saga_worker.settings import Settings

GROUP: Final = 500
TRIES: Final = 4
BACK_SECONDS: Final = 30.0
NAMES_KEPT: Final = 5


@dataclass(slots=True)
class Tally:
    """What became of the events."""

    published: int = 0
    returned: int = 0
    unknown: int = 0
    refused: int = 0
    homeless: set[str] = field(default_factory=set)  # a few of the types that reached no queue
    problems: list[str] = field(default_factory=list)  # a few of the reasons for refusing

    @property
    def failed(self) -> int:
        return self.returned + self.unknown + self.refused

    def figures(self) -> dict[str, object]:
        return {
            "published": self.published,
            "returned": self.returned,
            "unknown": self.unknown,
            "refused": self.refused,
        }

    def count(self, event: Event, outcome: Outcome) -> None:
        match outcome:
            case Confirmed():
                self.published += 1
            case Unroutable():
                self.returned += 1
                if len(self.homeless) < NAMES_KEPT:
                    self.homeless.add(event.type)
            case Unknown():
                self.unknown += 1
            case Invalid(error):
                self.refused += 1
                if len(self.problems) < NAMES_KEPT:
                    self.problems.append(f"{event.id}: {error}")
            case _:
                assert_never(outcome)


async def send_all(settings: Settings, events: Iterator[Event], ledger: Ledger, *, wait_seconds: float) -> Tally:
    """Publish everything. Raises `ConfigurationError`, or `BrokerUnavailable` after that wait, when it cannot begin."""
    topology = Topology(settings.namespace, settings.partitions)
    keys = await Keys.load(settings)
    path = AmqpPath(settings.amqp_path, namespace=settings.namespace)
    publisher = Publisher(BrokerConnection(settings.amqp_url.get_secret_value(), "publish", path), topology)
    tally = Tally()
    await publisher.start()
    try:
        await publisher.ready(wait_seconds)
        under_way: asyncio.Task[None] | None = None
        while group := list(islice(events, GROUP)):
            await asyncio.to_thread(ledger.write, [(event, "intent") for event in group])
            if under_way is not None:
                await under_way
            under_way = asyncio.create_task(_send_group(publisher, topology, keys, group, ledger, tally))
        if under_way is not None:
            await under_way
    finally:
        await publisher.close()
    return tally


async def _send_group(
    publisher: Publisher, topology: Topology, keys: Keys, group: Sequence[Event], ledger: Ledger, tally: Tally
) -> None:
    messages = [_message(topology, event, keys.of(event)) for event in group]
    outcomes = dict(enumerate(await publisher.publish(messages)))
    for _ in range(TRIES - 1):
        again = [index for index, outcome in outcomes.items() if isinstance(outcome, Unknown)]
        if not again or not await _is_back(publisher):
            break
        answers = await publisher.publish([messages[index] for index in again])
        outcomes.update(zip(again, answers, strict=True))
    await asyncio.to_thread(ledger.write, [(event, _word(outcomes[i])) for i, event in enumerate(group)])
    for index, event in enumerate(group):
        tally.count(event, outcomes[index])


async def _is_back(publisher: Publisher) -> bool:
    try:
        await publisher.ready(BACK_SECONDS)
    except BrokerUnavailable:
        return False
    return True


def _message(topology: Topology, event: Event, key: str | None) -> Outgoing:
    properties = Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=event.id,
        type=event.type,
        app_id=event.source,
        headers=_headers(event, key),
        timestamp=int(event.time.timestamp()) if event.time is not None else None,
    )
    return Outgoing(topology.events, event.type, event.body, properties, mandatory=True)


def _headers(event: Event, key: str | None) -> dict[str, FieldValue]:
    headers: dict[str, FieldValue] = {} if key is None else {KEY_HEADER: key}
    if event.traceparent is not None:
        headers[PARENT] = event.traceparent
    return headers


def _word(outcome: Outcome) -> str:
    match outcome:
        case Confirmed():
            return "ok"
        case Unroutable() | Invalid():
            return "returned"  # nobody has it
        case Unknown():
            return "unknown"
        case _:
            assert_never(outcome)
