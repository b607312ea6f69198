"""Runs local steps: refs whose saga has one due → the orchestrator, one saga per transaction → the pool.

Takes refs after each commit; guarantees that a saga is never run twice at a time here, and that a failing database is
left alone for a while. The wake row of the saga is the net: what is lost here is found again within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final
from uuid import UUID

from saga_worker.orchestrator import Advanced, Orchestrator
from saga_worker.saga.errors import LeaseLost
from saga_worker.sql.connection import UnknownCommit, describe
from saga_worker.telemetry import stage_failed
from saga_worker.workers import Intent

log = logging.getLogger(__name__)

FIRST_SLOT: Final = 2000  # of the intents, behind those of the pool and of the timers


class LocalSteps:
    """`concurrency` loops that share one queue of refs."""

    def __init__(
        self, orchestrator: Orchestrator, *, follow_up: Callable[[Advanced], None], reread: Callable[[], None],
        announce: Callable[[int, Intent], Awaitable[None]], concurrency: int = 4,
    ) -> None:  # fmt: skip
        """`announce` takes the number of a slot and what is about to run in it."""
        self._announce = announce
        self._orchestrator = orchestrator
        self._follow_up = follow_up
        self._reread = reread
        self._concurrency = concurrency
        self._queue: asyncio.Queue[UUID | None] = asyncio.Queue()
        self._known: set[UUID] = set()  # queued or in hand
        self._again: set[UUID] = set()  # wanted once more while in hand
        self.loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.loops = [
            asyncio.create_task(self._run(FIRST_SLOT + number), name="local steps")
            for number in range(self._concurrency)
        ]

    async def stop(self) -> None:
        """Finish the steps that run; those that are queued are found by the next worker."""
        while not self._queue.empty():
            self._queue.get_nowait()
        for _ in self.loops:
            self._queue.put_nowait(None)
        await asyncio.gather(*self.loops)

    def wake(self, refs: Iterable[UUID]) -> None:
        """A local step may be due in these."""
        for ref in refs:
            if ref in self._known:
                self._again.add(ref)
            else:
                self._known.add(ref)
                self._queue.put_nowait(ref)

    async def _run(self, slot: int) -> None:
        while (ref := await self._queue.get()) is not None:
            is_busy = await self._run_one(ref, slot)
            self._known.discard(ref)
            if ref in self._again or is_busy:
                self._again.discard(ref)
                asyncio.get_running_loop().call_later(random.uniform(0.005, 0.05), self.wake, (ref,))

    async def _run_one(self, ref: UUID, slot: int) -> bool:
        try:
            advanced = await self._orchestrator.run_local(ref, announce=partial(self._announce, slot))
        except LeaseLost:
            return True
        except UnknownCommit:
            self._reread()
            return True
        except Exception as error:
            stage_failed(log, "local_steps", describe(error), ref=ref)
            await asyncio.sleep(random.uniform(0.2, 0.5))
            return True
        self._follow_up(advanced)
        return bool(advanced.busy)
