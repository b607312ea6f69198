"""A start that is stored: whether a worker has accepted it, and how the saga ended that it led to."""

from __future__ import annotations

import asyncio
from typing import Generic
from uuid import UUID

from saga_worker.client.contract import Accepted, NotDecided, Snapshot, StartRefused, StillOpen
from saga_worker.client.snapshots import read_snapshot
from saga_worker.client.watch import StartRow, Watch
from saga_worker.saga.definition import Saga
from saga_worker.saga.results import R
from saga_worker.saga.second_start import DUPLICATE_START, JOINED, QUEUED
from saga_worker.saga.steps import S
from saga_worker.sql.connection import Database


class Run(Generic[S, R]):
    """What `Client.send` and `Client.start` give back. `is_repeat`: this idempotency key was used before, so that this
    is the run of the first start with it.
    """

    def __init__(
        self, database: Database, watch: Watch, saga: Saga[S, R], *, key: str, idempotency_key: str, dedup: UUID,
        is_repeat: bool,
    ) -> None:  # fmt: skip
        self.saga = saga
        self.key = key
        self.idempotency_key = idempotency_key
        self.is_repeat = is_repeat
        self._database = database
        self._watch = watch
        self._dedup = dedup

    async def accepted(self, timeout: float = 10.0) -> Accepted:
        """What a worker has made of the start. Raises `StartRefused`, or `NotDecided` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                row = await self._watch.row(self._dedup, lambda row: row.is_decided)
        except TimeoutError:
            raise NotDecided(
                f"No worker has decided about the start of {self} within {timeout:g} s; it is stored and will be"
                " applied. Is a worker running that has this definition?"
            ) from None
        return self._judged(row)

    async def ended(self, timeout: float) -> Snapshot[S, R]:
        """The saga when it has ended, however it did. Raises `StartRefused`, or `StillOpen` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                row = await self._watch.row(self._dedup, lambda row: row.is_settled)
                self._judged(row)
                assert row.saga_id is not None
                await self._watch.end(row.saga_id)
        except TimeoutError:
            raise StillOpen(f"{self} has not ended within {timeout:g} s; it goes on.") from None
        snapshot = await read_snapshot(self._database, self.saga, saga_id=row.saga_id)
        if snapshot is None:
            raise StartRefused("gone", f"{self} ended so long ago that it has been deleted.")
        return snapshot

    def _judged(self, row: StartRow) -> Accepted:
        if row.state == "done":
            return Accepted.STARTED
        reason = row.reason or row.state
        if reason == JOINED:
            return Accepted.JOINED
        if row.state == "parked" and reason in QUEUED:
            return Accepted.QUEUED
        what = f"{row.error}" if row.error else _SENTENCES.get(reason, f"The start is {row.state}: {reason}.")
        raise StartRefused(reason, f"{self} was not started. {what}")

    def __str__(self) -> str:
        return f"{self.saga.name}/{self.key}"


_SENTENCES = {DUPLICATE_START: "There is a saga of this key already."}
