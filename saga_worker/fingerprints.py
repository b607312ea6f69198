"""Structures of definitions as rows: what a version looked like to the workers that ran it last.

Takes the structures of a starting worker, guarantees that one which would break open sagas of the same version is not
taken in silence. `saga-worker definitions accept` takes it by an operator's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from pydantic_core import from_json, to_json

from saga_worker.saga.structure import Structure, breaks, fingerprint
from saga_worker.sql.connection import Connection

COUNTED: Final = 1000  # open sagas of a changed version


class Changed(Struct, frozen=True):
    """A version whose structure is another than before, although `open_sagas` of it are open."""

    name: str
    version: int
    breaks: tuple[str, ...]
    open_sagas: int

    def __str__(self) -> str:
        many = f"{self.open_sagas}{' or more' if self.open_sagas == COUNTED else ''}"
        count = "one of its sagas is" if self.open_sagas == 1 else f"{many} of its sagas are"
        return (
            f"{self.name} version {self.version} has changed while {count} open: {'; '.join(self.breaks)}. Give the"
            f" changed definition version {self.version + 1}, beside the old one or with upgrade_from({self.version})."
            f" If the change does these sagas no harm, say: saga-worker definitions accept {self.name}. Where that does"
            " not matter, as in development, set SAGA_WORKER_DEFINITION_CHANGES=warn."
        )


class Noted(Struct, frozen=True):
    """What was noted of a version; `was` is its fingerprint before, None: it is new."""

    name: str
    version: int
    fingerprint: str
    was: str | None


async def register(conn: Connection, structures: Sequence[Structure]) -> list[Changed]:
    """Note these, but for those that would break open sagas: they are handed back, and stay as they were noted.

    In the transaction that has registered the routes: their lock lets one worker at a time.
    """
    stored = await _stored(conn, structures)
    refused: list[Changed] = []
    for now in structures:
        name, version = now["name"], now["version"]
        known = stored.get((name, version))
        if known is not None and known[0] != fingerprint(now) and (harm := breaks(from_json(known[1]), now)):
            count = await conn.fetchval("definition_open", name, version, COUNTED)
            if count:
                refused.append(Changed(name, version, harm, count))
    kept = {(each.name, each.version) for each in refused}
    await _note(conn, [now for now in structures if (now["name"], now["version"]) not in kept], stored)
    return refused


async def accept(conn: Connection, structures: Sequence[Structure]) -> list[Noted]:
    """Note these, whatever they break; those that are not what was noted before."""
    await conn.execute("routes_lock")
    return await _note(conn, structures, await _stored(conn, structures))


_Stored = dict[tuple[str, int], tuple[str, str]]


async def _stored(conn: Connection, structures: Sequence[Structure]) -> _Stored:
    """Fingerprint and structure by name and version."""
    rows = await conn.fetch("definition_read", sorted({now["name"] for now in structures}))
    return {(row["name"], row["version"]): (row["fingerprint"], row["structure"]) for row in rows}


async def _note(conn: Connection, structures: Sequence[Structure], stored: _Stored) -> list[Noted]:
    noted: list[Noted] = []
    rows: list[tuple[Any, ...]] = []
    for now in structures:
        known = stored.get((now["name"], now["version"]))
        mark = fingerprint(now)
        if known is None or known[0] != mark:
            rows.append((now["name"], now["version"], mark, to_json(now).decode()))
            noted.append(Noted(now["name"], now["version"], mark, known[0] if known is not None else None))
    if rows:
        await conn.execute("definition_note", *zip(*rows, strict=True))
    return noted
