"""L31: the order of outside events, kept by partitions of the inbox and by numbers, small enough for the suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.faults.campaign import Place
from tests.faults.ordered import Plan, ordered

SMALL: dict[str, Any] = {"events": 8000, "producers": 4, "workers": 3, "keys": 60, "kill_seconds": 0.4}


@pytest.fixture
def place(database_url: str, partitioned_amqp_url: str, namespace: Namespace, tmp_path: Path) -> Iterator[Place]:
    yield Place(database_url, partitioned_amqp_url, namespace, tmp_path)
    namespace.delete(partitioned_amqp_url)


@pytest.mark.parametrize("kind", [{"partitions": 8}, {"sequence": True}, {"partitions": 4, "sequence": True}], ids=str)
@pytest.mark.parametrize("fast_path", ["true", "false"], ids=["fast", "general"])
async def test_events_of_a_key_are_applied_in_order_while_workers_are_killed(
    place: Place, kind: dict[str, Any], fast_path: str
) -> None:
    plan = Plan(**SMALL, **kind)
    outcome = await ordered(place, plan, worker_settings={"SAGA_WORKER_FAST_PATH": fast_path})

    assert outcome.is_clean, outcome
    assert outcome.applied == plan.events
    assert outcome.kills >= 2, outcome
