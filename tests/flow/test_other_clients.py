"""Clients that are not ours: pika places an order, and the participant of docs/participants.md answers for it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from definitions.checkout import ReserveStock, StockReserved
from saga_worker.testing.namespaces import Namespace
from tests.docs.blocks import ROOT, blocks
from tests.flow.plain_client import Plain, publish
from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]
PAGE: Final = (Path(__file__).parents[2] / "docs" / "participants.md").read_text(encoding="utf-8")
ORDER: Final = b'{"order_id": "4711", "lines": {"tea": 2}, "cents": 1999, "card": "tok_1"}'
README_ORDER: Final = b'{"order_id": "4711", "cents": 1999}'


def block(mark: str) -> str:
    """The code block of the page that is marked so."""
    (found,) = re.findall(rf"^```{mark}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    text: str = found
    return text


@pytest.fixture
def participant(amqp_url: str, namespace: Namespace) -> Iterator[None]:
    """The page's participant, as it stands, in a process of its own."""
    namespace.queue("shop")
    environment = os.environ | {"AMQP_URL": amqp_url, "SAGA_WORKER_NAMESPACE": str(namespace)}
    process = subprocess.Popen(
        [sys.executable, "-c", block("python participant")], env=environment, stderr=subprocess.PIPE, text=True
    )
    yield
    process.send_signal(signal.SIGKILL)
    _, complaints = process.communicate()
    assert complaints == ""


def test_the_participant_of_the_page_has_twenty_lines() -> None:
    assert len([line for line in block("python participant").splitlines() if line.strip()]) <= 20


@pytest.fixture
def first_saga(tmp_path: Path) -> Path:
    """The README's definition, as it stands."""
    (text,) = [found.text for found in blocks(ROOT / "README.md", "python") if 'Saga("order"' in found.text]
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "order.py").write_text(text)
    return tmp_path / "definitions"


@pytest.mark.usefixtures("participant")
async def test_the_saga_of_the_readme_and_the_participant_of_the_page_end_an_order(
    workers: Workers, records: Records, amqp_url: str, namespace: Namespace, first_saga: Path, eventually: Eventually
) -> None:
    await workers.start(first_saga)
    await asyncio.to_thread(
        publish, amqp_url, str(namespace), [Plain("o-1", README_ORDER), Plain("o-1", README_ORDER)]
    )  # fmt: skip

    async def has_ended() -> bool:
        return await records.status("4711", "order") == "completed"

    await eventually(has_ended)
    saga = await records.saga("4711", "order")
    assert saga is not None and json.loads(saga["state"])["reservation"] == "shelf 7"
    assert [row["state"] for row in await records.rows()] == ["done"] * 3


async def test_the_command_and_the_reply_of_the_page_are_what_is_on_the_wire(workers: Workers, wire: Wire) -> None:
    await workers.start()
    await wire.publish("order_placed", ORDER, id="o-1")
    await wire.obey("score_order", "cleared")
    message = (await wire.next("reserve_stock")).message
    shown = json.loads(block("json command"))

    assert ReserveStock.model_validate_json(message.body) == ReserveStock.model_validate(shown["body"])
    assert shown["routing_key"] == message.routing_key
    assert [name for name in shown["properties"] if getattr(message, name) is None] == []
    assert (message.correlation_id, message.expiration, message.user_id) == (None, None, None)
    assert set(shown["properties"]["headers"]) == set(message.headers)
    reply = json.loads(block("json reply"))
    StockReserved.model_validate(reply["body"])
    assert reply["properties"]["correlation_id"] == shown["properties"]["message_id"]


class Service:
    """A participant with the page's memory; what it did is in `done`."""

    def __init__(self, says: str = "reserved") -> None:
        page: dict[str, Any] = {}
        exec(block("python memory"), page)
        self._answer, self._says = page["answer"], says
        self._db = sqlite3.connect(":memory:")
        self._db.execute("CREATE TABLE answered (id text PRIMARY KEY, answer text NOT NULL)")
        self.done: list[str] = []

    def told(self, id: str, undoes: str | None = None) -> str:
        def work(_: sqlite3.Connection) -> str:
            self.done.append(id)
            return self._says if undoes is None else "done"

        answer: str = self._answer(self._db, id, undoes, work, "out_of_stock")
        return answer

    def close(self) -> None:
        self._db.close()


def test_the_memory_of_the_page_does_everything_once() -> None:
    with closing(Service()) as service:
        assert [service.told("c"), service.told("c")] == ["reserved", "reserved"]
        assert [service.told("u", "c"), service.told("u", "c"), service.told("c")] == ["done", "done", "reserved"]
        assert service.done == ["c", "u"]


def test_the_memory_of_the_page_lets_an_undo_win_that_overtakes_its_command() -> None:
    """features: M33"""
    with closing(Service()) as service:
        assert [service.told("u", "c"), service.told("c"), service.told("c")] == [
            "done",
            "out_of_stock",
            "out_of_stock",
        ]
        assert service.done == []


def test_the_memory_of_the_page_takes_nothing_back_that_was_rejected() -> None:
    with closing(Service(says="out_of_stock")) as service:
        assert [service.told("c"), service.told("u", "c")] == ["out_of_stock", "done"]
        assert service.done == ["c"]
