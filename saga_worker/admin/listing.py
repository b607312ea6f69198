"""The listings: the read-only views, filtered. The only statements that are not files, since their filters vary.

Takes filters, hands out rows as dicts, newest first. Values go as parameters only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, TableClause, and_, column, func, or_, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

INBOX_COLUMNS: Final = (
    "id", "consumer", "source", "message_id", "type", "saga_key", "saga_id", "state", "reason", "attempts", "crashes",
    "received_at", "next_at", "expires_at",
)  # fmt: skip
SAGA_COLUMNS: Final = (
    "saga_id", "ref", "name", "definition_version", "key", "status", "reason", "attention", "unsettled", "revision",
    "started_at", "updated_at", "finished_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxFilter:
    state: str | None = None
    reason: str | None = None
    type: str | None = None
    saga_key: str | None = None
    definition: str | None = None
    since: datetime | timedelta | None = None

    @property
    def is_empty(self) -> bool:
        return self == InboxFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaFilter:
    status: str | None = None
    key: str | None = None
    definition: str | None = None
    attention: bool = False
    since: datetime | timedelta | None = None
    after: tuple[datetime, UUID] | None = None  # `place_of` the last row of the page before


def place_of(row: Mapping[str, Any]) -> str:
    """Where a saga stands in the listing, as `--after` takes it."""
    return f"{row['updated_at'].isoformat()}/{row['saga_id']}"


def inbox_rows(schema: str, wanted: InboxFilter, *, limit: int) -> Select[Any]:
    """The newest rows that `wanted` lets through."""
    view = _view(schema, "v_inbox", INBOX_COLUMNS)
    conditions = _equal(view, type=wanted.type, saga_key=wanted.saga_key, consumer=wanted.definition)
    conditions += _equal(view, reason=wanted.reason)
    if wanted.state == "dead":
        # The same rows, but by the index of v_dead: `state` of v_inbox is a word that no index has.
        conditions.append(view.c.id.in_(select(_view(schema, "v_dead", ("id",)).c.id)))
    else:
        conditions += _equal(view, state=wanted.state)
    if wanted.since is not None:
        conditions.append(view.c.received_at >= _moment(wanted.since))
    return select(view).where(*conditions).order_by(view.c.id.desc()).limit(limit)


def dead_count(schema: str, wanted: InboxFilter) -> Select[Any]:
    """How many dead letters a replay with these filters would take; `since` is about their last failure."""
    view = _view(schema, "v_dead", ("id", "consumer", "type", "saga_key", "reason", "last_failed_at"))
    conditions = _equal(view, type=wanted.type, saga_key=wanted.saga_key, consumer=wanted.definition)
    conditions += _equal(view, reason=wanted.reason)
    if wanted.since is not None:
        conditions.append(view.c.last_failed_at >= _moment(wanted.since))
    return select(func.count()).select_from(view).where(*conditions)


def saga_rows(schema: str, wanted: SagaFilter, *, limit: int) -> Select[Any]:
    """The sagas that moved last, among those that `wanted` lets through; `since` is about the last move."""
    view = _view(schema, "v_saga", SAGA_COLUMNS)
    conditions = _equal(view, status=wanted.status, key=wanted.key, name=wanted.definition)
    if wanted.attention:
        conditions.append(view.c.attention.is_not(None))
    if wanted.since is not None:
        conditions.append(view.c.updated_at >= _moment(wanted.since))
    if wanted.after is not None:
        moved_at, saga_id = wanted.after
        later_in_it = and_(view.c.updated_at == moved_at, view.c.saga_id > saga_id)
        conditions.append(or_(view.c.updated_at < moved_at, later_in_it))
    return select(view).where(*conditions).order_by(view.c.updated_at.desc(), view.c.saga_id).limit(limit)


async def fetch(connection: AsyncConnection, statement: Select[Any]) -> AsyncIterator[dict[str, Any]]:
    """The rows, in portions: a listing of any length needs little memory."""
    async with connection.stream(statement) as result:
        async for row in result.mappings():
            yield dict(row)


def _view(schema: str, name: str, columns: Sequence[str]) -> TableClause:
    return table(name, *(column(name) for name in columns), schema=schema)


def _equal(view: TableClause, **values: str | None) -> list[ColumnElement[bool]]:
    return [view.c[name] == value for name, value in values.items() if value is not None]


def _moment(since: datetime | timedelta) -> Any:
    return since if isinstance(since, datetime) else func.clock_timestamp() - since
