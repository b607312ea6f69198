"""The processes of the demo: workers and participants, each started, killed and stopped by name.

Takes where everything is, guarantees that no process outlives the demo, however that ends. Hands back exit codes, and
the ledgers that the participants wrote.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from saga_worker.trial.supervisor import ServerUnavailable, Supervisor, last_lines

RUN: Final = "import sys; from saga_worker.admin.cli import main; sys.exit(main())"
STOP_SECONDS: Final = 60.0
READY_SECONDS: Final = 60.0
# Long enough for every answer of a healthy participant, short enough to watch.
PAYMENT_TIMEOUT_SECONDS: Final = 2.5
REVIEW_TIMEOUT_SECONDS: Final = 5.0
SLOW_SECONDS: Final = 4.0
REPEATED_REPLIES: Final = 0.03
PARTICIPANTS: Final = {"shop-floor": ("fraud", "inventory"), "outside": ("payment", "shipping", "events")}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one demo runs."""

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    schema: str
    namespace: str
    directory: Path

    @property
    def producer_ledger(self) -> Path:
        return self.directory / "producer.jsonl"

    @property
    def sink_ledgers(self) -> list[Path]:
        return [self.directory / f"{name}.jsonl" for name in PARTICIPANTS]


def definition_file() -> Path:
    """The checkout definition: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "definitions" / "checkout.py", package.parents[1] / "definitions" / "checkout.py"):
        if path.is_file():
            return path
    raise ServerUnavailable("definitions/checkout.py is not part of this installation; install saga-worker anew.")


class Crew:
    """Everybody who works in the demo. Its supervisor ends them all when this program ends."""

    def __init__(self, place: Place, *, keep_files: bool) -> None:
        self._place = place
        self._supervisor = Supervisor(place.directory, remove=not keep_files)
        self.workers: dict[str, str] = {}  # name -> running, killed, stopped
        self.killed = 0

    async def start_participants(self) -> None:
        """Return when all of them have bound their queues."""
        place = self._place
        for name, destinations in PARTICIPANTS.items():
            command = [sys.executable, "-m", "saga_worker.trial.participants"]
            command += ["--namespace", place.namespace, "--ledger", str(place.directory / f"{name}.jsonl")]
            command += ["--slow-seconds", str(SLOW_SECONDS), "--repeat", str(REPEATED_REPLIES)]
            await self._start(name, [*command, "--destinations", *destinations], {})
        await asyncio.gather(*(self._said(name, '"ready"') for name in PARTICIPANTS))

    async def start_workers(self, *names: str, currencies: str) -> None:
        """Return when they take work. `currencies` is what this release of the definition knows."""
        for name in names:
            command = [sys.executable, "-c", RUN, "run"]
            await self._start(name, command, {"CHECKOUT_CURRENCIES": currencies})
            self.workers[name] = "starting"
        await asyncio.gather(*(self._said(name, "worker_ready") for name in names))
        self.workers |= dict.fromkeys(names, "running")

    async def kill_worker(self, name: str) -> None:
        """SIGKILL, without a word of warning."""
        await asyncio.to_thread(self._supervisor.signal, name, signal.SIGKILL)
        code = await asyncio.to_thread(self._supervisor.wait, name, seconds=STOP_SECONDS)
        if code == -signal.SIGKILL:
            self.killed += 1
            self.workers[name] = "killed"

    async def stop_workers(self) -> None:
        """SIGTERM for all that run; each drains and exits 0."""
        running = [name for name, state in self.workers.items() if state == "running"]
        for name in running:
            await asyncio.to_thread(self._supervisor.signal, name, signal.SIGTERM)
        for name in running:
            code = await asyncio.to_thread(self._supervisor.wait, name, seconds=STOP_SECONDS)
            self.workers[name] = "stopped"
            if code != 0:
                words = last_lines(self._log(name))
                raise ServerUnavailable(f"{name} ended with {code} after SIGTERM:\n{words}")

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run `saga-worker` with these arguments; its exit code and what it printed."""
        name = "-".join(argument for argument in arguments if not argument.startswith("-"))
        await self._start(name, [sys.executable, "-c", RUN, *arguments], {})
        code = await asyncio.to_thread(self._supervisor.wait, name, seconds=READY_SECONDS)
        return 1 if code is None else code, self._log(name).read_text(errors="replace")

    def close(self) -> None:
        self._supervisor.close()

    async def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        await asyncio.to_thread(
            self._supervisor.start, name, command, log=self._log(name), environment=self._environment() | environment
        )

    async def _said(self, name: str, word: str) -> None:
        """Wait until the process has written `word`; raises with its last words when it ends first."""
        async with asyncio.timeout(READY_SECONDS):
            while word not in self._log(name).read_text(errors="replace"):
                code = await asyncio.to_thread(self._supervisor.wait, name, seconds=0.05)
                if code is not None:
                    raise ServerUnavailable(f"{name} ended with {code}:\n{last_lines(self._log(name), count=15)}")

    def _log(self, name: str) -> Path:
        return self._place.directory / f"{name}.log"

    def _environment(self) -> dict[str, str]:
        place = self._place
        return os.environ | {
            "SAGA_WORKER_DATABASE_URL": place.database_url,
            "SAGA_WORKER_AMQP_URL": place.amqp_url,
            "SAGA_WORKER_SCHEMA": place.schema,
            "SAGA_WORKER_NAMESPACE": place.namespace,
            "SAGA_WORKER_DEFINITIONS": str(definition_file()),
            "SAGA_WORKER_LEASE_SECONDS": "2",
            "SAGA_WORKER_REPLY_GRACE_SECONDS": "1",
            "SAGA_WORKER_POLL_SECONDS": "0.2",
            "SAGA_WORKER_MAX_ATTEMPTS": "3",
            "SAGA_WORKER_POOL_SIZE": "4",
            "SAGA_WORKER_LOG_FORMAT": "json",
            "SAGA_WORKER_LOG_LEVEL": "info",
            "CHECKOUT_PAYMENT_TIMEOUT_SECONDS": str(PAYMENT_TIMEOUT_SECONDS),
            "CHECKOUT_REVIEW_TIMEOUT_SECONDS": str(REVIEW_TIMEOUT_SECONDS),
        }
