"""What an operator does to one saga, from a program: the same requests as those of the command line, audited as those.

Takes the database and a ref; guarantees that a worker decides, under the saga's lock. Refusals become `NotTaken`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from saga_worker.client.contract import NotDecided, NotTaken
from saga_worker.operator_requests import APPLIED, REFUSALS, WAITING, Request, Target, outcomes, request
from saga_worker.saga.definition import Saga
from saga_worker.saga.records import load_progress
from saga_worker.saga.routing import canonical_key, ref_of
from saga_worker.sql.connection import Database


async def ask(
    database: Database, saga: Saga[Any, Any], key: str | int | UUID, wanted: Request, *, actor: str, why: str | None,
    timeout: float,
) -> None:  # fmt: skip
    """Ask this of the saga and wait until a worker has applied it. Raises `NotTaken` and `NotDecided`."""
    target = _target(saga, key)
    if await _commands(database, target.ref) is None:
        raise NotTaken("unknown_saga", f"There is no saga {saga.name}/{target.key}.")
    ids = await request(database, [target], wanted, actor=actor, why=why)
    (word,) = (await outcomes(database, ids, wait_seconds=timeout)).elements()
    if word == WAITING:
        raise NotDecided(
            f"No worker has decided about {wanted.command} of {saga.name}/{target.key} within {timeout:g} s; it is"
            " stored and will be. Does a worker with this definition run?"
        )
    if word != APPLIED:
        raise NotTaken(word, f"{saga.name}/{target.key} does not take {wanted.command}: {REFUSALS.get(word, word)}.")


async def was_undone(database: Database, saga: Saga[Any, Any], key: str | int | UUID, step: str) -> bool:
    """Whether what the step did is taken back: by its undo, or outside, as an operator has said."""
    if step not in saga.steps:
        raise ValueError(f"the saga {saga.name} has no step {step}; it has: {', '.join(saga.steps)}")
    progress = await _commands(database, _target(saga, key).ref)
    return progress is not None and load_progress(progress).was_undone(step)


async def _commands(database: Database, ref: UUID) -> bytes | None:
    async with database.autocommit() as connection:
        row = await connection.fetchrow("admin_saga", None, ref)
    return bytes(row["progress"]) if row is not None else None


def _target(saga: Saga[Any, Any], key: str | int | UUID) -> Target:
    canonical = canonical_key(key, saga.key_kind)
    return Target(ref_of(saga.name, canonical), saga.name, canonical, None)
