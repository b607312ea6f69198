"""The trace of a saga reaches its activities, on whatever way they come to run, and the lines that their code logs."""

from __future__ import annotations

import io
import json
import logging

from msgspec.structs import replace
from pydantic_core import to_json

from saga_worker import ActivityContext
from saga_worker.telemetry import PACKAGE_LOGGER, configure_logging
from tests.stages.own_work_harness import World, stages, trip_saga
from tests.stages.test_activities import ASKED, AT_ONCE, DROPPED, Gate, modes

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = {"traceparent": PARENT, "tracestate": "a=1"}
TRACED = replace(ASKED, props=to_json({"headers": HEADERS}))
log = logging.getLogger("saga_worker.test")


@modes
async def test_every_attempt_and_the_undo_get_the_headers_of_the_trace(database_url: str, fast: bool) -> None:
    """features: 12, 161"""
    world, ticket = World(), Gate()
    world.ends["ticket"] = ticket

    async def second_time(step: str, ctx: ActivityContext) -> str:
        if ctx.attempt < 2:
            raise ConnectionError("down")
        return "9C"

    world.ends["seat"] = second_time
    async with stages(database_url, trip_saga(world, retry=AT_ONCE), fast=fast) as s:
        await s.store(TRACED)
        await ticket.entered.wait()
        await s.store(DROPPED)
        saga = await s.until_status("compensated")

    assert world.names() == ["fare", "seat", "seat", "ticket", "free"]
    assert [ctx.trace_headers for _, ctx in world.calls] == [HEADERS] * 5
    assert saga["trace_id"] == PARENT[3:35]


async def test_without_a_trace_there_are_no_headers(database_url: str) -> None:
    world = World()
    async with stages(database_url, trip_saga(world)) as s:
        await s.store(ASKED)
        await s.until_status("completed")

    assert [ctx.trace_headers for _, ctx in world.calls] == [{}] * 3


async def test_what_an_activity_logs_names_its_trace_and_nothing_else_does(database_url: str) -> None:
    """features: 161"""
    root, package = logging.getLogger(), logging.getLogger(PACKAGE_LOGGER)
    before = (root.handlers[:], root.level, package.level)
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    world = World()

    async def speak(step: str, ctx: ActivityContext) -> str:
        log.info(step)
        return "1A"

    world.ends = {"fare": speak, "seat": speak}
    try:
        async with stages(database_url, trip_saga(world)) as s:
            await s.store(TRACED)
            await s.until_status("completed")
            log.info("over")
    finally:
        root.handlers[:], root.level, package.level = before

    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    said = {line["event"]: line.get("trace_id") for line in found if line["logger"] == log.name}
    assert said == {"fare": PARENT[3:35], "seat": PARENT[3:35], "over": None}
