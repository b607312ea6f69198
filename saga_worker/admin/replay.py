"""Replay of dead letters, or putting them away, page by page: each page is one transaction and stands in the audit.

Takes ids or a filter, guarantees compare-and-set (a row that is not dead any more is left alone) and that a row which
belongs to no saga is routed by the routes of now; hands the rows to whichever worker claims them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from pydantic_core import from_json

from saga_worker import inbox, routes
from saga_worker.inbox import DeadFilter, NewRow, UnroutedRow
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.routing import Route, key_in, parse_command_id, ref_of
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection, Database
from saga_worker.wake_up import tell

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and why: for the audit."""

    name: str
    why: str | None


@dataclass(slots=True)
class Tally:
    replayed: int = 0
    expired: list[int] = field(default_factory=list)  # their saga has left with the retention
    homeless: dict[int, str] = field(default_factory=dict)  # id -> why it still belongs to no saga


async def replay_all(database: Database, which: DeadFilter, actor: Actor, advance: Callable[[int], None]) -> Tally:
    """Replay everything that fits; ids beyond a page's size are taken in turn."""
    tally = Tally()
    for wanted in _portions(which):
        after: int | None = 0
        while after is not None:
            async with database.transaction(lock_timeout="5s") as connection:
                after = await _replay_page(connection, replace(wanted, after=after, limit=PAGE), actor, tally, advance)
            async with database.autocommit() as connection:
                await tell(connection)
    return tally


async def discard_all(database: Database, which: DeadFilter, actor: Actor, advance: Callable[[int], None]) -> int:
    """Put away everything that fits; how many there were."""
    discarded = 0
    for wanted in _portions(which):
        after: int | None = 0
        while after is not None:
            async with database.transaction(lock_timeout="5s") as connection:
                page = replace(wanted, after=after, limit=PAGE)
                done = await inbox.discard(connection, page, actor=actor.name, reason=actor.why)
            async with database.autocommit() as connection:
                await tell(connection)
            discarded += len(done.ids)
            advance(len(done.ids))
            after = done.last_id
    return discarded


def _portions(which: DeadFilter) -> Iterator[DeadFilter]:
    if which.ids is None:
        yield which
        return
    ids = sorted(set(which.ids))
    for start in range(0, len(ids), PAGE):
        yield replace(which, ids=ids[start : start + PAGE])


async def _replay_page(
    connection: Connection, which: DeadFilter, actor: Actor, tally: Tally, advance: Callable[[int], None]
) -> int | None:
    done = await inbox.replay(connection, which, actor=actor.name, reason=actor.why)
    placed = await _route_anew(connection, done.unrouted, actor, tally) if done.unrouted else 0
    tally.replayed += len(done.ids) + placed
    tally.expired += done.expired
    advance(len(done.ids) + len(done.expired) + len(done.unrouted))
    return done.last_id


async def _route_anew(connection: Connection, ids: Sequence[int], actor: Actor, tally: Tally) -> int:
    """Give rows without a saga to the definitions that take their type now; how many found one."""
    table = await routes.load(connection)
    placed = 0
    for row in await inbox.unrouted(connection, ids):
        try:
            places = await _places(connection, row, table.by_type.get(row.type, ()))
        except PoisonMessage as error:
            tally.homeless[row.id] = error.error
            continue
        if not await _assign(connection, row, places, actor):
            tally.homeless[row.id] = "it is stored for its saga already."
            continue
        placed += 1
    return placed


@dataclass(frozen=True, slots=True)
class _Place:
    consumer: str
    ref: UUID
    key: str
    role: Role


async def _places(connection: Connection, row: UnroutedRow, by_type: Sequence[Route]) -> list[_Place]:
    """Where the message belongs: the saga whose command it answers, or a saga of each definition that takes it."""
    if answered := parse_command_id(row.correlation_id or ""):
        saga = await connection.fetchrow("admin_saga", None, answered[0])
        if saga is None:
            raise PoisonMessage("unknown_command", "the saga whose command it answers does not exist.")
        return [_Place(saga["name"], saga["ref"], saga["key"], Role.REPLY)]
    takers = [route for route in by_type if row.consumer in ("", route.definition)]
    if not takers:
        raise PoisonMessage("unknown_type", "no definition takes its type.")
    try:
        document = from_json(row.body, allow_inf_nan=False)
    except ValueError:
        raise PoisonMessage("invalid_json", "its body is not valid JSON.") from None
    keys = [(route, key_in(document, route)) for route in takers]
    return [_Place(route.definition, ref_of(route.definition, key), key, Role.EVENT) for route, key in keys]


async def _assign(connection: Connection, row: UnroutedRow, places: Sequence[_Place], actor: Actor) -> bool:
    """The row itself goes to the first place; further definitions get rows of their own."""
    first, *others = places
    assigned = await inbox.assign(
        connection, row, consumer=first.consumer, ref=first.ref, key=first.key, role=first.role, actor=actor.name,
        reason=actor.why,
    )  # fmt: skip
    await inbox.insert(connection, [_copy(row, place) for place in others])
    return assigned


def _copy(row: UnroutedRow, place: _Place) -> NewRow:
    return NewRow(
        consumer=place.consumer, source=row.source, message_id=row.message_id, type=row.type, role=place.role,
        ref=place.ref, saga_key=place.key, correlation_id=row.correlation_id, state=RowState.READY, reason=None,
        error=None, suspect=False, prio=1, expires_at_seconds=None, props=row.props, body=row.body,
    )  # fmt: skip
