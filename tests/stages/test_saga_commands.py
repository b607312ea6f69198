"""`saga-worker saga`: sagas found, explained and retried."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from saga_worker.saga.instance import Fate
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import RowState
from saga_worker.saga.transitions import Status
from saga_worker.testing import eventually
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_row, add_saga, audit, command, execute, fetch, on, progress, soon


async def _sagas(connection: asyncpg.Connection) -> None:
    sent = progress(command(1, "reserve", Fate.SENT), timers={"timeout:1": soon()}, active={"reserve": 1})
    await add_saga(connection, "4711", sent)
    await add_saga(connection, "4712", progress(), attention="no_answer: charge")
    await add_saga(connection, "4713", progress(), status=Status.COMPLETED, reason="shipped")


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        ([], {"4711", "4712", "4713"}),
        (["--status", "completed"], {"4713"}),
        (["--key", "4711"], {"4711"}),
        (["--attention"], {"4712"}),
        (["--definition", "billing"], set()),
        (["--since", "1h", "--status", "running"], {"4711", "4712"}),
    ],
    ids=lambda words: " ".join(sorted(words)),
)
def test_sagas_are_listed_by_filter(run: Run, database: str, filters: list[str], keys: set[str]) -> None:
    """features: 166"""
    on(database, _sagas)

    ran = run("saga", "list", *filters, "--json")

    assert ran.code == 0
    assert {document["key"] for document in ran.documents} == keys


def test_sagas_are_listed_page_by_page(run: Run, database: str) -> None:
    """features: 166"""

    async def five(connection: asyncpg.Connection) -> None:
        for key in "abcde":
            await add_saga(connection, key, progress())

    on(database, five)
    execute(database, "UPDATE saga_worker.saga SET updated_at = now() WHERE key IN ('b', 'c', 'd')")  # at one time
    listed = run("saga", "list", "--status", "running", "--json").documents

    pages: list[dict[str, Any]] = []
    after: list[str] = []
    while len(page := run("saga", "list", "--status", "running", "--limit", "2", "--json", *after).documents) == 2:
        pages += page
        after = ["--after", f"{page[-1]['updated_at']}/{page[-1]['saga_id']}"]

    assert [row["key"] for row in [*pages, *page]] == [row["key"] for row in listed]
    assert len(listed) == 5
    said = run("saga", "list", "--limit", "2").err
    assert f"the next page: --after {listed[1]['updated_at'].replace('Z', '+00:00')[:10]}" in said
    assert said.strip().endswith(listed[1]["saga_id"])
    assert run("saga", "list", "--after", "yesterday").code == 2


def test_show_answers_why_a_saga_does_not_move(run: Run, database: str) -> None:
    """features: 64"""
    saga_id = on(database, lambda c: add_saga(c, "0", progress()))
    on(database, _sagas)

    by_key = run("saga", "show", "checkout/4711")
    by_id = run("saga", "show", str(saga_id), "--json")

    first, second, *_ = by_key.out.splitlines()
    assert by_key.code == 0
    assert first.startswith("checkout 4711 is running at reserve")
    assert second.startswith("Waiting for inventory to answer command reserve_it of step reserve, first sent 2")
    assert "Journal" in by_key.out
    assert (by_id.documents[0]["saga"]["key"], by_id.documents[0]["saga"]["state"]) == ("0", {"order_id": "0"})


def test_show_of_a_saga_that_does_not_exist_says_what_is_stored_for_it(run: Run, database: str) -> None:
    on(database, lambda c: add_row(c, message_id="m", key="77", state=RowState.DEAD, reason="handler_error"))

    strays = run("saga", "show", "checkout/77")
    nothing = run("saga", "show", "checkout/78")

    assert strays.code == nothing.code == 1
    assert "1 messages are stored for it, 1 of them dead" in strays.err
    assert "no message waits for it" in nothing.err


def test_retry_stores_an_operator_row_and_an_audit_row(run: Run, database: str) -> None:
    on(database, _sagas)

    ran = run("saga", "retry", "checkout/4712", "--why", "provider is back", "--actor", "ann", "--json")

    (row,) = fetch(database, "SELECT * FROM saga_worker.inbox WHERE role = 2")
    assert (ran.code, ran.documents) == (0, [{"asked": 1, "applied": 0, "waiting": 1}])
    assert "No worker runs" in ran.err
    assert (row["type"], row["source"], row["prio"], row["state"]) == ("retry", "operator", 0, RowState.READY)
    assert (row["ref"], row["body"]) == (ref_of("checkout", "4712"), b'{"why":"provider is back"}')
    assert audit(database) == [
        {"actor": "ann", "action": "retry", "target": "saga/checkout/4712", "reason": "provider is back"}
    ]


def test_retry_of_all_takes_those_that_ask_for_somebody(run: Run, database: str) -> None:
    on(database, _sagas)

    ran = run("saga", "retry", "--all-attention", "--yes", "--json")

    assert ran.documents[0]["asked"] == 1
    assert [row["saga_key"] for row in fetch(database, "SELECT saga_key FROM saga_worker.inbox WHERE role = 2")] == [
        "4712"
    ]


@pytest.mark.parametrize(("state", "reason", "code"), [(3, None, 0), (4, "nothing_to_retry", 1)])
def test_retry_waits_until_a_worker_has_applied_it(
    run: Run, database: str, state: int, reason: str | None, code: int
) -> None:
    on(database, _sagas)
    execute(
        database,
        "INSERT INTO saga_worker.worker (lease_until, definitions, host, pid)"
        " VALUES (now() + interval '1 hour', '{}', 'h', 1)",
    )
    worker = threading.Thread(target=_settle_operator_row, args=(database, state, reason))
    worker.start()

    ran = run("saga", "retry", "checkout/4712", "--wait", "60", "--json")

    worker.join()
    assert ran.code == code
    assert ran.documents == [{"asked": 1, "applied": 0, "waiting": 0, **({reason: 1} if reason else {"applied": 1})}]


def test_a_retry_that_no_worker_applies_says_so_and_what_to_do(run: Run, database: str) -> None:
    on(database, _sagas)
    execute(
        database,
        "INSERT INTO saga_worker.worker (lease_until, definitions, host, pid)"
        " VALUES (now() + interval '1 hour', '{}', 'h', 1)",
    )

    ran = run("saga", "retry", "checkout/4712", "--wait", "0.2")

    assert ran.code == 1
    assert "No worker has applied 1 of the requests" in ran.err
    assert "do not ask again" in ran.err and "restart them" in ran.err


def _settle_operator_row(database: str, state: int, reason: str | None) -> None:
    """What a worker does with the row, as far as the command line can see."""

    async def work(connection: asyncpg.Connection) -> None:
        statement = "UPDATE saga_worker.inbox SET state = $1, reason = $2, settled_at = now() WHERE role = 2"

        async def one_is_settled() -> bool:
            return str(await connection.execute(statement, state, reason)) == "UPDATE 1"

        condition: Callable[[], bool | Awaitable[bool]] = one_is_settled
        await eventually(condition)

    on(database, work)


def test_one_unknown_saga_means_that_nothing_is_asked(run: Run, database: str) -> None:
    on(database, _sagas)

    ran = run("saga", "retry", "checkout/4712", "checkout/nobody")

    assert ran.code == 1
    assert "checkout/nobody" in ran.err
    assert fetch(database, "SELECT 1 FROM saga_worker.inbox WHERE role = 2") == []
