"""Every statement is prepared on a migrated schema; the hot ones use the index they name, on tables of some size.

Plans are generic and made under the settings of our transactions: what a long-lived worker runs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from typing import Any

import pytest

from saga_worker.sql import statements
from saga_worker.sql.connection import Connection, Database
from saga_worker.sql.migrate import upgrade

LARGE = frozenset({"saga", "inbox", "wake", "outbox", "journal", "tombstone", "activity", "child"})

# Statement -> the indexes it has to use. No large table may be read whole, by a scan or through an index.
HOT = {
    "lock_sagas": {"saga_ref_key"},
    "existing_refs": {"saga_ref_key"},
    "insert_sagas": set(),
    "update_sagas": {"saga_pkey"},
    "insert_journal": set(),
    "insert_inbox": set(),
    "read_twins": {"inbox_dedup_key"},
    "claim_refs": {"inbox_ready"},
    "read_backlog": {"inbox_ready", "inbox_parked", "inbox_held", "inbox_line"},
    "settle_rows": {"inbox_pkey"},
    "expired_parked": {"inbox_park_exp"},
    "expire_unrouted": {"inbox_park_exp", "inbox_pkey"},
    "lock_unrouted": {"inbox_parked"},
    "lock_absent": {"saga_ref_key"},
    "hold_absent": {"inbox_ready"},
    "free_absent": {"inbox_absent", "saga_ref_key"},
    "retain_inbox": {"inbox_pkey"},
    "lock_old_sagas": {"saga_finished_at", "child_ref"},
    "child_insert": set(),
    "child_read": {"child_pkey"},
    "purge_sagas": {
        "saga_pkey",
        "outbox_pkey",
        "inbox_ready",
        "inbox_parked",
        "inbox_held",
        "journal_pkey",
        "wake_pkey",
        "activity_pkey",
        "child_pkey",
    },
    "activity_begin": set(),
    "activity_insert": {"activity_pkey"},
    "activity_claim": {"activity_ready", "activity_pkey"},
    "activity_finish": {"activity_pkey"},
    "activity_give_up": {"activity_pkey"},
    "activity_retry": {"activity_pkey"},
    "activity_late": {"activity_pkey"},
    "activity_cancel": {"activity_pkey"},
    "activity_ended": {"activity_pkey"},
    "activity_next": {"activity_ready"},
    "retain_tombstones": {"tombstone_purged_at", "inbox_held", "tombstone_pkey"},
    "outbox_append": set(),
    "outbox_foreign": {"outbox_pkey"},
    "outbox_unsent": {"outbox_pkey"},
    "outbox_delete": {"outbox_pkey"},
    "outbox_mine": {"outbox_pkey"},
    "outbox_take_over": {"outbox_pkey"},
    "outbox_release": {"outbox_pkey"},
    "outbox_postpone": {"outbox_pkey"},
    "wake_due": {"wake_due"},
    "wake_due_of": {"wake_due", "saga_ref_key"},
    "wake_clear": {"wake_pkey"},
    "wake_push_back": {"wake_pkey"},
    "mark_suspects": {"inbox_pkey"},
    "accuse_rows": {"inbox_pkey"},
    "worker_heartbeat": {"worker_pkey"},
    "routes_revision": {"route_rev"},
}

# The outbox is small by design: no index by owner, which every insert would pay for. Dead and held rows are few.
READ_WHOLE = {
    "accuse_rows": {"intent_pkey"},  # some rows for each worker
    "outbox_take_over": {"outbox_pkey"},
    "outbox_release": {"outbox_pkey"},
    "free_absent": {"inbox_absent"},
    "routes_revision": {"route_rev"},  # its last entry only
    "activity_next": {"activity_ready"},  # its first entry only
}

# Of tables that fill up once and stay full: a plan made while they were empty lasts until the first ANALYZE.
ONCE_EMPTY = frozenset({
    "expire_unrouted", "free_absent", "lock_unrouted", "mark_suspects", "purge_sagas", "read_backlog",
    "retain_tombstones",
})  # fmt: skip

FILL = """
INSERT INTO saga_worker.saga
SELECT gen_random_uuid(), md5(n::text)::uuid, 'checkout', 1, n::text, CASE WHEN n % 10 = 0 THEN 0 ELSE 3 END, 3, 2, 0,
       CASE WHEN n % 1000 = 0 THEN 'dead_letter' END, NULL, '{}', '{}', now() - interval '30 days', now(),
       CASE WHEN n % 10 = 0 THEN NULL ELSE now() - n * interval '1 minute' END
