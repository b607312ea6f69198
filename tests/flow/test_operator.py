"""One worker process and the command line beside it: publish, look, replay, retry, check, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

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


class Installation:
    """A worker process and commands, all with the same environment."""

    def __init__(self, environment: dict[str, str], port: int) -> None:
        self._environment = environment
        self._port = port

    def command(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """The JSON lines that a command prints; it has to end with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "saga_worker", *arguments, "--json"],
            env=self._environment, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start_worker(self, definitions: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "saga_worker", "run", "--definitions", str(definitions)],
            env=self._environment | {"SAGA_WORKER_HTTP_BIND": str(self._port), "SAGA_WORKER_MAX_ATTEMPTS": "1"},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return bool(json.load(answer)["ready"])
        except OSError:  # nobody listens, or not ready
            return False


@pytest.fixture
def installation(database_url: str, amqp_url: str, namespace: str) -> Iterator[Installation]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_WORKER_")}
    servers = {"DATABASE_URL": database_url, "AMQP_URL": amqp_url, "NAMESPACE": str(namespace)}
    environment |= {f"SAGA_WORKER_{name}": value for name, value in servers.items()}
    yield Installation(environment, port)


@pytest.mark.slow
async def test_an_operator_runs_looks_mends_and_stops(
    installation: Installation, tmp_path: Path, eventually: Eventually
) -> None:
    definitions = tmp_path / "definitions"
    definitions.mkdir()
    (definitions / "account.py").write_text(DEFINITIONS)
    events = tmp_path / "events.jsonl"
    events.write_text(
        "".join(f'{{"id":"o{n}","type":"opened","data":{{"account":"{n}","cents":{n - 1}}}}}\n' for n in range(4))
        + '{"id":"broken","type":"opened"}\n{"id":"c3","type":"closed","data":{"account":"3"}}\n'
    )
    worker = installation.start_worker(definitions)
    try:
        await eventually(installation.is_ready, deadline=20)
        for _ in range(2):
            (published,) = installation.command("publish", "--file", str(events), code=1)
            assert (published["published"], published["broken"]) == (5, 1)

        await eventually(lambda: len(installation.command("saga", "list", "--status", "completed")) == 1)
        (dead,) = await eventually(lambda: installation.command("inbox", "list", "--state", "dead"))
        assert (dead["message_id"], dead["reason"]) == ("o0", "handler_error")
        assert {saga["key"] for saga in installation.command("saga", "list")} == {"1", "2", "3"}
        assert all(verdict["holds"] for verdict in installation.command("check"))

        (definitions / "mended").touch()
        assert installation.command("inbox", "replay", str(dead["id"]))[0]["replayed"] == 1
        await eventually(lambda: len(installation.command("saga", "list")) == 4)
        (shown,) = installation.command("saga", "show", "account/0")
        assert "Waiting for the event" in shown["explanation"][1] or "Deadline" in shown["explanation"][1]
        (asked,) = installation.command("saga", "retry", "account/0", code=1)
        assert asked == {"asked": 1, "applied": 0, "waiting": 0, "nothing_to_retry": 1}
    finally:
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)

    assert worker.returncode == 0, log
    assert "Traceback" not in log
    assert all(verdict["holds"] for verdict in installation.command("check"))
