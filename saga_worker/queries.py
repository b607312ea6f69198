"""Questions to sagas that run: answered from the row as it was last committed, while a step runs, without any lock.

Takes a connection (a read-only one will do) and a query, guarantees that nothing is written and nobody waited for,
and hands back the author's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from saga_worker.saga.asking import answer
from saga_worker.saga.errors import PoisonMessage, QueryRefused
from saga_worker.saga.queries import A, Query, S
from saga_worker.saga.registry import Registry
from saga_worker.saga.routing import canonical_key, ref_of
from saga_worker.sql.connection import Connection


@dataclass(frozen=True, slots=True)
class StoredSaga:
    """What is known of a saga without reading how far it has come. `state` is JSON of the author's model."""

    saga_id: UUID
    ref: UUID | None
    definition: str
    version: int
    key: str
    state: bytes

    def __str__(self) -> str:
        return f"{self.definition}/{self.key}"


@dataclass(frozen=True, slots=True)
class TakenEvent:
    """An event that a saga has taken. Type and body are None when the inbox keeps the message no more."""

    revision: int
    decided_at: datetime
    type: str | None
    source: str
    message_id: str
    body: bytes | None


async def events(connection: Connection, saga: StoredSaga, *, limit: int) -> list[TakenEvent]:
    """The events that this saga has taken, in the order in which it took them; of many the newest."""
    rows = await connection.fetch("saga_events", saga.saga_id, limit)
    return [TakenEvent(**{**dict(row), "body": None if row["body"] is None else bytes(row["body"])}) for row in rows]


async def ask(connection: Connection, query: Query[S, A], key: str | int | UUID) -> A:
    """The answer of the saga with this key. Raises `QueryRefused` when there is none, or one of another version."""
    name = query.saga.name
    try:
        ref = ref_of(name, canonical_key(key, query.saga.key_kind))
    except PoisonMessage as refusal:
        raise QueryRefused(f"{name}: {refusal.error}") from None
    saga = await find(connection, None, ref, name=f"{name}/{key}")
    if saga.version != query.saga.version:
        raise QueryRefused(
            f"{saga} runs by version {saga.version} of its definition, and this query is one of version"
            f" {query.saga.version}; ask with the query of that version."
        )
    return answer(query, saga.state)


async def ask_by_name(
    connection: Connection, registry: Registry, saga_id: UUID | None, ref: UUID | None, question: str, *, name: str
) -> BaseModel:
    """The answer to the question of this name, by the definition that the saga runs by; `name` is for sentences."""
    saga = await find(connection, saga_id, ref, name=name)
    definition = registry.find(saga.definition, saga.version)
    if definition is None:
        raise QueryRefused(f"{saga} runs by version {saga.version} of its definition, which is not loaded here.")
    query: Query[Any, BaseModel] | None = definition.queries.get(question)
    if query is None:
        known = ", ".join(definition.queries) or "none"
        raise QueryRefused(f"{definition.name} {definition.version} has no query {question}; it has: {known}.")
    return answer(query, saga.state)


async def find(connection: Connection, saga_id: UUID | None, ref: UUID | None, *, name: str) -> StoredSaga:
    """The saga with this id or ref as it was last committed; raises `QueryRefused` when there is none."""
    row = await connection.fetchrow("saga_state", saga_id, ref)
    if row is None:
        raise QueryRefused(f"There is no saga {name}.")
    return StoredSaga(
        row["saga_id"], row["ref"], row["definition"], row["definition_version"], row["key"], bytes(row["state"])
    )
