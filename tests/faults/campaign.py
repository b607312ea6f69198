"""One run of real processes under faults: workers, participants, a producer with a ledger; then quiet, then a verdict.

Takes a fresh database, a namespace and a definition; guarantees that the verdict is given on a system at rest and
that all promises are looked at, whatever fault the run was about. Hands an `Outcome` to the test or to the command
that drives it. `async with Campaign(place, definitions) as run: …`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aio_pika
import asyncpg
import pydantic

from saga_worker.admin import event_file
from saga_worker.admin.check import Verdict, verify
from saga_worker.admin.ledger import Ledger
from saga_worker.admin.sender import send_all
from saga_worker.settings import Settings
from saga_worker.sql.connection import is_transient
from saga_worker.testing import eventually, ledgers
from saga_worker.testing.checker import Report, check
from saga_worker.testing.ledgers import Delivery
from saga_worker.testing.namespaces import Namespace
from tests.faults.processes import DEADLINE, Processes, Ran, run

ROOT: Final = Path(__file__).resolve().parents[2]
CHECKOUT: Final = ROOT / "definitions" / "checkout.py"
OWN: Final = Path(__file__).with_name("definitions")
DEAL: Final = OWN / "deal.py"
TALLY: Final = OWN / "tally.py"
CHECKOUT_DESTINATIONS: Final = ("fraud", "inventory", "payment", "shipping", "events")

# Leases, polls and retries short enough for a test; everything else as in production.
SETTINGS: Final = {
    "SAGA_WORKER_LEASE_SECONDS": "2",
    "SAGA_WORKER_REPLY_GRACE_SECONDS": "0.5",
    "SAGA_WORKER_POLL_SECONDS": "0.2",
    "SAGA_WORKER_MAX_ATTEMPTS": "2",
    "SAGA_WORKER_POOL_SIZE": "4",
    "SAGA_WORKER_LOG_FORMAT": "json",
}
STUCK: Final = """\
SELECT s.name || '/' || s.key FROM saga_worker.v_saga s
WHERE s.status IN ('running', 'waiting', 'compensating') AND s.attention IS NULL
  AND NOT EXISTS (SELECT FROM saga_worker.v_timer t WHERE t.saga_id = s.saga_id)
  AND NOT EXISTS (SELECT FROM saga_worker.v_outbox o WHERE o.saga_id = s.saga_id)
  AND NOT EXISTS (SELECT FROM saga_worker.v_activity a WHERE a.saga_id = s.saga_id AND a.state IN ('ready', 'running'))
  AND NOT EXISTS (SELECT FROM saga_worker.v_inbox i WHERE i.saga_id = s.saga_id AND i.state IN ('ready', 'held'))"""
# One statement, so one moment: what is stored between two looks would be seen neither on its way nor as work to do.
MOVING: Final = """\
SELECT (SELECT count(*) FROM saga_worker.v_inbox WHERE state = 'ready') AS ready,
       (SELECT count(*) FROM saga_worker.v_outbox) AS outbox,
       (SELECT count(*) FROM saga_worker.v_saga WHERE status = ANY($1::text[]) AND attention IS NULL) AS open,
       (SELECT count(*) FROM saga_worker.v_timer WHERE due_at < now()) AS due,
       ARRAY(SELECT message_id FROM saga_worker.v_inbox) AS stored,
       ARRAY(SELECT unnest(sent_ids) FROM saga_worker.v_journal) AS sent"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run happens: all of it is the run's own."""

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    namespace: Namespace
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # of its processes; those of a test go before


