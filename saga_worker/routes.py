"""Routes as rows: which definitions take a type, in every version that some worker has ever brought.

Takes the routes of a starting worker, guarantees that all active versions of a definition agree on how a key is
found. The consumer fans out over this table and never over the code it happens to have loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.routing import KeyKind, Route
from saga_worker.saga.rows import Role
from saga_worker.sql.connection import Connection


@dataclass(frozen=True, slots=True)
class RouteTable:
    """The routes at one revision: per type one route per definition, the newest version's."""

    rev: int
    by_type: dict[str, list[Route]] = field(default_factory=dict)


async def register(conn: Connection, routes: Sequence[Route]) -> None:
    """Store the routes of a worker before it binds its queue; unchanged ones do not raise the revision.

    Raises `DefinitionError` when a version that still runs finds its keys differently.
    """
    await conn.execute("routes_lock")
    stored = await _stored(conn)
    for definition in sorted({route.definition for route in routes}):
        await _settle_differences(conn, definition, [*routes], stored)
    if routes:
        columns = zip(
            *((r.definition, r.version, r.type, r.role, r.key_pointer, r.key_kind.value) for r in routes), strict=True
        )
        await conn.execute("routes_upsert", *columns)


async def load(conn: Connection) -> RouteTable:
    """All routes as they are now."""
    rows = await conn.fetch("routes_load")
    newest: dict[str, dict[str, Route]] = defaultdict(dict)
    for route in (_route(row) for row in rows):
        newest[route.type][route.definition] = route  # versions come in ascending order
    by_type = {type_: list(routes.values()) for type_, routes in newest.items()}
    return RouteTable(max((row["rev"] for row in rows), default=0), by_type)


async def note_partitions(conn: Connection, namespace: str, partitions: int) -> int:
    """The most partitions that the inbox of this namespace has ever had, these included."""
    most: int = await conn.fetchval("layout_note", f"partitions of {namespace}", partitions)
    return most


async def revision(conn: Connection) -> int:
    """The revision that `load` would give; a higher one than that of a copy says that the copy is stale."""
    found: int = await conn.fetchval("routes_revision")
    return found


async def _stored(conn: Connection) -> list[Route]:
    return [_route(row) for row in await conn.fetch("routes_load")]


def _route(row: object) -> Route:
    record: dict[str, object] = dict(row)  # type: ignore[call-overload]
    return Route(
        definition=str(record["definition"]),
        version=int(str(record["version"])),
        type=str(record["type"]),
        role=Role(int(str(record["role"]))),
        key_pointer=str(record["key_pointer"]),
        key_kind=KeyKind(str(record["key_kind"])),
    )


async def _settle_differences(
    conn: Connection, definition: str, routes: Sequence[Route], stored: Sequence[Route]
) -> None:
    """Refuse to differ from a version that runs; drop the routes of versions that differ and do not run."""
    ours = [route for route in routes if route.definition == definition]
    brought = {route.version for route in ours}
    differing = {
        other.version: (route, other)
        for other in stored
        for route in ours
        if other.definition == definition and other.version not in brought and _differ(route, other)
    }
    if not differing:
        return
    active = {row["version"] for row in await conn.fetch("routes_active", definition)}
    for version in sorted(differing.keys() & active):
        route, other = differing[version]
        raise DefinitionError(
            f"{definition} version {route.version} finds the key of {route.type} at {route.key_pointer!r}"
            f" ({route.key_kind.value}), version {version}, which still runs, finds that of {other.type} at"
            f" {other.key_pointer!r} ({other.key_kind.value}). Keep pointer and kind of the key,"
            " or give the saga another name."
        )
    await conn.execute("routes_delete", definition, sorted(differing))


def _differ(one: Route, other: Route) -> bool:
    return one.key_kind is not other.key_kind or (one.type == other.type and one.key_pointer != other.key_pointer)
