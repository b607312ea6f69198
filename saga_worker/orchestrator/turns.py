"""Transactions of one process beside each other, except for one that must be alone.

An author's code that kills the process is found by running its row alone; nobody else's code may run meanwhile, or a
death would have two suspects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Many transactions at a time, or one alone. Whoever wants to be alone keeps the next ones out."""

    def __init__(self) -> None:
        self._running = 0
        self._ended = asyncio.Condition()
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def of(self, *, alone: bool) -> AsyncIterator[None]:
        if alone:
            async with self._alone, self._ended:
                await self._ended.wait_for(lambda: self._running == 0)
                yield
            return
        async with self._alone:
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            async with self._ended:
                self._ended.notify_all()
