"""The loop that all sweepers share: pass after pass at an interval with jitter, surviving what fails.

While passes fail they come ever more slowly: a database that is away must not fill the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from typing import Final

from saga_worker import backoff
from saga_worker.sql.connection import describe
from saga_worker.telemetry import stage_failed

log = logging.getLogger(__name__)

FIRST_REST_SECONDS: Final = 1.0  # after a failure, doubled with each
LONGEST_REST_SECONDS: Final = 5.0


class Sweeper(ABC):
    """One kind of due work. `sweep` returns whether there may be more at once."""

    def __init__(self, *, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self._stopping = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @abstractmethod
    async def sweep(self) -> bool:
        """One pass; True when a full batch was found, so that the next pass follows at once."""

    def start(self) -> None:
        self.task = asyncio.create_task(self._run(), name=type(self).__name__)

    async def stop(self) -> None:
        """Finish the pass that runs, begin no other."""
        self._stopping.set()
        if self.task is not None:
            await asyncio.wait([self.task])

    async def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                found_all = not await self.sweep()
                failures = 0
            except Exception as error:
                stage_failed(log, type(self).__name__, describe(error))
                found_all = True
                failures += 1
            if found_all:
                await self._rest(failures)

    async def _rest(self, failures: int) -> None:
        slow = backoff.delay(failures, first=FIRST_REST_SECONDS, longest=LONGEST_REST_SECONDS) if failures else 0.0
        try:
            async with asyncio.timeout(max(self.interval_seconds, slow) * random.uniform(0.8, 1.2)):
                await self._stopping.wait()
        except TimeoutError:
            pass
