"""Loan applications through two workers at once, the events of the bank in any order: the outcomes do not change."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.flow.plain_client import Plain, publish
from tests.flow.records import Records
from tests.flow.wire import Heard, Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]
APPLICATIONS: Final = 24
ENDS: Final = {"A_DECLINED": "declined", "A_CANCELLED": "cancelled", "A_ACTIVATED": "activated", None: None}
BETWEEN: Final = (
    "A_PARTLYSUBMITTED",
    "A_PREACCEPTED",
    "W_Nabellen offertes",
    "O_SENT",
    "O_ACCEPTED",
    "W_Nabellen offertes",
)


def end_of(number: int) -> str | None:
    return list(ENDS)[number % len(ENDS)]


def events_of(number: int) -> list[Plain]:
    """What the bank says about one application, in the order of its process."""
    end = end_of(number)
    types = ["A_SUBMITTED", *BETWEEN, *([end] if end is not None else [])]
    return [_event(f"{number}", place, type_) for place, type_ in enumerate(types)]


def _event(application: str, place: int, type_: str) -> Plain:
    data = {"application": application, "lifecycle:transition": "COMPLETE", "org:resource": "10862"}
    if type_ == "A_SUBMITTED":
        data |= {"AMOUNT_REQ": "5000", "REG_DATE": "2011-10-01T00:38:44"}
    return Plain(f"{application}/{place}", json.dumps(data).encode(), type=type_)


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast path", "general path"])
@pytest.mark.parametrize("seed", [None, 1, 2], ids=["in order", "shuffled", "shuffled again"])
async def test_the_outcomes_are_the_same_in_any_order(
    workers: Workers, wire: Wire, records: Records, amqp_url: str, namespace: Namespace, eventually: Eventually,
    seed: int | None, fast_path: bool,
) -> None:  # fmt: skip
    await asyncio.gather(workers.start(fast_path=fast_path), workers.start(fast_path=fast_path))
    wire.serve()
    events = [event for number in range(APPLICATIONS) for event in events_of(number)]
    if seed is not None:
        random.Random(seed).shuffle(events)
    await asyncio.to_thread(publish, amqp_url, str(namespace), [*events, *events[:40]])

    async def at_rest() -> bool:
        found = await records.connection.fetch("SELECT key, status, state ->> 'outcome' AS o FROM saga_worker.v_saga")
        status = {"declined": "compensated", "cancelled": "compensated", "activated": "completed", None: "waiting"}
        outcomes = {str(number): ENDS[end_of(number)] for number in range(APPLICATIONS)}
        assert {row["key"]: (row["status"], row["o"]) for row in found} == {
            key: (status[outcome], outcome) for key, outcome in outcomes.items()
        }
        return True

    await eventually(at_rest)
    rows = [row for row in await records.rows() if row["correlation_id"] is None]
    assert Counter(row["message_id"] for row in rows) == Counter(event.id for event in events)
    assert {row["state"] for row in rows} <= {"done", "ignored"}
    assert {row["reason"] for row in rows if row["state"] == "ignored"} <= {"saga_finished", "compensating"}
    for number in range(APPLICATIONS):
        is_refused = end_of(number) in ("A_DECLINED", "A_CANCELLED")
        assert wire.count("pay_out", _of(number)) == (end_of(number) == "A_ACTIVATED")
        assert wire.count("release_hold", _of(number)) == is_refused


def _of(number: int) -> Callable[[Heard], bool]:
    return lambda heard: heard.data["application"] == str(number)


async def test_an_application_is_waiting_for_its_deadline_and_says_so(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually
) -> None:
    await workers.start()
    submitted = _event("4711", 0, "A_SUBMITTED")
    await wire.publish("A_SUBMITTED", submitted.body, id="s-1")
    await wire.obey("check_credit", "credit_checked", hold="h-1")

    async def waits() -> bool:
        return await records.status("4711", "loan_application") == "waiting"

    await eventually(waits)
    days = await records.value(
        "SELECT extract(day FROM due_at - started_at) FROM saga_worker.v_timer JOIN saga_worker.v_saga USING (saga_id)"
    )
    assert days == 365
