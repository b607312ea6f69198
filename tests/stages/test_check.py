"""`saga-worker check`: a sound database passes, and each kind of damage breaks the promise it belongs to."""

from __future__ import annotations

import json

import asyncpg
import pytest

from saga_worker.admin.cli import main
from saga_worker.saga.instance import Fate
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import RowState
from saga_worker.saga.transitions import Status
from tests.stages.operator_rows import add_row, add_saga, command, execute, fetch, on, progress, soon, undo

ALL = {"I1", "I2", "I3", "I4", "I6", "I8", "I9", "CHECK"}


async def _sound(connection: asyncpg.Connection) -> None:
    """One saga of each kind, and messages in every state."""
    await add_saga(connection, "running", progress(command(1, "reserve", Fate.SENT), timers={"timeout:1": soon()}))
    await add_saga(connection, "waiting", progress(timers={"wait:review": soon()}), status=Status.WAITING, revisions=3)
    await add_saga(connection, "sending", progress(command(1, "reserve", Fate.SENT)))
    await connection.execute(
        "INSERT INTO saga_worker.outbox"
        " (ref, seq, owner, destination, type, exchange, routing_key, mandatory, props, body)"
        " VALUES ($1, 1, 1, 'inventory', 'reserve_it', '', '', true, '', '')",
        ref_of("checkout", "sending"),
    )
    await add_saga(connection, "behind", progress(), attention="dead_letter")
    await add_row(connection, message_id="dead", key="behind", state=RowState.DEAD, reason="handler_error", error="x")
    await add_row(connection, message_id="held", key="behind", state=RowState.HELD, reason="behind_dead")
    await add_saga(connection, "unread", progress())
    await add_row(connection, message_id="unread", key="unread")
    await add_saga(connection, "paused", progress(), status=Status.PAUSED)
    await add_saga(connection, "completed", progress(command(1, "reserve", Fate.DONE)), status=Status.COMPLETED)
    undone = progress(
        command(1, "reserve", Fate.DONE, undone=True), command(2, "log", Fate.DONE), undo(3, "reserve", Fate.DONE, 1)
    )
    await add_saga(connection, "compensated", undone, status=Status.COMPENSATED, revisions=2)
    unknown = progress(command(1, "reserve", Fate.UNKNOWN), timers={"watch:1": soon()})
    await add_saga(connection, "unsettled", unknown, status=Status.COMPENSATED, revisions=2, unsettled=1)
    tail = progress(command(1, "reserve", Fate.DONE), undo(2, "reserve", Fate.SENT, 1), timers={"timeout:2": soon()})
    await add_saga(connection, "tail", tail, status=Status.COMPENSATED, revisions=2)
    await add_row(connection, message_id="late", key="completed", state=RowState.IGNORED, reason="saga_finished")
    await add_row(connection, message_id="early", key="nobody", state=RowState.PARKED, reason="no_saga")


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database_url)
    on(database_url, _sound)
    return database_url


