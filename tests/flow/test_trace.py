"""One trace from the publish to the last command, through real servers; participants and sagas hand it on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker.trial.participants import TRACE_HEADERS
from tests.flow.processes import Processes, documents
from tests.flow.records import Records
from tests.flow.test_dead_letters import has_fates, replay
from tests.flow.wire import Heard, Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]
modes = pytest.mark.parametrize("fast_path", [True, False])

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = f"00-{TRACE}-00f067aa0ba902b7-01"
STATE: Final = 'vendor=a "quoted" value,other=2'
STRANGER: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORDER: Final = {"order_id": "4711", "lines": {"tea": 2}, "cents": 1999, "card": "tok_1"}


def child(number: int) -> str:
    """The span of a participant."""
    return f"00-{TRACE}-{number:016x}-01"


def trace_of(heard: Heard) -> tuple[Any, Any]:
    return heard.headers.get("traceparent"), heard.headers.get("tracestate")


@modes
async def test_one_trace_goes_from_the_publish_to_the_last_message(
    workers: Workers, wire: Wire, records: Records, processes: Processes, eventually: Eventually, fast_path: bool
) -> None:
    """features: 123, 161; L30"""
    await workers.start(fast_path=fast_path)
    await wire.publish("order_placed", ORDER, id="o-1", headers={"traceparent": PARENT, "tracestate": STATE})

    score = await wire.next("score_order")
    assert trace_of(score) == (PARENT, STATE)
    await wire.answer(score, "cleared", headers={"traceparent": child(1)})
    reserve = await wire.next("reserve_stock")
    assert trace_of(reserve) == (child(1), None)
    await wire.answer(reserve, "stock_reserved", {"reservation": "shelf 7"})  # of one that knows nothing of traces
    charge = await wire.next("charge_card")
    assert trace_of(charge) == (child(1), None)
    await wire.answer(charge, "charged", {"payment": "p"}, headers={"traceparent": STRANGER})
    ship = await wire.next("ship_order")
    assert trace_of(ship) == (child(1), None)
    await wire.answer(
        ship, "shipped", {"parcels": ["box"]}, headers={"traceparent": child(4), "tracestate": "not,valid"}
    )
    assert trace_of(await wire.next("order_shipped")) == (child(4), None)

    await eventually(lambda: has_ended(records))
    assert (await records.saga("4711") or {})["trace_id"] == TRACE
    ids = {row["type"]: row["trace_id"] for row in await records.rows() if row["type"] != "activity_done"}
    assert ids == {
        "order_placed": TRACE, "cleared": TRACE, "stock_reserved": None, "charged": STRANGER[3:35], "shipped": TRACE,
    }  # fmt: skip
    (shown,) = documents(processes.command("saga", "show", "checkout/4711", "--json"))
    assert shown["saga"]["trace_id"] == TRACE
    assert "trace_id" in processes.command("saga", "show", "checkout/4711").stdout


async def has_ended(records: Records) -> bool:
    return await records.status("4711") == "completed"


async def test_invalid_headers_are_as_good_as_none(workers: Workers, wire: Wire, records: Records) -> None:
    """features: 161"""
    await workers.start()
    headers = {"traceparent": PARENT.upper(), "tracestate": STATE, "with nul": "\0", "nested": {"traceparent": 1}}
    await wire.publish("order_placed", ORDER, id="o-1", headers=headers)

    assert trace_of(await wire.next("score_order")) == (None, None)
    assert (await records.saga("4711") or {})["trace_id"] is None
    assert [row["trace_id"] for row in await records.rows()] == [None]


async def test_a_saga_begins_a_trace_of_its_own_where_the_setting_says_so(
    workers: Workers, wire: Wire, records: Records
) -> None:
    """features: 123"""
    await workers.start(begin_traces=True)
    await wire.publish("order_placed", ORDER, id="o-1")

    parent, _ = trace_of(await wire.next("score_order"))
    saga = await records.saga("4711")
    assert saga is not None and parent[3:35] == saga["trace_id"] == saga["saga_id"].hex
    assert parent.endswith("-01")


MISTAKEN: Final = """
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from saga_worker import Command, Event, Saga

class Opened(Event):
    account: str

class Approved(Event):
    account: str

class SendCard(Command):
    account: str

class Account(BaseModel):
    account: str

account = Saga("account", state=Account, deadline=timedelta(days=1))

@account.starts_on(Opened, key=lambda e: e.account)
def opened(event: Opened) -> Account:
    if not (Path(__file__).parent / "mended").exists():
        raise ValueError("not yet")
    return Account(account=event.account)

approval = account.wait("approval")

@approval.on(Approved, key=lambda e: e.account)
def approved(state: Account, event: Approved) -> None: ...

@account.command("accounts", timeout=timedelta(minutes=1))
def send_card(state: Account) -> SendCard:
    return SendCard(account=state.account)

account.flow(approval, send_card)
"""


async def test_a_replay_and_an_early_event_keep_their_traces(
    workers: Workers, wire: Wire, records: Records, tmp_path: Path, eventually: Eventually
) -> None:
    """features: 161"""
    (tmp_path / "account.py").write_text(MISTAKEN)
    await workers.start(tmp_path, max_attempts=1)
    await wire.publish("opened", {"account": "a"}, id="start", headers={"traceparent": PARENT})
    await eventually(lambda: has_fates(records, {"start": "dead: handler_error"}))
    await wire.publish("approved", {"account": "a"}, id="early", headers={"traceparent": child(7)})
    await eventually(lambda: has_fates(records, {"early": "parked: behind_dead"}))

    (tmp_path / "mended").touch()
    assert await replay(workers, "ann") == 1

    assert trace_of(await wire.next("send_card")) == (child(7), None)
    assert (await records.saga("a", "account") or {})["trace_id"] == TRACE


@pytest.mark.slow
async def test_the_command_line_publishes_with_a_trace_and_the_lines_about_it_name_it(
    processes: Processes, wire: Wire, records: Records, tmp_path: Path, eventually: Eventually
) -> None:
    """features: 161"""
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "account.py").write_text(
        MISTAKEN.replace("def approved(state: Account, event: Approved) -> None: ...", RAISES)
        .replace('if not (Path(__file__).parent / "mended").exists():', "if False:")
        .replace('command("accounts"', 'command("nobody"')
    )  # fmt: skip
    run = processes.start(definitions=tmp_path / "definitions", MAX_ATTEMPTS="1")
    await eventually(run.is_ready)
    for key in ("a", "b"):
        event = ("publish", "opened", json.dumps({"account": key}), "--traceparent", PARENT)
        assert processes.command(*event).returncode == 0
    for key in ("a", "b"):
        assert processes.command("publish", "approved", json.dumps({"account": key})).returncode == 0

    await eventually(lambda: {"row_dead", "outbox_refused"} <= {line["event"] for line in lines(run.log)})
    found = {line["event"]: line.get("trace_id") for line in lines(run.log)}
    assert (found["row_dead"], found["outbox_refused"]) == (TRACE, TRACE)
    assert processes.command("publish", "opened", "{}", "--traceparent", "4bf92f").returncode == 2


RAISES: Final = """def approved(state: Account, event: Approved) -> None:
    if state.account == "a":
        raise ValueError("never")
"""


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_the_participants_of_the_trial_hand_on_what_the_headers_are_called() -> None:
    from saga_worker.saga import trace

    assert TRACE_HEADERS == (trace.PARENT, trace.STATE)
