"""What the private servers of trials and tests have in common: a supervisor, a directory, a start and an end.

Guarantees that a server ends and leaves nothing when its block ends, in synchronous and in asynchronous programs.
`trial.postgres` and `trial.local_rabbitmq` say how theirs starts.
"""

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from saga_worker.trial.supervisor import ServerUnavailable, Supervisor


class PrivateServer(ABC):
    """A server of this program's own, as a context manager (sync or async) or by `start` and `close`."""

    KIND: ClassVar[str]  # in a sentence: "This … was not started"

    def __init__(self) -> None:
        self.port = 0
        self._supervisor: Supervisor | None = None

    @abstractmethod
    def start(self) -> Self:
        """Start, or start again after it was stopped, on the same port and data. Returns when clients are answered."""

    def close(self) -> None:
        """End the server and remove what it left, except a directory that was given."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None

    @property
    def directory(self) -> Path:
        return self._running().directory

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise ServerUnavailable(f"This {self.KIND} was not started; call start() first.")
        return self._supervisor
