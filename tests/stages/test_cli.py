"""The command line as a whole: help, exit codes, sentences instead of tracebacks, and no password anywhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import click
import pytest

from saga_worker.admin import failure
from saga_worker.admin.cli import COMMANDS, cli
from saga_worker.sql import migrate
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_row, on

CANARY = "cAnArY-paSs"
HEAVY = (
    "sqlalchemy",
    "asyncpg",
    "aio_pika",
    "pydantic",
    "pydantic_settings",
    "alembic",
    "rich",
    "structlog",
    "uvicorn",
)


def _every_command(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            yield (*path, name)
            if isinstance(found, click.Group):
                yield from _every_command(found, *path, name)


@pytest.mark.parametrize("path", [(), *_every_command(cli)], ids=" ".join)
def test_help_is_there_with_an_example(run: Run, path: tuple[str, ...]) -> None:
    ran = run(*path, "--help")

    assert ran.code == 0
    assert "Example" in ran.out
    assert "saga-worker" in ran.out


@pytest.mark.parametrize("path", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_imports_no_driver(path: tuple[str, ...]) -> None:
    program = (
        "import sys; from saga_worker.admin.cli import main; code = main(sys.argv[1:]);"
        f" print('imported:', *[name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )

    done = subprocess.run([sys.executable, "-c", program, *path, "--help"], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout.splitlines()[-1].strip()) == (0, "imported:")


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["check", "--no-such-option"],
        ["inbox", "list", "--state", "lost"],
        ["inbox", "list", "--since", "yesterday"],
        ["inbox", "list", "--limit", "0"],
        ["inbox", "show", "1; DROP TABLE inbox"],
        ["inbox", "replay"],
        ["inbox", "replay", "1", "--all"],
        ["inbox", "replay", "1", "--reason", "bad_key"],
        ["inbox", "replay", "99999999999999999999"],
        ["saga", "show", "not-a-uuid"],
        ["saga", "retry"],
        ["saga", "retry", "--all-attention"],
        ["publish"],
        ["publish", "order_placed"],
        ["publish", "order_placed", "[]"],
        ["publish", "order_placed", '{"a":'],
        ["publish", "order\nplaced", "{}"],
        ["publish", "order_placed", "{}", "--id", "x" * 256],
        ["publish", "--file", "/no/such/file"],
        ["run", "--role", "juggler"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)

    assert (ran.code, ran.out) == (2, "")
    assert "Error: " in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [["check"], ["db", "upgrade"], ["inbox", "list"], ["saga", "list"], ["run"]])
def test_a_missing_url_is_named(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)

    assert (ran.code, ran.out) == (2, "")
    assert "SAGA_WORKER_DATABASE_URL is not set" in ran.err


DATABASE_COMMANDS = (
    ["check"],
    ["db", "check"],
    ["db", "upgrade"],
    ["inbox", "list"],
    ["inbox", "replay", "1"],
    ["saga", "list"],
)


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["plain", "debug"])
@pytest.mark.parametrize("arguments", DATABASE_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"mysql://app:{CANARY}@127.0.0.1/x", 2),
        (f"postgresql://app:{CANARY}@127.0.0.1:port/x", 2),
        (f"postgresql://app:{CANARY}@127.0.0.1:1/x", 1),
        (f"postgresql://app:{CANARY}@no-such-host.invalid/x", 1),
        (f"postgresql://app:{CANARY}@127.0.0.1:1/x?sslmode=perhaps", 2),
    ],
    ids=["scheme", "port", "nobody listens", "host", "option"],
)
def test_a_database_that_cannot_be_used_is_a_sentence_without_password(
    run: Run, monkeypatch: pytest.MonkeyPatch, url: str, code: int, arguments: list[str], debug: list[str]
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", url)

    ran = run(*debug, *arguments)

    assert (ran.code, ran.out) == (code, "")
    assert ran.err.splitlines()[-1].startswith("Error: ")
    assert ("Traceback" in ran.err) is bool(debug)
    assert CANARY not in ran.err


def test_a_refused_login_to_postgresql_is_exit_code_2(run: Run, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = urlsplit(database)
    monkeypatch.setenv(
        "SAGA_WORKER_DATABASE_URL", f"postgresql://nobody:{CANARY}@{parts.hostname}:{parts.port}{parts.path}"
    )

    ran = run("check")

    assert ran.code == 2
    assert "refused the login" in ran.err
    assert CANARY not in ran.err


def test_a_database_that_does_not_exist_is_exit_code_2(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database + "_and_no_more")

    ran = run("db", "upgrade")

    assert ran.code == 2
    assert "no such database" in ran.err


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://app:{canary}@{host}/", 2),
        ("amqp://app:{canary}@{host}:99999/", 2),
        ("amqp://app:{canary}@{host}:{port}/", 2),
        ("amqp://app:{canary}@{host}:1/", 1),
        ("amqp://app:{canary}@no-such-host.invalid/", 1),
    ],
    ids=["scheme", "port", "login", "nobody listens", "host"],
)
def test_a_broker_that_cannot_be_used_is_a_sentence_without_password(
    run: Run, amqp_url: str, monkeypatch: pytest.MonkeyPatch, url: str, code: int
) -> None:
    parts = urlsplit(amqp_url)
    filled = url.format(canary=CANARY, host=parts.hostname, port=parts.port or 5672)
    monkeypatch.setenv("SAGA_WORKER_AMQP_URL", filled)

    ran = run("--debug", "publish", "order_placed", "{}", "--wait", "0.5")

    assert (ran.code, ran.out) == (code, "")
    assert ran.err.splitlines()[-1].startswith("Error: ")
    assert CANARY not in ran.err


def test_a_variable_that_nothing_reads_is_named_and_does_no_harm(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_WORKER_NAMESPCE", CANARY)

    ran = run("db", "check")

    assert ran.code == 0
    assert "SAGA_WORKER_NAMESPCE is not a setting" in ran.err
    assert CANARY not in ran.err


def test_an_unexpected_error_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = f"postgresql://app:{CANARY}@db.example/shop"
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", secret)

    code = failure.report(RuntimeError(f"could not parse {secret}"), debug=True)

    said = capsys.readouterr().err
    assert (code, said.count("RuntimeError: could not parse")) == (1, 2)
    assert CANARY not in said


@pytest.mark.parametrize("arguments", [["check"], ["db", "upgrade"], ["inbox", "list"]], ids=" ".join)
def test_an_option_that_postgresql_does_not_know_is_named(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database + "?foo=bar")

    ran = run(*arguments)

    assert (ran.code, ran.out) == (2, "")
    assert "does not know foo, an option in the query of this URL" in ran.err


@pytest.mark.usefixtures("_logging_as_before")
def test_a_worker_names_the_server_that_fails(
    run: Run, database: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database + "_and_no_more")
    monkeypatch.setenv("SAGA_WORKER_AMQP_URL", amqp_url)

    ran = run("run", "--definitions", "definitions/checkout.py")

    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("Error: PostgreSQL at ")
    assert "no such database" in ran.err.splitlines()[-1]


def test_a_question_ends_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", "postgresql://app@127.0.0.1:1/x")

    assert run("check").err.endswith("is the port right?\n")


def test_a_reader_that_leaves_ends_a_command_quietly(database_url: str) -> None:
    async def fill(connection: asyncpg.Connection) -> None:
        for number in range(50):
            await add_row(connection, message_id=f"{number}-" + "x" * 200, key="4711")

    on(database_url, fill)
    command = [sys.executable, "-m", "saga_worker", "inbox", "list", "--limit", "1000"]
    environment = os.environ | {"SAGA_WORKER_DATABASE_URL": database_url}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    os.close(write)

    assert (done.returncode, done.stderr) == (141, b"")


def test_a_command_prints_no_bare_log_lines(namespace: str) -> None:
    servers = {"SAGA_WORKER_AMQP_URL": "amqp://guest@127.0.0.1:1/", "SAGA_WORKER_NAMESPACE": namespace}
    command = [sys.executable, "-m", "saga_worker", "publish", "order_placed", "{}", "--wait", "0.5"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | servers, timeout=60, check=False
    )  # fmt: skip

    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.partition(":")[0]) == (1, "Error")


def test_upgrade_says_what_it_did(run: Run, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", empty_database_url)

    created, again = run("db", "upgrade"), run("db", "upgrade")

    assert f"result: created at {migrate.head()}" in created.out
    assert f"result: up to date at {migrate.head()}" in again.out


def test_upgrade_makes_the_tables_and_changes_nothing_the_second_time(
    run: Run, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", empty_database_url)

    before = run("db", "check")
    codes = [run("db", "upgrade").code, run("db", "upgrade", "--json").code, run("db", "check").code]

    assert before.code == 1
    assert "saga-worker db upgrade" in before.err
    assert codes == [0, 0, 0]


def test_doctor_looks_at_both_servers(
    run: Run, database: str, amqp_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_WORKER_AMQP_URL", amqp_url)
    monkeypatch.setenv("SAGA_WORKER_NAMESPACE", namespace)

    ran = run("doctor", "--json")

    findings = {document["subject"]: document["verdict"] for document in ran.documents}
    assert findings["PostgreSQL version"] == findings["schema"] == findings["RabbitMQ"] == "ok"
    assert ran.code == int("fail" in findings.values())


def test_faults_lists_the_points(run: Run) -> None:
    from saga_worker.faults import POINTS

    assert run("faults").out.splitlines() == list(POINTS)


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    """`run` sets up logging for its process, which here is that of the tests."""
    root, package = logging.getLogger(), logging.getLogger("saga_worker")
    before = (root.handlers[:], root.level, package.level)
    yield
    root.handlers[:], root.level, package.level = before


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "definitions"),
        ("import no_such_module", "no_such_module"),
        ("from saga_worker import Saga\nsaga = Saga(", "orders.py"),
    ],
    ids=["absent", "cannot be imported", "cannot be read"],
)
def test_definitions_that_cannot_be_loaded_are_exit_code_2(
    run: Run,
    database: str,
    amqp_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    words: str,
) -> None:
    monkeypatch.setenv("SAGA_WORKER_AMQP_URL", amqp_url)
    if text is not None:
        (tmp_path / "definitions").mkdir()
        (tmp_path / "definitions" / "orders.py").write_text(text)

    ran = run("run", "--definitions", str(tmp_path / "definitions"))

    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.mark.usefixtures("_logging_as_before")
def test_a_worker_refuses_a_schema_that_does_not_fit(
    run: Run, empty_database_url: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("SAGA_WORKER_AMQP_URL", amqp_url)

    ran = run("run", "--definitions", "definitions/checkout.py")

    assert ran.code == 1
    assert "saga-worker db upgrade" in ran.err.splitlines()[-1]
