"""L31: the order of outside events, kept by partitions of the inbox and by numbers, small enough for the suite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.faults.campaign import Place, on_path
from tests.faults.modes import Mode
from tests.faults.ordered import Plan, ordered

SMALL = Plan(events=8000, producers=4, workers=3, keys=60, kill_seconds=0.4)


@pytest.fixture
def place(place: Place, partitioned_amqp_url: str, namespace: Namespace) -> Iterator[Place]:
    yield replace(place, amqp_url=partitioned_amqp_url)
    namespace.delete(partitioned_amqp_url)


@pytest.mark.parametrize("kind", [{"partitions": 8}, {"sequence": True}, {"partitions": 4, "sequence": True}], ids=str)
@pytest.mark.parametrize("path", ["fast", "general"])
async def test_events_of_a_key_are_applied_in_order_while_workers_are_killed(
    place: Place, kind: dict[str, Any], path: str, mode: Mode | None
) -> None:
    is_slow = mode is not None and mode.batch < 50  # a transaction for each event takes its time
    plan = replace(SMALL, events=1500 if is_slow else SMALL.events, **kind)
    outcome = await ordered(place, plan, worker_settings=on_path(path))

    assert outcome.is_clean, outcome
    assert outcome.applied == plan.events
    assert outcome.kills >= 2, outcome
