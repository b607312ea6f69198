"""A loopback proxy that counts what a worker asks of PostgreSQL: statements and round trips of each transaction.

It reads the frontend's messages (Parse, Bind, Execute, Query, Sync) and changes nothing. Needs a connection without
TLS. A run through it is for counting, not for timing.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any
from urllib.parse import urlsplit

_BATCH = re.compile(rb'INSERT INTO "?saga_worker"?\.inbox\b')  # the statement by which a batch of deliveries is known
_CHUNK = 65_536


@dataclass(slots=True)
class Transaction:
    """`statements` leaves out BEGIN and COMMIT; `round_trips` counts them."""

    statements: int = 0
    round_trips: int = 0
    is_batch: bool = False


@dataclass(slots=True)
class Counter:
    """Every transaction that was committed, of all connections."""

    transactions: list[Transaction] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Of the transactions that store a batch of deliveries; nothing when there was none."""
        batches = [each for each in self.transactions if each.is_batch]
        if not batches:
            return {}
        return {
            "batches": len(batches),
            "statements_per_batch": median(each.statements for each in batches),
            "statements_per_batch_mean": round(mean(each.statements for each in batches), 2),
            "round_trips_per_batch": median(each.round_trips for each in batches),
            "other_transactions": len(self.transactions) - len(batches),
            "counted": "on the wire, in a run of its own",
        }


class _Frontend:
    """The messages of one connection, as they come in pieces."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._rest = b""
        self._is_started = False
        self._stores: dict[bytes, bool] = {}  # name of a prepared statement -> it stores a batch
        self._bound = False
        self._open: Transaction | None = None

    def feed(self, data: bytes) -> None:
        self._rest += data
        while True:
            prefix = 1 if self._is_started else 0  # the first message has no type
            if len(self._rest) < prefix + 4:
                return
            length = prefix + int(struct.unpack_from(">I", self._rest, prefix)[0])
            if len(self._rest) < length:
                return
            message, self._rest = self._rest[:length], self._rest[length:]
            if self._is_started:
                self._on_message(message[:1], message[5:])
            self._is_started = True

    def _on_message(self, kind: bytes, body: bytes) -> None:
        match kind:
            case b"P":
                name, text = body.split(b"\0", 2)[:2]
                self._stores[name] = bool(_BATCH.search(text))
            case b"B":
                self._bound = self._stores.get(body.split(b"\0", 2)[1], False)
            case b"E":
                self._count(is_batch=self._bound)
            case b"S" if self._open is not None:
                self._open.round_trips += 1
            case b"Q":
                self._on_query(body.rstrip(b"\0"))
            case _:
                pass

    def _on_query(self, text: bytes) -> None:
        word = text.lstrip()[:8].upper()
        if word.startswith((b"BEGIN", b"START")):
            self._open = Transaction(round_trips=1)
        elif word.startswith((b"COMMIT", b"END", b"ROLLBACK")) and b" TO " not in text.upper():
            if self._open is not None and not word.startswith(b"ROLLBACK"):
                self._open.round_trips += 1
                self._counter.transactions.append(self._open)
            self._open = None
        else:
            self._count(is_batch=bool(_BATCH.search(text)))
            if self._open is not None:
                self._open.round_trips += 1

    def _count(self, *, is_batch: bool) -> None:
        if self._open is None:
            self._counter.transactions.append(Transaction(1, 1, is_batch))
            return
        self._open.statements += 1
        self._open.is_batch |= is_batch


@asynccontextmanager
async def counting(database_url: str) -> AsyncIterator[tuple[str, Counter]]:
    """The URL to give to a worker, and what is counted behind it."""
    counter = Counter()
    parts = urlsplit(database_url)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        for task in (
            asyncio.create_task(_copy(reader, to_server, _Frontend(counter))),
            asyncio.create_task(_copy(from_server, writer, None)),
        ):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"
    try:
        yield parts._replace(netloc=netloc, query="sslmode=disable").geturl(), counter
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frontend: _Frontend | None) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                if frontend is not None:
                    frontend.feed(data)
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
