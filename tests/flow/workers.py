"""Whole workers inside the test's own process: quick to start, and their stages can be looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from saga_worker.loading import load
from saga_worker.settings import Settings
from saga_worker.worker import ROLES, Worker

DEFINITIONS: Final = Path(__file__).parents[2] / "definitions"
QUICK: Final[dict[str, Any]] = {"poll_seconds": 0.2, "reply_grace_seconds": 0.0, "pool_size": 4, "grace_seconds": 5.0}


@dataclass(frozen=True, slots=True)
class Workers:
    """`start` returns a worker that is ready; it is stopped with the test."""

    database_url: str
    amqp_url: str
    namespace: str
    running: list[Worker] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        servers = {"database_url": self.database_url, "amqp_url": self.amqp_url, "namespace": self.namespace}
        return Settings(**(servers | QUICK | changes))

    def build(self, definitions: Path = DEFINITIONS, roles: frozenset[str] = ROLES, **changes: Any) -> Worker:
        """A worker that is not started yet; it is stopped with the test all the same."""
        worker = Worker(self.settings(**changes), load(definitions), roles)
        self.running.append(worker)
        return worker

    async def start(
        self, definitions: Path = DEFINITIONS, roles: frozenset[str] = ROLES, **changes: Any
    ) -> Worker:  # fmt: skip
        worker = self.build(definitions, roles, **changes)
        await worker.start()
        return worker

    async def stop(self, *workers: Worker) -> None:
        """Drain these, or all that run; the youngest first."""
        for worker in reversed(workers or tuple(self.running)):
            self.running.remove(worker)
            await worker.stop()
