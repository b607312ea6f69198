"""What a client gives back: whether a start was accepted, where a saga stands, and why not. Data and errors only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic
from uuid import UUID

from saga_worker.saga.errors import SagaWorkerError
from saga_worker.saga.results import R
from saga_worker.saga.steps import S
from saga_worker.saga.transitions import Status


class Accepted(StrEnum):
    """What a start has led to."""

    STARTED = "started"
    JOINED = "joined"  # there is a saga of the key, and the start stands for it (`SecondStart.JOIN`)
    QUEUED = "queued"  # there is one, and a new run begins when it has ended (`SecondStart.QUEUE`)


class StartRefused(SagaWorkerError):
    """The caller's: this start leads to no run. `reason` is the code under which its row stands in the inbox, too."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class NotTaken(SagaWorkerError):
    """The caller's: the saga does not take what was asked of it, and has not changed. `reason` is the code."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class NotDecided(SagaWorkerError, TimeoutError):
    """Nobody's: the start is stored, but no worker has decided about it in time. It is not lost; ask again later."""


class StillOpen(SagaWorkerError, TimeoutError):
    """Nobody's: the saga has not ended in time. It goes on; ask again later."""


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S, R]):
    """A saga as it was last committed. `unsettled`: effects that may stand and that nobody has taken back.

    `result`: what the definition declares as `result=…`, once the saga has completed; None without such a declaration.
    """

    saga_id: UUID
    definition: str
    version: int
    key: str
    status: Status
    reason: str | None
    attention: str | None
    unsettled: int
    revision: int
    state: S
    result: R | None
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """The status is final."""
        return self.status.is_final

    @property
    def is_completed(self) -> bool:
        """It has ended and kept what was done; all other ends are failures, and `reason` says why."""
        return self.status is Status.COMPLETED
