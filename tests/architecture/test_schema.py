"""The migrated schema is the one of the models, of the enums, and of the views that everybody may rely on."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from saga_worker.saga.routing import KeyKind
from saga_worker.saga.rows import Role, RowState
from saga_worker.saga.transitions import FINAL, Status
from saga_worker.sql import schema
from saga_worker.sql.migrate import VERSION_TABLE
from tests.stages.stored_rows import ORDER

# What design and contract promise, in this order; a change breaks whoever reads the views.
VIEWS = {
    "v_saga": "saga_id ref name definition_version key status reason attention unsettled state revision started_at"
    " updated_at finished_at parent_id trace_id",
    "v_journal": "saga_id revision definition_version input_kind consumer source message_id decided_at from_status"
    " to_status sent_ids timer_ids epoch worker committed_at",
    "v_inbox": "id consumer source message_id type saga_key saga_id state reason attempts crashes received_at next_at"
    " expires_at trace_id",
    "v_outbox": "message_id saga_id seq destination type owner attempts next_at last_error",
    "v_timer": "saga_id name epoch due_at",
    "v_dead": "id consumer source message_id type saga_key reason error attempts first_failed_at last_failed_at",
    "v_activity": "activity_id saga_id seq undoes name step state epoch attempts worker next_at timeout_at last_error",
    "v_audit": "at actor action target reason before after",
}


async def fetch(url: str, sql: str, *args: object) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(record) for record in await connection.fetch(sql, *args)]
    finally:
        await connection.close()


async def test_the_migrated_schema_is_the_one_of_the_models(database_url: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        def ours(name: str | None, kind: str, _: object) -> bool:
            return name == "saga_worker" if kind == "schema" else name != VERSION_TABLE

        options = {"include_schemas": True, "include_name": ours, "compare_type": True, "compare_server_default": True}
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), schema.tables)
        return found

    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()

    assert found == []


async def test_constraints_and_predicates_of_indexes_are_those_of_the_models(
    database_url: str, empty_database_url: str
) -> None:
    """What the comparison above leaves out: both are made and printed by PostgreSQL itself."""
    engine = create_async_engine(empty_database_url.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SCHEMA saga_worker")
        await connection.run_sync(schema.tables.create_all)
    await engine.dispose()

    constraints = """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'saga_worker'::regnamespace AND conrelid::regclass::text NOT LIKE '%schema_version'
        UNION ALL
        SELECT tablename, indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'saga_worker' AND tablename <> 'schema_version' ORDER BY 1, 2, 3"""
    assert await fetch(database_url, constraints) == await fetch(empty_database_url, constraints)


async def test_statuses_and_states_of_the_constraints_are_those_of_the_enums(database_url: str) -> None:
    """features: 117"""
    definitions = dict(
        await fetch(database_url, "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'")
    )

    assert _range(definitions["saga_status"]) == _members(Status)
    assert _range(definitions["inbox_state"]) == _members(RowState)
    assert _range(definitions["inbox_role"]) == _members(Role)
    assert _range(definitions["route_role"]) == _members(Role) - {Role.ACTIVITY}  # routes are for what arrives
    assert _numbers(definitions["saga_finished"]) == {int(status) for status in FINAL}
    assert _numbers(definitions["inbox_settled"]) == {int(RowState.DONE), int(RowState.IGNORED)}
    assert set(re.findall(r"'(\w+)'::text", definitions["route_key_kind"])) == {kind.value for kind in KeyKind}


async def test_the_views_say_the_words_of_the_enums(database_url: str) -> None:
    states = [(await fetch(database_url, "SELECT saga_worker.state_word($1::smallint)", s))[0][0] for s in RowState]
    statuses = [(await fetch(database_url, "SELECT saga_worker.status_word($1::smallint)", s))[0][0] for s in Status]

    assert states == [state.label for state in RowState]
    assert statuses == [status.label for status in Status]
    assert await fetch(database_url, "SELECT saga_worker.status_word(NULL)") == [(None,)]


@pytest.mark.parametrize("view", VIEWS)
async def test_a_view_has_exactly_the_columns_that_were_promised(database_url: str, view: str) -> None:
    """features: 64, 115"""
    columns = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'saga_worker'"
    found = await fetch(database_url, f"{columns} AND table_name = $1 ORDER BY ordinal_position", view)

    assert [name for (name,) in found] == VIEWS[view].split()
    assert [column.name for column in schema.views.tables[f"saga_worker.{view}"].columns] == VIEWS[view].split()


async def test_there_is_no_view_beside_the_promised_ones(database_url: str) -> None:
    found = await fetch(database_url, "SELECT viewname FROM pg_views WHERE schemaname = 'saga_worker'")

    assert {name for (name,) in found} == VIEWS.keys()


async def test_a_state_that_jsonb_cannot_hold_does_not_hide_the_other_sagas(database_url: str) -> None:
    columns = "saga_id, definition, definition_version, key, status, revision, seq, unsettled, state, progress"
    sagas = f"""INSERT INTO saga_worker.saga ({columns}, started_at, updated_at)
        SELECT gen_random_uuid(), 'checkout', 1, n::text, 0, 1, 0, 0, s, '{{}}', now(), now()
        FROM unnest($1::bytea[]) WITH ORDINALITY AS u(s, n)"""
    unfit = [b'{"n":"\\u0000"}', b"\xff", b"{", b'{"n":' + b"9" * 140_000 + b"}", b"[" * 30_000 + b"]" * 30_000]
    await fetch(database_url, sagas, [b'{"n":1}', *unfit])

    words = await fetch(database_url, "SELECT state FROM saga_worker.v_saga ORDER BY key")
    assert words == [('{"n": 1}',)] + [(None,)] * len(unfit)


async def test_no_index_of_sagas_names_a_column_that_every_step_changes(database_url: str) -> None:
    """Else no update of a saga is a HOT one."""
    indexes = await fetch(database_url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'saga'")

    changing = ("status", "revision", "seq", "updated_at", "progress", "reason")
    assert not [definition for (definition,) in indexes for column in changing if column in definition]


async def test_hot_tables_leave_room_for_updates_and_are_vacuumed_often(database_url: str) -> None:
    options = dict(await fetch(database_url, "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r'"))

    assert {"fillfactor=70", "autovacuum_vacuum_cost_delay=0"} <= set(options["saga"])
    assert {"fillfactor=50", "autovacuum_vacuum_scale_factor=0.01"} <= set(options["outbox"])
    assert "autovacuum_vacuum_scale_factor=0.01" in options["inbox"]


async def test_only_what_a_crash_of_the_database_may_forget_is_unlogged(database_url: str) -> None:
    unlogged = await fetch(
        database_url,
        "SELECT relname FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"
        " AND relnamespace = 'saga_worker'::regnamespace",
    )

    assert unlogged == [("intent",)]


async def test_a_message_id_is_written_as_the_core_writes_it(database_url: str) -> None:
    from saga_worker.saga.routing import command_id

    found = await fetch(database_url, "SELECT saga_worker.command_id($1, 12)", ORDER)
    assert found == [(command_id(ORDER, 12),)]


def _range(definition: str) -> set[int]:
    low, high = sorted(_numbers(definition))
    return set(range(low, high + 1))


def _numbers(definition: str) -> set[int]:
    return {int(number) for number in re.findall(r"\b\d+\b", definition)}


def _members(enum: type[Status] | type[RowState] | type[Role]) -> set[int]:
    return {int(member) for member in enum}