def _broken(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The promises that `check --json` reports as broken; its exit code has to agree."""
    code = main(["check", "--json"])
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {verdict["id"] for verdict in verdicts} == ALL
    broken = {verdict["id"] for verdict in verdicts if not verdict["holds"]}
    assert code == (1 if broken else 0)
    assert all(verdict["examples"] for verdict in verdicts if not verdict["holds"])
    return broken


def test_a_sound_database_passes(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _broken(capsys) == set()


def test_the_figures_add_up(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0

    lines = capsys.readouterr().out.splitlines()

    assert len(lines) == len(ALL)
    assert "received 20 = done 15 + ignored 1 + dead 1 + pending 3" in lines[0]


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        pytest.param(
            "ALTER TABLE saga_worker.inbox DROP CONSTRAINT inbox_reason;"
            "UPDATE saga_worker.inbox SET reason = NULL WHERE message_id = 'dead'",
            {"I1", "CHECK"}, id="a dead row without a reason",
        ),
        pytest.param(
            "UPDATE saga_worker.journal SET message_id = (SELECT message_id FROM saga_worker.journal ORDER BY saga_id"
            " LIMIT 1) WHERE revision = 3",
            {"I2"}, id="a message applied twice",
        ),
        pytest.param(
            "UPDATE saga_worker.inbox SET state = 3, reason = NULL, settled_at = now() WHERE message_id = 'unread'",
            {"I2", "I8"}, id="a row done without a journal row",
        ),
        pytest.param(
            "UPDATE saga_worker.inbox SET state = 0, settled_at = NULL WHERE id = (SELECT min(inbox_id) FROM"
            " saga_worker.journal)",
            {"I2"}, id="a row applied but ready again",
        ),
        pytest.param("UPDATE saga_worker.journal SET timers = '{}'", {"I3"}, id="a timer that no step armed"),
        pytest.param("UPDATE saga_worker.journal SET sent = '{}'", {"I4"}, id="a message that no step committed"),
        pytest.param("DELETE FROM saga_worker.journal WHERE revision = 2 AND to_status = 0", {"I6", "I2"}, id="a gap"),
        pytest.param("UPDATE saga_worker.saga SET revision = 7 WHERE key = 'waiting'", {"I6"}, id="a wrong revision"),
        pytest.param(
            "UPDATE saga_worker.journal SET from_status = 2 WHERE revision = 2 AND to_status = 0", {"I6"},
            id="a status out of nowhere",
        ),
        pytest.param("DELETE FROM saga_worker.wake", {"I8"}, id="timers that nobody will look at"),
        pytest.param("UPDATE saga_worker.wake SET due_at = due_at + interval '1 day'", {"I8"}, id="a late wake row"),
        pytest.param("DELETE FROM saga_worker.outbox", {"I8"}, id="a command without row or timer"),
        pytest.param("UPDATE saga_worker.saga SET attention = NULL WHERE key = 'behind';"
                     "DELETE FROM saga_worker.inbox WHERE message_id = 'held'", {"I8"}, id="blocked and not listed"),
        pytest.param("UPDATE saga_worker.saga SET unsettled = 0", {"I9"}, id="an unknown effect that nobody counts"),
        pytest.param(
            "UPDATE saga_worker.saga SET progress ="
            " convert_to(replace(convert_from(progress, 'UTF8'), 'true', 'false'), 'UTF8') WHERE key = 'compensated'",
            {"I9"}, id="a done step not undone",
        ),
        pytest.param(
            "UPDATE saga_worker.journal SET sent = '{2}' WHERE to_status = 4 AND sent = '{3}'", {"I9"},
            id="a forward command after compensation began",
        ),
        pytest.param(
            "UPDATE saga_worker.saga SET progress ="
            " convert_to(replace(convert_from(progress, 'UTF8'), 'sent', 'rejected'), 'UTF8') WHERE key = 'tail'",
            {"I9"}, id="a late success that nobody takes back",
        ),
        pytest.param("ALTER TABLE saga_worker.saga DROP CONSTRAINT saga_finished", {"CHECK"}, id="a constraint gone"),
    ],
)  # fmt: skip
def test_damage_breaks_its_promise(
    database: str, capsys: pytest.CaptureFixture[str], damage: str, broken: set[str]
) -> None:
    execute(database, damage)

    assert _broken(capsys) == broken


def test_a_broken_promise_is_told_with_an_example(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute(database, "DELETE FROM saga_worker.wake")

    assert main(["check"]) == 1

    out = capsys.readouterr().out
    assert "I8     BROKEN (2)" in out
    assert "(checkout running) is running" in out


AGED = "UPDATE saga_worker.inbox SET received_at = received_at - interval '61 s' WHERE message_id = 'unread'"
SAGA_AGED = "UPDATE saga_worker.saga SET updated_at = updated_at - interval '61 s' WHERE key = 'unread'"


def test_a_ready_row_that_nobody_applies_for_a_minute_breaks_i8_and_is_named(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(database, f"{AGED};{SAGA_AGED}")

    assert main(["check"]) == 1

    out = capsys.readouterr().out
    assert "I8     BROKEN (1)" in out
    assert "saga checkout unread: row" in out and "is ready for 61 s and nobody applies it" in out


@pytest.mark.parametrize(
    "excuse",
    [
        pytest.param("SELECT 1", id="its saga has moved within the minute"),
        pytest.param(
            f"{SAGA_AGED}; UPDATE saga_worker.inbox SET next_at = now() + interval '1 h' WHERE message_id = 'unread'",
            id="it is in back-off",
        ),
        pytest.param(
            f"{SAGA_AGED}; UPDATE saga_worker.inbox SET next_at = now() WHERE message_id = 'unread'",
            id="it is due only now",
        ),
        pytest.param(
            f"{SAGA_AGED}; UPDATE saga_worker.inbox SET ref = (SELECT ref FROM saga_worker.saga WHERE key = 'unread'),"
            " state = 0, reason = NULL, prio = 0, next_at = now() + interval '1 hour' WHERE message_id = 'early'",
            id="the row before it is in back-off",
        ),
    ],
)
def test_a_ready_row_with_an_excuse_keeps_i8(database: str, capsys: pytest.CaptureFixture[str], excuse: str) -> None:
    execute(database, f"{AGED};{excuse}")

    assert _broken(capsys) == set()


def test_a_letter_that_was_replayed_just_now_keeps_i8(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute(
        database,
        "UPDATE saga_worker.inbox SET received_at = received_at - interval '1 day';"
        " UPDATE saga_worker.saga SET updated_at = updated_at - interval '1 day' WHERE key = 'behind';",
    )
    row = fetch(database, "SELECT id FROM saga_worker.inbox WHERE message_id = 'dead'")[0]["id"]
    assert main(["inbox", "replay", str(row)]) == 0
    capsys.readouterr()

    assert _broken(capsys) == set()


def test_a_database_without_tables_is_a_sentence(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", empty_database_url)

    assert main(["check"]) == 1

    assert "saga-worker db upgrade" in capsys.readouterr().err
