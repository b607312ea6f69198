"""Sagas as a program reads them: typed by their definition, as of the last commit, without any lock."""

from __future__ import annotations

from uuid import UUID

from msgspec import UNSET

from saga_worker.client.contract import Snapshot
from saga_worker.saga.definition import Saga
from saga_worker.saga.records import load_progress
from saga_worker.saga.results import R
from saga_worker.saga.steps import S
from saga_worker.saga.transitions import Status
from saga_worker.saga.upcast import upcasted
from saga_worker.sql.connection import Database


async def read_snapshot(
    database: Database, saga: Saga[S, R], *, saga_id: UUID | None = None, ref: UUID | None = None
) -> Snapshot[S, R] | None:
    """The saga with this id, or the present one with this ref; None: there is none.

    Raises pydantic's `ValidationError` when its state was written by a version whose model does not fit.
    """
    async with database.autocommit() as connection:
        row = await connection.fetchrow("client_saga", saga_id, ref)
    if row is None:
        return None
    read = saga.state_model.__pydantic_validator__.validate_json
    return Snapshot(
        saga_id=row["saga_id"],
        definition=row["definition"],
        version=row["definition_version"],
        key=row["key"],
        status=Status(row["status"]),
        reason=row["reason"],
        attention=row["attention"],
        unsettled=row["unsettled"],
        revision=row["revision"],
        state=read(upcasted(saga.state_model, row["state"]), by_name=True, by_alias=False),
        result=_result(saga, row["progress"]),
        started_at=row["started_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
    )


def _result(saga: Saga[S, R], progress: bytes) -> R | None:
    stored = load_progress(progress).result
    return saga.result.read(bytes(stored)) if saga.result is not None and stored is not UNSET else None