@dataclass(frozen=True, slots=True)
class Event:
    """What a producer publishes."""

    id: str
    type: str
    data: Mapping[str, object]
    source: str = "test"

    @property
    def body(self) -> bytes:
        return json.dumps(dict(self.data)).encode()

    @property
    def outgoing(self) -> event_file.Event:
        return event_file.Event(self.id, self.type, self.source, self.body)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is known at the end."""

    report: Report  # from the ledgers and the views
    live: Sequence[Verdict]  # what `saga-worker check` says
    overtaken: Sequence[str]  # I5
    stuck_seen: Sequence[str]  # I8, at every sample during the run

    @property
    def broken(self) -> list[str]:
        """Every violation as a sentence; empty is what is wanted."""
        found = [f"{v.invariant}: {violation}" for v in self.report.verdicts for violation in v.violations]
        found += [f"check {v.promise.id}: {v.violations}, e.g. {v.examples}" for v in self.live if not v.holds]
        found += [f"I5: {violation}" for violation in self.overtaken]
        return found + [f"I8: {key} had no reason to move during the run" for key in self.stuck_seen]

    @property
    def promises(self) -> list[str]:
        """Which were looked at."""
        names = {v.invariant for v in self.report.verdicts} | {v.promise.id for v in self.live} | {"I5"}
        return sorted((name for name in names if name[1:].isdigit()), key=lambda name: int(name[1:]))


class Campaign:
    """The machinery of one run. `faults` counts what was injected; a run that met none proves nothing.

    `sampling` looks for sagas that are stuck (I8) as long as it goes on.
    """

    def __init__(self, place: Place, definitions: Path, settings: Mapping[str, str] | None = None) -> None:
        self.place = place
        self.processes = Processes(place.directory)
        self.producer = place.directory / "producer.jsonl"
        self.sink = place.directory / "sink.jsonl"
        self.faults = 0
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("SAGA_WORKER_", "CHECKOUT_", "DEAL_", "TALLY_", "ERRAND_"))
            },
            "SAGA_WORKER_DATABASE_URL": place.database_url,
            "SAGA_WORKER_AMQP_URL": place.amqp_url,
            "SAGA_WORKER_NAMESPACE": str(place.namespace),
            "SAGA_WORKER_DEFINITIONS": str(definitions),
            "PYTHONFAULTHANDLER": "1",
            **SETTINGS,
            **place.settings,
            **(settings or {}),
        }
        self._connection: asyncpg.Connection | None = None
        self._querying = asyncio.Lock()
        self._stuck_seen: dict[str, None] = {}
        self.sampling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.sampling = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Every process has ended and every file is closed, whatever failed; then a failure of `sampling` is raised."""
        try:
            self.processes.close()
        finally:
            await self._stop_sampling()

    async def _stop_sampling(self) -> None:
        try:
            if self.sampling is not None:
                self.sampling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self.sampling
        finally:
            if self._connection is not None:
                self._connection.terminate()

    # -- workers ----------------------------------------------------------------------------------------------------

    async def start_worker(
        self, name: str, *, fault: str | None = None, roles: Sequence[str] = (), ready: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start a worker, by default until it takes work. `fault` as in SAGA_WORKER_FAULT."""
        arguments = [argument for role in roles for argument in ("--role", role)]
        environment = self._environment | dict(variables or {}) | ({"SAGA_WORKER_FAULT": fault} if fault else {})
        self.processes.start(name, _command("run", *arguments), environment)
        if ready:
            await self.processes.until_said(name, "worker_ready")

    async def start_workers(self, *names: str, variables: Mapping[str, str] | None = None) -> None:
        await asyncio.gather(*(self.start_worker(name, variables=variables) for name in names))

    async def until_killed(self, name: str, deadline: float = DEADLINE) -> None:
        """The worker died of the fault that was planned for it; anything else is a failure of the run."""
        code = await self.processes.until_ended(name, deadline)
        assert code == -signal.SIGKILL, f"{name} was to be killed, but ended with {code}"
        self.faults += 1

    async def kill(self, name: str) -> None:
        self.processes.signal(name, signal.SIGKILL)
        await self.until_killed(name)

    async def keep_running(self, name: str, condition: Callable[[], Awaitable[object]], *, most_deaths: int) -> None:
        """Start the worker again whenever it is killed, as a supervisor does, until the condition holds."""
        deaths = 0

        async def holds() -> object:
            nonlocal deaths
            if self.processes.code(name) is not None:
                await self.until_killed(name)
                deaths += 1
                if deaths > most_deaths:
                    raise RuntimeError(f"{name} was killed {deaths} times.")
                await self.start_worker(name, ready=False)
            return await condition()

        await self.start_worker(name, ready=False)
        await self.until(holds)

    async def stop(self, *names: str, deadline: float = DEADLINE) -> None:
        """SIGTERM; each has to end with 0."""
        for name in names:
            self.processes.signal(name, signal.SIGTERM)
        codes = {name: await self.processes.until_ended(name, deadline) for name in names}
        assert not any(codes.values()), codes

    async def start_participants(self, *, slow_seconds: float = 1.5, repeat: float = 0.1) -> None:
        """The trial's participants, in a process of their own, writing the sink ledger."""
        for destination in CHECKOUT_DESTINATIONS:
            self.place.namespace.queue(f"participant.{destination}")
        command = [sys.executable, "-m", "saga_worker.trial.participants", "--namespace", str(self.place.namespace)]
        command += ["--ledger", str(self.sink), "--slow-seconds", str(slow_seconds), "--repeat", str(repeat)]
        self.processes.start("participants", [*command, "--destinations", *CHECKOUT_DESTINATIONS], self._environment)
        await self.processes.until_said("participants", '"ready"')

    # -- the outside ------------------------------------------------------------------------------------------------

    async def command(self, *arguments: str) -> Ran:
        """`saga-worker` with these arguments."""
        return await run(_command(*arguments), self._environment)

    async def publish(self, events: Iterable[Event]) -> None:
        """As `saga-worker publish` does, with intents and outcomes in the producer's ledger."""
        settings = Settings(amqp_url=pydantic.SecretStr(self.place.amqp_url), namespace=str(self.place.namespace))
        with Ledger(self.producer) as ledger:
            outgoing = iter([event.outgoing for event in events])
            tally = await send_all(settings, outgoing, ledger, wait_seconds=DEADLINE)
        assert not tally.failed, tally

    async def left_in_queue(self) -> int:
        """Messages of the inbox queue that no worker has in hand."""
        async with await aio_pika.connect(self.place.amqp_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(f"{self.place.namespace}.inbox", passive=True)
            return queue.declaration_result.message_count or 0

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """One query at a time on a connection of the run's own, made anew when it was lost."""
        async with self._querying:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = await asyncpg.connect(self.place.database_url, timeout=30, command_timeout=30)
                self._connection = connection
            try:
                rows: list[asyncpg.Record] = await connection.fetch(query, *args)
            except Exception:
                connection.terminate()  # it may be lost
                raise
            return rows

    async def value(self, query: str, *args: object) -> Any:
        return (await self.fetch(query, *args))[0][0]

    async def statuses(self) -> dict[str, int]:
        """Number of sagas by status."""
        rows = await self.fetch("SELECT status, count(*) FROM saga_worker.v_saga GROUP BY 1")
        return {row[0]: row[1] for row in rows}

    async def states(self) -> dict[str, int]:
        """Number of inbox rows by state and reason."""
        rows = await self.fetch(
            "SELECT concat_ws(':', state, reason) AS state, count(*) FROM saga_worker.v_inbox GROUP BY 1"
        )
        return {row[0]: row[1] for row in rows}

    async def until(self, condition: Callable[[], Awaitable[object]], deadline: float = DEADLINE) -> None:
        await eventually(condition, deadline)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def until_quiet(self, deadline: float = DEADLINE, *, may_wait: bool = False) -> None:
        """Until nothing is on its way: neither rows nor messages, replies or due timers.

        Sagas have ended or ask for attention; with `may_wait` others may wait for an event.
        """
        moving_statuses = ["running", "compensating", *([] if may_wait else ["waiting"])]

        async def is_quiet() -> bool:
            *figures, (_, stored), (_, sent) = (await self.fetch(MOVING, moving_statuses))[0].items()
            moving = {name: number for name, number in figures if number}
            assert not moving, f"there is still something to do: {moving}"
            on_the_way = self._on_the_way(set(stored), set(sent))
            assert not on_the_way, f"on their way: {on_the_way}"
            return True

        await eventually(is_quiet, deadline)

    def _on_the_way(self, stored: set[str], sent: set[str]) -> dict[str, list[str]]:
        """What the ledgers, which are written first, have ahead of the tables; and what was sent and did not arrive."""
        published = {line.id for line in _producer(self.producer) if line.outcome == "ok"}
        arrived = list(ledgers.read_lines(self.sink)) if self.sink.exists() else []
        ways = {
            "events": published - stored,
            "messages": sent - {line["message_id"] for line in arrived},
            "replies": {id for line in arrived for id in _reply_ids(line)} - stored,
        }
        return {way: sorted(ids)[:5] for way, ids in ways.items() if ids}

    async def outcome(self, *, acknowledged: int, faults: int = 1, undoable: Iterable[str] | None = None) -> Outcome:
        """The verdict on a run that is quiet: at least so many events acknowledged, so many faults injected."""
        sink = ledgers.read_sink(self.sink) if self.sink.exists() else []
        report = check(
            _producer(self.producer), sink, await ledgers.read_views(self.place.database_url),
            minimum_acknowledged=acknowledged, minimum_faults=faults, faults=self.faults, undoable=undoable,
        )  # fmt: skip
        settings = Settings(database_url=pydantic.SecretStr(self.place.database_url))
        return Outcome(report, await verify(settings), list(_overtaken(sink)), list(self._stuck_seen))

    async def _sample(self) -> None:
        """I8 is a promise for every moment, so it is looked at all the time."""
        while True:
            try:
                self._stuck_seen.update(dict.fromkeys(row[0] for row in await self.fetch(STUCK)))
            except Exception as error:
                if not is_transient(error):  # a database that a test has taken away has nothing to say
                    raise
            await asyncio.sleep(0.25)


def on_path(path: str) -> dict[str, str]:
    """The setting for the `fast` or the `general` path of a delivery."""
    return {"SAGA_WORKER_FAST_PATH": str(path == "fast").lower()}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "saga_worker", *arguments]


def _producer(path: Path) -> list[ledgers.Publication]:
    return ledgers.read_producer(path) if path.exists() else []


def _reply_ids(line: ledgers.Row) -> list[str]:
    """The ids of what a participant answers: written down by ours, by rule of the trial's."""
    if "reply_ids" in line:
        return list(line["reply_ids"])
    return [] if line["destination"] == "events" else [f"{line['message_id']}:reply"]


def _overtaken(sink: Sequence[Delivery]) -> Iterable[str]:
    """First copies of one saga at one destination whose numbers do not rise."""
    newest: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    for delivery in sink:
        if delivery.message_id in seen:
            continue
        seen.add(delivery.message_id)
        lane = (delivery.saga_id, delivery.destination)
        if delivery.seq < newest.get(lane, 0):
            yield f"{delivery.message_id} reached {delivery.destination} after number {newest[lane]} of its saga."
        newest[lane] = max(delivery.seq, newest.get(lane, 0))