FROM generate_series(1, 20000) AS n;
INSERT INTO saga_worker.inbox (dedup, body_sha, consumer, source, message_id, type, role, ref, saga_key, state, reason,
                               settled_at, expires_at, props, body)
SELECT md5('m' || n)::uuid, '', 'checkout', 'shop', n::text, 'order_placed', 0,
       CASE WHEN n % 977 = 0 AND n % 20 = 1 THEN NULL ELSE md5((n % 20000)::text)::uuid END, n::text,
       CASE n % 20 WHEN 0 THEN 0 WHEN 1 THEN 1 ELSE 3 END, CASE n % 20 WHEN 1 THEN 'unknown_saga' END,
       CASE WHEN n % 20 > 1 THEN now() - interval '20 days' END,
       CASE n % 20 WHEN 1 THEN now() + n * interval '1 second' END, '{}', convert_to(repeat('x', 300), 'UTF8')
FROM generate_series(1, 40000) AS n;
UPDATE saga_worker.inbox SET state = 5, reason = 'handler_error', settled_at = NULL WHERE id % 500 = 3;
UPDATE saga_worker.inbox SET state = 2, reason = 'paused', settled_at = NULL WHERE id % 500 = 4;
INSERT INTO saga_worker.wake SELECT ref, now() + interval '1 hour' FROM saga_worker.saga;
INSERT INTO saga_worker.outbox
SELECT ref, 1, n % 5, 'inventory', 'reserve_stock', 'saga.commands', 'inventory.reserve_stock', true, 0, NULL, NULL,
       '{}', '{}'
