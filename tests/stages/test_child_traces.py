"""Sagas that sagas start belong to the trace of those, and so does what they send."""

from __future__ import annotations

from msgspec.structs import replace
from pydantic_core import to_json

from saga_worker.saga.trace import read_trace, stored_trace
from tests.stages.pool_harness import Harness, row
from tests.stages.test_children import Sent, drain, family

__all__ = ["family"]  # the fixture

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_child_and_its_commands_belong_to_the_trace_of_the_parent(family: Harness) -> None:
    """features: 161; L30"""
    start = row(Sent(key="k"), "k", message_id="1", definition="sender")
    await family.store(replace(start, props=to_json({"headers": {"traceparent": PARENT}})))
    await drain(family)

    sagas = await family.query("SELECT name, trace_id FROM saga_worker.v_saga")
    assert {saga["name"]: saga["trace_id"] for saga in sagas} == {"sender": PARENT[3:35], "booking": PARENT[3:35]}
    assert [message.type for message in family.sent] == ["book"]
    assert stored_trace(family.sent[0].props) == read_trace(PARENT)
