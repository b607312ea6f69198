"""The story of the rented car: reusable activities, a real HTTP gateway with the card, and a whole worker."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import DEFINITIONS, Workers

Eventually = Callable[..., Awaitable[Any]]


class Bank:
    """The gateway's books. Answers one request under each key, however often it comes."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, Any]]] = {}
        self.done: list[tuple[str, Any]] = []
        self.refuses: set[str] = set()
        self.fails = 0  # this many requests end in an error of the gateway

    def answer(self, path: str, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        if self.fails:
            self.fails -= 1
            return 503, {}
        if key not in self.answers:
            self.answers[key] = self._book(path.rsplit("/", 1)[-1], path, body)
        return self.answers[key]

    def _book(self, what: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if what in self.refuses:
            return 402, {}
        subject = body.get("card") or path.split("/")[2]
        self.done.append((what, (subject, body.get("cents"))))
        return {
            "holds": (201, {"hold": f"hold-{subject}"}),
            "capture": (200, {"payment": f"payment-{subject}"}),
            "release": (200, {}),
        }[what]


@contextmanager
def serving(bank: Bank) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = bank.answer(self.path, body, self.headers["Idempotency-Key"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def story(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with serving(bank) as url:
        monkeypatch.setenv("RENTAL_CARD_GATEWAY", url)
        yield Path(shutil.copy(DEFINITIONS / "rental.py", tmp_path))


async def test_the_deposit_is_taken_in_part_when_the_car_is_back(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, bank: Bank, story: Path
) -> None:
    """features: 2, 7, 146, 167"""
    bank.fails = 1
    first = await workers.start(story)
    await wire.publish("rental_booked", {"rental": "r-1", "card": "c-1", "deposit_cents": 50_000}, id="b-1")

    async def waits() -> bool:
        return await records.status("r-1", "rental") == "waiting"

    await eventually(waits)
    await workers.stop(first)
    await workers.start(story)
    await wire.publish("car_returned", {"rental": "r-1", "due_cents": 12_300}, id="r-1")

    settled = await wire.next("rental_settled")
    assert settled.data == {"rental": "r-1", "paid_cents": 12_300}
    assert bank.done == [("holds", ("c-1", 50_000)), ("capture", ("hold-c-1", 12_300))]


async def test_what_cannot_be_taken_is_released(
    workers: Workers, wire: Wire, records: Records, eventually: Eventually, bank: Bank, story: Path
) -> None:
    """features: 3, 39"""
    bank.refuses.add("capture")
    await workers.start(story)
    await wire.publish("rental_booked", {"rental": "r-1", "card": "c-1", "deposit_cents": 50_000}, id="b-1")
    await wire.publish("car_returned", {"rental": "r-1", "due_cents": 12_300}, id="r-1")  # early: kept
    await wire.publish("fine_received", {"fine": "f-1", "card": "c-2", "cents": 2_000}, id="f-1")

    async def are_compensated() -> bool:
        return {await records.status("r-1", "rental"), await records.status("f-1", "parking_fine")} == {"compensated"}

    await eventually(are_compensated)
    assert sorted(bank.done) == [
        ("holds", ("c-1", 50_000)),
        ("holds", ("c-2", 2_000)),
        ("release", ("hold-c-1", None)),
        ("release", ("hold-c-2", None)),
    ]
    reasons = [await records.saga("r-1", "rental"), await records.saga("f-1", "parking_fine")]
    assert [saga["reason"] for saga in reasons if saga is not None] == [
        "settle_on_return failed: the bank refuses it",
        "take_money failed: the bank refuses it",
    ]
