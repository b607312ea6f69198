"""`saga-worker inbox`: stored messages found, shown and replayed."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import RowState
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_row, audit, fetch, on


async def _messages(connection: asyncpg.Connection) -> None:
    await add_row(connection, message_id="m1", key="4711", state=RowState.DONE, received=timedelta(days=3))
    await add_row(connection, message_id="m2", key="4711", state=RowState.DEAD, reason="handler_error", error="boom")
    await add_row(connection, message_id="m3", key="4712", state=RowState.DEAD, reason="schema_mismatch", type="paid")
    await add_row(connection, message_id="m4", key="4711", consumer="billing")
    await add_row(connection, message_id="m5\x1b[2J\n", key="4713\u202e", state=RowState.PARKED, reason="no_saga")


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], ["m5\x1b[2J\n", "m4", "m3", "m2", "m1"]),
        (["--state", "dead"], ["m3", "m2"]),
        (["--state", "done"], ["m1"]),
        (["--reason", "handler_error"], ["m2"]),
        (["--type", "paid"], ["m3"]),
        (["--saga-key", "4711"], ["m4", "m2", "m1"]),
        (["--definition", "billing"], ["m4"]),
        (["--since", "1d", "--saga-key", "4711"], ["m4", "m2"]),
        (["--since", "2000-01-01", "--state", "dead", "--type", "paid"], ["m3"]),
        (["--type", "'; DROP TABLE saga_worker.inbox; --"], []),
        (["--limit", "2"], ["m5\x1b[2J\n", "m4"]),
    ],
    ids=" ".join,
)
def test_messages_are_listed_by_filter_newest_first(
    run: Run, database: str, filters: list[str], ids: list[str]
) -> None:
    """features: 92"""
    on(database, _messages)

    ran = run("inbox", "list", *filters, "--json")

    assert ran.code == 0
    assert [document["message_id"] for document in ran.documents] == ids


def test_a_reason_that_nothing_writes_is_warned_of(run: Run, database: str) -> None:
    on(database, _messages)

    wrong = run("inbox", "list", "--reason", "handler_eror")
    replay = run("inbox", "replay", "--reason", "handler_eror", "--dry-run")
    empty = run("inbox", "list", "--reason", "bad_key")
    foreign = run("inbox", "list", "--reason", "no_saga")

    assert (wrong.code, replay.code) == (0, 0)
    assert "handler_eror is no reason" in wrong.err and "handler_error" in wrong.err
    assert "handler_eror is no reason" in replay.err
    assert (empty.err, foreign.err) == ("", "")


def test_ids_and_filters_exclude_each_other(run: Run) -> None:
    assert "exclude each other" in run("inbox", "replay", "155", "--reason", "bad_key").err


def test_a_listing_cannot_act_on_the_terminal(run: Run, database: str) -> None:
    on(database, _messages)

    ran = run("inbox", "list", "--state", "parked")

    header, row = ran.out.splitlines()
    assert header.split("\t")[0] == "id"
    assert "m5\\x1b[2J\\x0a" in row and "4713\\u202e" in row
    assert all(character in "\t\n" or character >= " " for character in ran.out)


def test_a_message_is_shown_whole(run: Run, database: str) -> None:
    row_id = on(
        database,
        lambda connection: add_row(
            connection, message_id="m", key="4711", state=RowState.DEAD, reason="handler_error", error="boom",
            body=b'{"cents": 5}', props=b'{"app_id": "shop"}', attempts=5,
        ),
    )  # fmt: skip

    (document,) = run("inbox", "show", str(row_id), "--json").documents

    assert (document["body"], document["properties"], document["role"]) == ({"cents": 5}, {"app_id": "shop"}, "event")
    assert (document["error"], document["attempts"], document["state"]) == ("boom", 5, "dead")


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b"\xff\x00", "hex:ff00"), (b"not json", "not json"), (b"[" * 100_000, "[" * 100_000), (b"", "")],
)
def test_a_body_that_cannot_be_decoded_is_still_shown(run: Run, database: str, body: bytes, shown: str) -> None:
    row_id = on(
        database,
        lambda c: add_row(c, message_id="m", state=RowState.DEAD, reason="invalid_json", body=body, props=b"\xff"),
    )

    (document,) = run("inbox", "show", str(row_id), "--json").documents

    assert (document["body"], document["properties"]) == (shown, "hex:ff")


def test_a_message_that_is_not_there_is_a_failure(run: Run, database: str) -> None:
    ran = run("inbox", "show", "4711")

    assert (ran.code, ran.out) == (1, "")
    assert "no inbox row 4711" in ran.err


def _states(database: str) -> dict[str, int]:
    return {
        row["message_id"]: row["state"] for row in fetch(database, "SELECT message_id, state FROM saga_worker.inbox")
    }


def test_a_dead_letter_is_replayed_once_and_audited(run: Run, database: str) -> None:
    on(database, _messages)
    (row_id,) = (row["id"] for row in fetch(database, "SELECT id FROM saga_worker.inbox WHERE message_id = 'm2'"))

    first = run("inbox", "replay", str(row_id), "--why", "mended", "--actor", "ann", "--json")
    second = run("inbox", "replay", str(row_id), "--json")

    assert (first.code, first.documents[0]["replayed"]) == (0, 1)
    assert (second.code, second.documents[0]["replayed"], second.documents[0]["not_dead"]) == (1, 0, 1)
    assert _states(database)["m2"] == RowState.READY
    assert [(row["actor"], row["action"], row["target"], row["reason"]) for row in audit(database)] == [
        ("ann", "replay", f"inbox/{row_id}", "mended")
    ]


def test_a_dry_run_counts_and_changes_nothing(run: Run, database: str) -> None:
    on(database, _messages)

    ran = run("inbox", "replay", "--since", "1h", "--dry-run", "--json")

    assert (ran.code, ran.documents) == (0, [{"would_replay": 2}])
    assert _states(database)["m2"] == RowState.DEAD


def test_replaying_by_filter_needs_a_yes_when_nobody_can_be_asked(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115  # closed with the test
    on(database, _messages)

    refused = run("inbox", "replay", "--reason", "schema_mismatch")
    sys.stdin.close()
    done = run("inbox", "replay", "--reason", "schema_mismatch", "--yes")

    assert refused.code == 2 and "1 dead letters match" in refused.err
    assert done.code == 0
    assert (_states(database)["m2"], _states(database)["m3"]) == (RowState.DEAD, RowState.READY)


def test_more_dead_letters_than_a_page_are_replayed(run: Run, database: str) -> None:
    async def many(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "INSERT INTO saga_worker.inbox (dedup, body_sha, consumer, source, message_id, type, role, ref, state,"
            " reason, first_failed_at, last_failed_at, props, body)"
            " SELECT gen_random_uuid(), '', 'checkout', 's', n::text, 't', 0, gen_random_uuid(), 5,"
            " 'handler_error', now(), now(), '', '{}' FROM generate_series(1, 1201) n"
        )

    on(database, many)
    ids = [str(row["id"]) for row in fetch(database, "SELECT id FROM saga_worker.inbox ORDER BY id LIMIT 600")]

    by_id = run("inbox", "replay", *ids, "--json").documents[0]
    by_filter = run("inbox", "replay", "--all", "--yes", "--json").documents[0]

    assert (by_id["replayed"], by_filter["replayed"]) == (600, 601)
    assert len(audit(database)) == 1201


def test_a_row_without_saga_is_routed_by_the_routes_of_now(run: Run, database: str) -> None:
    async def prepare(connection: asyncpg.Connection) -> None:
        dead: dict[str, Any] = {"state": RowState.DEAD, "type": "order_placed"}
        await add_row(connection, message_id="unknown", consumer="", reason="unknown_type", **dead)
        await add_row(connection, message_id="bad key", reason="bad_key", body=b'{"order_id": ""}', **dead)
        await add_row(
            connection, message_id="no route", consumer="", reason="unknown_type", state=RowState.DEAD, type="x"
        )
        for definition in ("checkout", "billing"):
            await connection.execute(
                "INSERT INTO saga_worker.route VALUES ($1, 1, 'order_placed', 0, '/order_id', 'text', 1)", definition
            )

    on(database, prepare)

    ran = run("inbox", "replay", "--all", "--yes", "--json")

    rows = fetch(database, "SELECT consumer, ref, saga_key FROM saga_worker.inbox WHERE state = 0 ORDER BY consumer")
    assert (ran.code, ran.documents[0]["replayed"], ran.documents[0]["without_saga"]) == (1, 1, 2)
    assert [(row["consumer"], row["saga_key"], row["ref"]) for row in rows] == [
        (definition, "4711", ref_of(definition, "4711")) for definition in ("billing", "checkout")
    ]
    assert "no definition takes its type" in ran.err


def test_dead_letters_are_discarded_for_good_and_their_sagas_looked_at_again(run: Run, database: str) -> None:
    on(database, _messages)
    (row_id,) = (row["id"] for row in fetch(database, "SELECT id FROM saga_worker.inbox WHERE message_id = 'm2'"))

    unexplained = run("inbox", "discard", str(row_id))
    dry = run("inbox", "discard", "--reason", "handler_error", "--dry-run", "--why", "by hand", "--json")
    first = run("inbox", "discard", str(row_id), "--why", "by hand", "--actor", "ann", "--json")
    second = run("inbox", "discard", str(row_id), "--why", "by hand", "--json")

    assert unexplained.code == 2
    assert dry.documents == [{"would_discard": 1}]
    assert (first.code, first.documents) == (0, [{"discarded": 1, "not_dead": 0}])
    assert (second.code, second.documents) == (1, [{"discarded": 0, "not_dead": 1}])
    assert _states(database)["m2"] == RowState.IGNORED
    (recheck,) = fetch(database, "SELECT type, ref FROM saga_worker.inbox WHERE role = 2")
    (gone,) = fetch(database, "SELECT reason, ref FROM saga_worker.inbox WHERE id = $1", row_id)
    assert (recheck["type"], recheck["ref"], gone["reason"]) == ("recheck", gone["ref"], "discarded")
    assert audit(database) == [{"actor": "ann", "action": "discard", "target": f"inbox/{row_id}", "reason": "by hand"}]


def test_discarding_by_filter_asks_first(run: Run, database: str) -> None:
    on(database, _messages)

    asked = run("inbox", "discard", "--all", "--why", "a test system")
    done = run("inbox", "discard", "--all", "--yes", "--why", "a test system", "--json")

    assert asked.code == 2 and "say --yes to discard them" in asked.err
    assert done.documents[0]["discarded"] > 0
    assert RowState.DEAD not in _states(database).values()