FROM (SELECT ref, row_number() OVER () AS n FROM saga_worker.saga) AS s WHERE n % 4 = 0;
INSERT INTO saga_worker.journal
SELECT saga_id, r, 1, 'event', 'checkout', 'shop', 'm', 1, now(), 0, 0, '{}', '{}', r - 1, 1, ref
FROM saga_worker.saga CROSS JOIN generate_series(1, 3) AS r;
INSERT INTO saga_worker.tombstone SELECT gen_random_uuid(), now() - n * interval '1 minute'
FROM generate_series(1, 20000) AS n;
INSERT INTO saga_worker.activity
SELECT ref, 1, 1, NULL, 'checkout', 1, n::text, 'price', n % 2, 1, 1, false, 1, now(), now(), 10, NULL, '{}'
FROM (SELECT ref, row_number() OVER () AS n FROM saga_worker.saga) AS s;
INSERT INTO saga_worker.child
SELECT ref, 1, 0, gen_random_uuid(), 'booking', n::text, NULL
FROM (SELECT ref, row_number() OVER () AS n FROM saga_worker.saga) AS s;
INSERT INTO saga_worker.worker (lease_until, definitions, host, pid)
SELECT now(), '{checkout/1}', 'host', n FROM generate_series(1, 5) AS n;
ANALYZE;
"""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, max_size=1) as opened:
        yield opened


@pytest.mark.parametrize("schema", ["saga_worker", "other_name"])
async def test_every_statement_can_be_prepared_whatever_the_schema_is_called(
    empty_database_url: str, schema: str
) -> None:
    await upgrade(empty_database_url, schema=schema)
    refused = {}
    async with Database(empty_database_url, schema, max_size=1) as database, database.autocommit() as conn:
        for name, text in statements(schema).items():
            try:
                await conn.raw.prepare(text)
            except Exception as error:
                refused[name] = str(error)

    assert refused == {}


def test_every_statement_is_one_file_that_says_what_it_relies_on() -> None:
    silent = [entry.name for entry in _files() if not entry.read_text(encoding="utf-8").startswith("-- ")]

    assert silent == []


def test_no_statement_selects_all_columns_of_a_table() -> None:
    """A column that a later release adds must not change what an older one reads."""
    greedy = [name for name, text in statements("saga_worker").items() if "SELECT * FROM saga_worker" in _flat(text)]

    assert greedy == []


async def test_hot_statements_use_their_index_and_scan_no_large_table(database: Database) -> None:
    wrong = {}
    async with database.autocommit() as conn:
        await conn.raw.execute(FILL)
    async with database.transaction() as conn:
        await conn.raw.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for name, wanted in HOT.items():
            plan = await generic_plan(conn, name)
            missing = wanted - indexes(plan)
            whole = read_whole(plan) - READ_WHOLE.get(name, set())
            if missing or whole:
                wrong[name] = f"does not use {missing}, reads {whole} whole, uses {indexes(plan)}"

    assert not wrong, "\n".join(f"{name} {why}" for name, why in wrong.items())


async def test_no_plan_that_was_made_for_an_empty_table_reads_a_grown_one_whole(database: Database) -> None:
    """A table that was empty when it was vacuumed is thought to hold one row until it is analyzed again.

    The outbox is empty again and again. Then walking its index from end to end looks as cheap as looking up a key, and
    while a snapshot is held open elsewhere, a DELETE of confirmed rows took more than 15 s.
    """
    wrong = {}
    async with database.autocommit() as conn:
        await conn.raw.execute(FILL)
        await conn.raw.execute(f"TRUNCATE {', '.join(f'saga_worker.{table}' for table in LARGE)}")
        await conn.raw.execute("VACUUM ANALYZE")
    async with database.transaction() as conn:
        for name in HOT.keys() - ONCE_EMPTY:
            whole = read_whole(await generic_plan(conn, name)) - READ_WHOLE.get(name, set())
            if whole:
                wrong[name] = f"reads {whole} whole"

    assert not wrong, "\n".join(f"{name} {why}" for name, why in wrong.items())


@pytest.mark.parametrize(
    ("statement", "index"),
    [("claim_refs", "inbox_ready"), ("wake_due", "wake_due"), ("read_backlog", "inbox_parked")],
)
async def test_the_look_at_plans_notices_a_missing_index(database: Database, statement: str, index: str) -> None:
    async with database.autocommit() as conn:
        await conn.raw.execute(FILL)
        await conn.raw.execute(f"DROP INDEX saga_worker.{index}")
    async with database.transaction() as conn:
        await conn.raw.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        plan = await generic_plan(conn, statement)

        assert index not in indexes(plan)
        assert read_whole(plan)


async def generic_plan(conn: Connection, name: str) -> dict[str, Any]:
    """The plan that is made without looking at the parameters."""
    await conn.raw.execute(f'PREPARE "{name}" AS {statements(conn.schema)[name]}')
    count = await conn.raw.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1", name
    )
    arguments = f"({', '.join(['NULL'] * count)})" if count else ""
    [document] = json.loads(str(await conn.raw.fetchval(f'EXPLAIN (FORMAT JSON) EXECUTE "{name}"{arguments}')))
    plan: dict[str, Any] = document["Plan"]
    return plan


def indexes(plan: dict[str, Any]) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


def read_whole(plan: dict[str, Any]) -> set[str]:
    """Large tables that are scanned, and indexes that are walked from end to end."""
    scanned = {n["Relation Name"] for n in nodes(plan) if n["Node Type"] == "Seq Scan"} & LARGE
    return scanned | {n["Index Name"] for n in nodes(plan) if "Index Name" in n and "Index Cond" not in n}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def _files() -> list[Any]:
    return [entry for entry in files("saga_worker.sql").iterdir() if entry.name.endswith(".sql")]


def _flat(text: str) -> str:
    return " ".join(text.split())
