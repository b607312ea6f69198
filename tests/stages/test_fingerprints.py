"""Structures of definitions as rows: a change that would break open sagas is not taken in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from pydantic_core import from_json, to_json

from saga_worker import fingerprints
from saga_worker.fingerprints import Changed, Noted
from saga_worker.loading import load
from saga_worker.saga.structure import Structure, fingerprint, structure
from saga_worker.saga.transitions import Status
from saga_worker.sql.connection import Database
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_saga, on, progress

DEFINITIONS: Final = Path(__file__).parents[2] / "definitions"
CHECKOUT: Final = next(structure(saga) for saga in load(DEFINITIONS).sagas() if saga.name == "checkout")


def changed(**steps: Any) -> dict[str, Any]:
    """The structure with these steps otherwise; None: gone."""
    found: dict[str, Any] = from_json(to_json(CHECKOUT))
    for name, step in steps.items():
        if step is None:
            del found["steps"][name]
        else:
            found["steps"][name] = step
    return found


GONE: Final = changed(reserve=None)
HARMLESS: Final = changed() | {"handlers": {**changed()["handlers"], "more": {"fields": {}}}}


@pytest.fixture
async def opened(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=2) as opened:
        yield opened


async def register(database: Database, *brought: Structure) -> list[Changed]:
    async with database.transaction() as connection:
        return await fingerprints.register(connection, brought)


async def noted(database: Database) -> dict[int, str]:
    async with database.autocommit() as connection:
        rows = await connection.raw.fetch("SELECT version, fingerprint FROM saga_worker.definition")
    return {row["version"]: row["fingerprint"] for row in rows}


async def a_saga(database_url: str, **fields: Any) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await add_saga(connection, "4711", progress(), **fields)
    finally:
        await connection.close()


async def test_a_version_is_noted_as_it_is_brought_first_and_while_none_of_its_sagas_is_open(
    opened: Database, database_url: str
) -> None:
    """features: 80, 158"""
    assert await register(opened, CHECKOUT) == []
    assert await register(opened, GONE) == []
    assert await noted(opened) == {1: fingerprint(GONE)}

    await a_saga(database_url, status=Status.COMPLETED)
    assert await register(opened, CHECKOUT) == []
    assert await noted(opened) == {1: fingerprint(CHECKOUT)}


@pytest.mark.parametrize("stands", [{}, {"status": Status.COMPENSATED, "unsettled": 1}])
async def test_a_change_that_would_break_open_sagas_is_handed_back_as_long_as_it_is_brought(
    opened: Database, database_url: str, stands: dict[str, Any]
) -> None:
    """features: 80, 158"""
    found: Changed | None = None
    await register(opened, CHECKOUT)
    await a_saga(database_url, **stands)
    for _ in range(2):
        (found,) = await register(opened, GONE)
        assert found == Changed("checkout", 1, ("step reserve is gone",), 1)
    assert "checkout version 1 has changed while one of its sagas is open: step reserve is gone. Give" in str(found)

    assert await noted(opened) == {1: fingerprint(CHECKOUT)}
    assert await register(opened, CHECKOUT) == []


async def test_a_change_that_does_open_sagas_no_harm_is_noted(opened: Database, database_url: str) -> None:
    await register(opened, CHECKOUT)
    await a_saga(database_url)

    assert await register(opened, HARMLESS) == []
    assert await noted(opened) == {1: fingerprint(HARMLESS)}
    assert await register(opened, CHECKOUT) == []  # a worker of the release before starts again


async def test_versions_are_noted_beside_each_other(opened: Database, database_url: str) -> None:
    await register(opened, CHECKOUT)
    await a_saga(database_url)
    second = {**GONE, "version": 2}

    assert await register(opened, CHECKOUT, second) == []
    assert await noted(opened) == {1: fingerprint(CHECKOUT), 2: fingerprint(second)}


async def test_what_an_operator_accepts_is_noted_whatever_it_breaks(opened: Database, database_url: str) -> None:
    await register(opened, CHECKOUT)
    await a_saga(database_url)
    async with opened.transaction() as connection:
        assert await fingerprints.accept(connection, [GONE]) == [
            Noted("checkout", 1, fingerprint(GONE), fingerprint(CHECKOUT))
        ]
        assert await fingerprints.accept(connection, [GONE]) == []

    assert await register(opened, GONE) == []


def test_accept_notes_a_definition_and_who_said_so(run: Run, database: str) -> None:
    """features: 80"""

    async def before(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "INSERT INTO saga_worker.definition VALUES ('checkout', 1, 'before', $1)", to_json(GONE).decode()
        )

    on(database, before)
    ran = run(
        "definitions", "accept", "checkout", "--definitions", str(DEFINITIONS), "--why", "a name", "--actor", "ann"
    )
    again = run("definitions", "accept", "checkout", "--definitions", str(DEFINITIONS))
    unknown = run("definitions", "accept", "chekout", "--definitions", str(DEFINITIONS))

    mark = fingerprint(CHECKOUT)
    assert (ran.code, ran.out) == (0, f"checkout 1: fingerprint {mark}, before before\n")
    assert (again.code, again.out) == (0, "checkout is as it was noted; there is nothing to accept.\n")
    assert unknown.code == 2 and "There is no definition chekout here" in unknown.err
    marks = "before ->> 'fingerprint', after ->> 'fingerprint'"
    select = f"SELECT actor, action, target, reason, {marks} FROM saga_worker.audit"
    audit = on(database, lambda connection: connection.fetch(select))
    assert [tuple(row) for row in audit] == [("ann", "accept", "definition/checkout/1", "a name", "before", mark)]
