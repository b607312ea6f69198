"""One contender on a database and a namespace of its own: workers, the echo participant, load, and the final check.

`Deployment` knows processes, load and accounting; a subclass says how a worker is started, when it is ready and what
the database must look like in the end. `Product` is saga_worker itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import asyncpg

from benchmarks.harness.accounting import DatabaseCounters, Reading, Usage, peak_rss_megabytes, per_event
from benchmarks.harness.amqp import Amqp, Delivery, Message, pack_properties
from benchmarks.harness.servers import REPOSITORY, Servers, new_name

SAGAS = REPOSITORY / "benchmarks" / "sagas"
COMPLETED = 3
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Workload:
    """A saga of the benchmarks, how it is started, and what each one must leave behind.

    `events` are its inbox rows, `steps` its journal rows, `sagas` itself and its children;
    `answers` maps command types to other answers than `echoed`.
    """

    name: str
    definitions: Path
    starts: str
    ends: str
    events: int
    steps: int
    status: int = COMPLETED
    answers: dict[str, str] = field(default_factory=dict)
    sagas: int = 1

    def body(self, key: str) -> bytes:
        """300 bytes of JSON."""
        empty = json.dumps({"key": key, "pad": ""}, separators=(",", ":"))
        return (empty[:-2] + "x" * (300 - len(empty)) + '"}').encode()


THREE_COMMANDS = Workload("three_commands", SAGAS / "three_commands.py", "bench_started", "bench_completed", 4, 4)


class WrongRun(AssertionError):
    """The run left something undone, or did something twice: however fast it was, it does not count."""


@dataclass(frozen=True, slots=True)
class Run:
    """A measured run: figures per event, and the account it was made from."""

    sagas: int
    events: int
    seconds: float
    usage: Usage
    counted: dict[str, int]
    rss_megabytes: float

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu(self) -> dict[str, float]:
        """Microseconds per event."""
        return self.usage.microseconds_per(self.events)

    def document(self) -> dict[str, Any]:
        return {
            "events_per_second": round(self.events_per_second), "events": self.events,
            "seconds": round(self.seconds, 2), "cpu_us_per_event": self.cpu, **per_event(self.counted, self.events),
            "worker_peak_rss_mb": round(self.rss_megabytes), "foreign_share": round(self.usage.foreign_share, 3),
        }  # fmt: skip


class Deployment(ABC):
    """As an async context manager: made ready and warmed up inside, gone with all its queues and tables after."""

    workload: Workload = THREE_COMMANDS
    worker_stdout: int = subprocess.DEVNULL
    queues: tuple[str, ...] = ("inbox", "echo")  # below the namespace; empty in the end

    def __init__(self, servers: Servers, *, workers: int = 1, database: str | None = None) -> None:
        """`database`: an existing one, which is kept."""
        self.servers = servers
        self.worker_count = workers
        self.namespace = new_name()
        self.database_name = database or self.namespace
        self.database_url = servers.url_of(self.database_name)
        self._keeps_database = database is not None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.ended: dict[str, float] = {}  # saga key -> when its last event arrived
        self.started = 0
        self._echo: subprocess.Popen[bytes] | None = None
        self._inside = AsyncExitStack()
        self._enough_ended = asyncio.Event()
        self._expected = 0

    # -- what a contender says --------------------------------------------------------------------------------------

    @abstractmethod
    async def prepare(self) -> None:
        """Make tables in the empty database."""

    @abstractmethod
    def worker_command(self) -> Sequence[str]:
        """Arguments of Python."""

    def worker_environment(self) -> dict[str, str]:
        return {}

    @abstractmethod
    async def wait_for_workers(self) -> None:
        """Return when all of them take deliveries."""

    @abstractmethod
    async def check_tables(self, sagas: int) -> None:
        """Raise `WrongRun` unless all `sagas` are at their end and nothing was done twice."""

    # -- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._inside.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inside.aclose()

    async def _start(self) -> None:
        if not self._keeps_database:
            self._inside.push_async_callback(self.servers.drop, self.database_name)
            await self.servers.admin.execute(f'CREATE DATABASE "{self.database_name}"')
        self.database = await asyncpg.connect(self.database_url)
        self._inside.push_async_callback(self.database.close)
        if not self._keeps_database:
            await self.prepare()
        self._inside.push_async_callback(self._delete_names)
        self.amqp = await Amqp.connect(self.servers.amqp_url)
        self._inside.push_async_callback(self.amqp.close)
        await self._listen_for_ends()
        self._inside.callback(self._stop_echo)
        self._start_echo()
        self._inside.push_async_callback(self.stop_workers)
        await self.start_workers()

    async def start_workers(self, *, wait: bool = True) -> None:
        self.workers = [
            self.start_process(*self.worker_command(), stdout=self.worker_stdout) for _ in range(self.worker_count)
        ]
        if wait:
            await self.wait_for_workers()

    async def stop_workers(self) -> None:
        """As an operator would: they drain."""
        for worker in self.workers:
            worker.terminate()
        await asyncio.gather(*(asyncio.to_thread(worker.wait, 60) for worker in self.workers))
        self.workers = []

    def start_process(self, *command: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        environment = {name: text for name, text in os.environ.items() if not name.startswith("SAGA_WORKER_")}
        environment |= {"PYTHONPATH": str(REPOSITORY)} | self.worker_environment()
        return subprocess.Popen([sys.executable, *command], env=environment, stdout=stdout)

    def _start_echo(self) -> None:
        answers = [f"{command}={answer}" for command, answer in self.workload.answers.items()]
        self._echo = self.start_process(
            "-m", "benchmarks.harness.echo", self.servers.amqp_url, self.namespace, *answers, stdout=subprocess.PIPE
        )
        assert self._echo.stdout is not None
        if self._echo.stdout.readline() != b"ready\n":
            raise WrongRun("The echo participant did not start.")

    def _stop_echo(self) -> None:
        if self._echo is not None:
            assert self._echo.stdout is not None
            self._echo.stdout.close()
            self._echo.terminate()
            self._echo.wait(30)
            self._echo = None

    async def _listen_for_ends(self) -> None:
        queue = f"{self.namespace}.ends"
        self.amqp.on_deliveries = self._on_ends
        await self.amqp.declare_exchange(f"{self.namespace}.events")
        await self.amqp.declare_queue(queue, exclusive=True)
        await self.amqp.bind(queue, f"{self.namespace}.events", self.workload.ends)
        await self.amqp.consume(queue, no_ack=True)

    def _on_ends(self, deliveries: list[Delivery]) -> None:
        now = time.monotonic()
        for delivery in deliveries:
            self.ended.setdefault(json.loads(delivery.body)["key"], now)
        if len(self.ended) >= self._expected:
            self._enough_ended.set()

    async def _delete_names(self) -> None:
        broker = await Amqp.connect(self.servers.amqp_url)
        for name in self.queues:
            await broker.delete_queue(f"{self.namespace}.{name}")
        for name in ("events", "commands", "dead"):
            await broker.delete_exchange(f"{self.namespace}.{name}")
        await broker.close()

    # -- load -------------------------------------------------------------------------------------------------------

    def key(self, number: int) -> str:
        """Of the saga that was started as `number`, from 0; not met before in this database."""
        return f"{self.namespace.removeprefix('bench_')}-{number}"

    def starts(self, count: int) -> list[Message]:
        """The next `count` start events, made before the clock runs."""
        keys = [self.key(number) for number in range(self.started, self.started + count)]
        self.started += count
        exchange, type_ = f"{self.namespace}.events", self.workload.starts
        return [
            Message(exchange, type_, pack_properties(message_id=key, type=type_), self.workload.body(key))
            for key in keys
        ]

    async def have_ended(self, sagas: int, *, seconds: float = 600) -> None:
        """Wait until so many have ended since the beginning; raises TimeoutError, or `WrongRun` when a worker died."""
        self._expected = sagas
        self._enough_ended.clear()
        deadline = time.monotonic() + seconds
        while len(self.ended) < sagas:
            _complain_about_the_dead(self.workers)
            try:
                async with asyncio.timeout(min(2.0, deadline - time.monotonic())):
                    await self._enough_ended.wait()
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise

    async def complete(self, sagas: int) -> float:
        """Start `sagas` and wait for their ends; the seconds from the first byte sent to the last end."""
        messages = self.starts(sagas)
        began = time.monotonic()
        await self.amqp.publish_all(messages)
        await self.have_ended(self.started)
        return max(self.ended.values()) - began

    async def measure(self, sagas: int, *, warm_up: int = WARM_UP) -> Run:
        """Warm up, checkpoint, run, drain the workers, check everything. The deployment has no workers after this."""
        if warm_up:
            await self.complete(warm_up)
        await self.servers.admin.execute("CHECKPOINT")
        before = await DatabaseCounters.take(self.servers.admin, self.database_name)
        reading = Reading.take(self.roots)
        seconds = await self.complete(sagas)
        usage = reading.until(Reading.take(self.roots))
        rss = max(peak_rss_megabytes(worker.pid) for worker in self.workers)
        await self.stop_workers()  # they report their last syncs
        counted = before.until(await DatabaseCounters.take(self.servers.admin, self.database_name))
        await self.check()
        return Run(sagas, sagas * self.workload.events, seconds, usage, counted, rss)

    @property
    def roots(self) -> dict[str, list[int]]:
        harness = [os.getpid()] + ([self._echo.pid] if self._echo is not None else [])
        return {
            "worker": [worker.pid for worker in self.workers], "postgresql": self.servers.postgresql,
            "rabbitmq": self.servers.rabbitmq, "harness": harness,
        }  # fmt: skip

    async def check(self) -> None:
        """Raise `WrongRun` unless tables and queues are as they must be. The workers have to be stopped."""
        await self.check_tables(self.started)
        self._stop_echo()
        for queue in self.queues:
            await until(partial(self._is_empty, f"{self.namespace}.{queue}"), seconds=30)

    async def _is_empty(self, queue: str) -> bool:
        """Once a queue has no consumer, what they had not acknowledged is ready again, and counted."""
        ready, consumers = await self.amqp.depth(queue)
        if ready and not consumers:
            raise WrongRun(f"{ready} messages are left in {queue}.")
        return not consumers


class Product(Deployment):
    """saga_worker, configured by its environment."""

    queues: tuple[str, ...] = ("inbox", "dead", "echo")

    def __init__(
        self,
        servers: Servers,
        *,
        workload: Workload = THREE_COMMANDS,
        workers: int = 1,
        database: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(servers, workers=workers, database=database)
        self.workload = workload
        self.settings = settings or {}
        self._before: dict[str, int] = {}  # rows of the database that was given

    async def prepare(self) -> None:
        upgrade = self.start_process("-m", "saga_worker", "db", "upgrade")
        if await asyncio.to_thread(upgrade.wait):
            raise WrongRun("saga-worker db upgrade failed.")

    def worker_command(self) -> Sequence[str]:
        return ("-m", "saga_worker", "run")

    def worker_environment(self) -> dict[str, str]:
        return {
            "SAGA_WORKER_DATABASE_URL": self.database_url, "SAGA_WORKER_AMQP_URL": self.servers.amqp_url,
            "SAGA_WORKER_NAMESPACE": self.namespace, "SAGA_WORKER_DEFINITIONS": str(self.workload.definitions),
            "SAGA_WORKER_LOG_LEVEL": "warning",
        } | self.settings  # fmt: skip

    async def wait_for_workers(self) -> None:
        await until(self._are_ready, seconds=60, alive=self.workers)

    async def _are_ready(self) -> bool:
        ready = await self.database.fetchval("SELECT count(*) FROM saga_worker.worker WHERE caught_up_at IS NOT NULL")
        return bool(ready == self.worker_count)

    async def start_workers(self, *, wait: bool = True) -> None:
        self._before = self._before or await self._count()
        await super().start_workers(wait=wait)

    async def check_tables(self, sagas: int) -> None:
        found = {name: count - self._before[name] for name, count in (await self._count()).items()}
        steps = sagas * self.workload.steps
        wanted = {
            "ended": sagas * self.workload.sagas, "elsewhere": 0, "done": sagas * self.workload.events, "not_done": 0,
            "journal": steps, "inputs": steps, "unsent": 0,
        }  # fmt: skip
        if found != wanted:
            raise WrongRun(f"The tables hold {found}; wanted {wanted}.")

    async def _count(self) -> dict[str, int]:
        row = await self.database.fetchrow(
            "SELECT (SELECT count(*) FROM saga_worker.saga WHERE status = $1) AS ended,"
            " (SELECT count(*) FROM saga_worker.saga WHERE status <> $1) AS elsewhere,"
            " (SELECT count(*) FROM saga_worker.inbox WHERE state = 3) AS done,"
            " (SELECT count(*) FROM saga_worker.inbox WHERE state <> 3) AS not_done,"
            " (SELECT count(*) FROM saga_worker.journal) AS journal,"
            " (SELECT count(DISTINCT (consumer, source, message_id)) FROM saga_worker.journal) AS inputs,"
            " (SELECT count(*) FROM saga_worker.outbox) AS unsent",
            self.workload.status,
        )
        return dict(row or {})


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, alive: Sequence[Any] = ()) -> None:
    """Poll; raises TimeoutError, or `WrongRun` when one of the processes ended."""
    async with asyncio.timeout(seconds):
        while not await condition():
            _complain_about_the_dead(alive)
            await asyncio.sleep(0.05)


def _complain_about_the_dead(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is not None:
            raise WrongRun(f"A worker ended by itself with {process.returncode}; its words are above.")
