"""One worker process and the command line beside it: publish, look, replay, retry, check, stop."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flow.processes import Processes

Eventually = Callable[..., Awaitable[Any]]

DEFINITIONS = """
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from saga_worker import Event, Saga

class Opened(Event):
    account: str
    cents: int

class Closed(Event):
    account: str

class Account(BaseModel):
    account: str
    cents: int

account = Saga("account", state=Account, deadline=timedelta(days=1))

@account.starts_on(Opened, key=lambda e: e.account)
def opened(event: Opened) -> Account:
    if event.cents < 0 and not (Path(__file__).parent / "mended").exists():
        raise ValueError("negative")
    return Account(account=event.account, cents=event.cents)

closing = account.wait("closing")

@closing.on(Closed, key=lambda e: e.account)
def closed(state: Account, event: Closed) -> None: ...

account.flow(closing)
"""


@pytest.mark.slow
async def test_an_operator_runs_looks_mends_and_stops(
    processes: Processes, tmp_path: Path, eventually: Eventually
) -> None:
    def command(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """The JSON lines that a command prints; it has to end with `code`."""
        done = processes.command(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    definitions = tmp_path / "definitions"
    definitions.mkdir()
    (definitions / "account.py").write_text(DEFINITIONS)
    events = tmp_path / "events.jsonl"
    events.write_text(
        "".join(f'{{"id":"o{n}","type":"opened","data":{{"account":"{n}","cents":{n - 1}}}}}\n' for n in range(4))
        + '{"id":"broken","type":"opened"}\n{"id":"c3","type":"closed","data":{"account":"3"}}\n'
    )
    worker = processes.start(definitions=definitions, MAX_ATTEMPTS="1")
    await eventually(worker.is_ready)
    for _ in range(2):
        (published,) = command("publish", "--file", str(events), code=1)
        assert (published["published"], published["broken"]) == (5, 1)

    await eventually(lambda: len(command("saga", "list", "--status", "completed")) == 1)
    (dead,) = await eventually(lambda: command("inbox", "list", "--state", "dead"))
    assert (dead["message_id"], dead["reason"]) == ("o0", "handler_error")
    await eventually(lambda: {saga["key"] for saga in command("saga", "list")} == {"1", "2", "3"})
    assert all(verdict["holds"] for verdict in command("check"))

    (definitions / "mended").touch()
    assert command("inbox", "replay", str(dead["id"]))[0]["replayed"] == 1
    await eventually(lambda: len(command("saga", "list")) == 4)
    (shown,) = command("saga", "show", "account/0")
    assert "Waiting for the event" in shown["explanation"][1] or "Deadline" in shown["explanation"][1]
    (asked,) = command("saga", "retry", "account/0", code=1)
    assert asked == {"asked": 1, "applied": 0, "waiting": 0, "nothing_to_retry": 1}

    assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log
    assert all(verdict["holds"] for verdict in command("check"))
