"""The services that obey the trial's commands, in a process of their own, and the witness of what reached them.

Takes commands from the queues of its destinations (and, for the destination `events`, what sagas announce), guarantees
that every delivery is in the ledger on disk before it is answered and that nothing is acknowledged before its answer is
confirmed. Hands replies to `reply_to`. It speaks AMQP by aio-pika alone: a witness shares no code with what it watches.

    python -m saga_worker.trial.participants --amqp-url amqp://… --namespace saga --ledger sink.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from saga_worker.testing.ledgers import Ledger, read_lines
from saga_worker.trial.answers import Answer, Memory

DESTINATIONS: Final = ("fraud", "inventory", "payment", "shipping", "credit", "events")
EVENTS: Final = "events"
BATCH: Final = 200
PREFETCH: Final = 1000
TRACE_HEADERS: Final = ("traceparent", "tracestate")
OUR_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}\.(\d+)")
AMQP_URL_VARIABLE: Final = "SAGA_WORKER_AMQP_URL"


@dataclass(frozen=True, slots=True)
class Options:
    """`slow_seconds` holds back the replies that a decision calls slow; `repeat` is the share of replies sent twice."""

    amqp_url: str = field(repr=False)
    namespace: str
    ledger: Path
    destinations: tuple[str, ...] = DESTINATIONS
    slow_seconds: float = 3.0
    repeat: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    destination: str
    message: AbstractIncomingMessage
    redelivered: bool


class Participants:
    """One connection, one queue per destination, batches by what is there."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._memory = Memory()
        if options.ledger.exists():
            self._memory.recall(read_lines(options.ledger))
        self._ledger = Ledger(options.ledger)
        self._received: asyncio.Queue[Received] = asyncio.Queue()
        self._answering: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then send the replies that are held back, and leave."""
        connection = await aio_pika.connect_robust(self._options.amqp_url, timeout=10)
        async with connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.set_qos(prefetch_count=PREFETCH)
            for destination in self._options.destinations:
                await self._listen(channel, destination)
            print(json.dumps({"ready": True}), flush=True)
            serving, stopped = asyncio.create_task(self._serve(channel)), asyncio.create_task(stop.wait())
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            self._hurry.set()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            await asyncio.gather(*self._answering, return_exceptions=True)
        self._ledger.close()

    async def _listen(self, channel: AbstractChannel, destination: str) -> None:
        namespace = self._options.namespace
        is_subscriber = destination == EVENTS
        exchange = await channel.declare_exchange(
            f"{namespace}.events" if is_subscriber else f"{namespace}.commands",
            aio_pika.ExchangeType.TOPIC,
            durable=True,
        )
        queue = await channel.declare_queue(
            f"{namespace}.participant.{destination}", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind(exchange, "#" if is_subscriber else f"{destination}.#")

        async def receive(message: AbstractIncomingMessage) -> None:
            self._received.put_nowait(Received(destination, message, bool(message.redelivered)))

        await queue.consume(receive)

    async def _serve(self, channel: AbstractChannel) -> None:
        while True:
            batch = [await self._received.get()]
            while len(batch) < BATCH and not self._received.empty():
                batch.append(self._received.get_nowait())
            self._take(channel, batch)

    def _take(self, channel: AbstractChannel, batch: Sequence[Received]) -> None:
        """Decide and write down in one go, without an await between: a batch is answered whole or not at all."""
        lines: list[dict[str, object]] = []
        replies: list[tuple[Received, Answer | None]] = []
        for received in batch:
            answer, line = self._witness(received)
            replies.append((received, answer))
            if line is not None:
                lines.append(line)
        if lines:
            self._ledger.append(lines)
        for received, answer in replies:
            task = asyncio.create_task(self._reply(channel, received, answer))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _witness(self, received: Received) -> tuple[Answer | None, dict[str, object] | None]:
        """The answer and the ledger line of a delivery; neither for an event that no saga sent."""
        message = received.message
        message_id = message.message_id or ""
        ours = OUR_ID.fullmatch(message_id)
        if ours is None:
            return None, None
        headers = message.headers
        undoes = str(headers["saga-undoes"]) if headers.get("saga-undoes") else None
        type_ = message.type or ""
        if received.destination == EVENTS:
            answer, effect = None, message_id not in self._memory.answers
            self._memory.answers.setdefault(message_id, Answer("heard"))
        else:
            answer, effect = self._memory.answer(message_id, type_, json.loads(message.body), undoes=undoes)
        line: dict[str, object] = {
            "destination": received.destination,
            "type": type_,
            "message_id": message_id,
            "sha256": hashlib.sha256(message.body).hexdigest(),
            "saga_id": str(headers.get("saga-id", "")),
            "seq": int(ours[1]),
            "undoes": undoes,
            "redelivered": received.redelivered,
            "effect": effect,
            "answer": _as_json(answer or self._memory.answers[message_id]),
        }
        return answer, line

    async def _reply(self, channel: AbstractChannel, received: Received, answer: Answer | None) -> None:
        """Answer, then acknowledge. A connection lost on the way brings the delivery back, and the same answer."""
        message = received.message
        with contextlib.suppress(aio_pika.exceptions.AMQPError, ConnectionError, RuntimeError):
            if answer is not None and message.reply_to:
                if answer.slow:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._hurry.wait(), self._options.slow_seconds)
                for _ in range(self._times(message.message_id or "")):
                    with contextlib.suppress(aio_pika.exceptions.PublishError):  # whoever asked has left
                        await channel.default_exchange.publish(_reply_to(received, answer), message.reply_to)
            await message.ack()

    def _times(self, message_id: str) -> int:
        chance = zlib.crc32(f"{self._options.seed}:{message_id}".encode()) / 2**32
        return 2 if chance < self._options.repeat else 1


def reply_id(command_id: str) -> str:
    """The id of the reply to a command: the same for every copy, so that a repeated reply is a duplicate."""
    return f"{command_id}:reply"


def _reply_to(received: Received, answer: Answer) -> aio_pika.Message:
    command_id = received.message.message_id or ""
    return aio_pika.Message(
        json.dumps(dict(answer.data)).encode(),
        message_id=reply_id(command_id),
        correlation_id=command_id,
        type=answer.type,
        app_id=received.destination,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={name: value for name, value in received.message.headers.items() if name in TRACE_HEADERS},
    )


def _as_json(answer: Answer) -> dict[str, Any]:
    return {"type": answer.type, "data": dict(answer.data), "acted": answer.acted, "slow": answer.slow}


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Participants(options).run(stop)


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        description="Answer the commands of the trial's sagas and write down every delivery."
    )
    parser.add_argument("--amqp-url", default=os.environ.get(AMQP_URL_VARIABLE), help=f"default: {AMQP_URL_VARIABLE}")
    parser.add_argument("--namespace", default="saga")
    parser.add_argument("--ledger", type=Path, required=True, help="one line per delivery; taken up if it exists")
    parser.add_argument("--destinations", nargs="+", default=list(DESTINATIONS))
    parser.add_argument("--slow-seconds", type=float, default=3.0, help="how long a slow reply is held back")
    parser.add_argument("--repeat", type=float, default=0.0, help="share of replies that are sent twice")
    parser.add_argument("--seed", type=int, default=0, help="chooses which replies are sent twice")
    options = vars(parser.parse_args(arguments))
    if not options["amqp_url"]:
        parser.error(f"--amqp-url or {AMQP_URL_VARIABLE} must be given")
    return Options(**{**options, "destinations": tuple(options["destinations"])})


if __name__ == "__main__":
    asyncio.run(serve(_options(sys.argv[1:])))
