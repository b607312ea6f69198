"""Servers are found or started, isolated per test, and gone with the program that started them, however it ends."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from saga_worker.testing import Kind, eventually, resolve_broker, resolve_database
from saga_worker.testing.namespaces import Namespace
from saga_worker.trial.local_rabbitmq import LocalRabbitmq
from saga_worker.trial.postgres import EmbeddedPostgres, StopMode

START_POSTGRES = """
from saga_worker.trial.postgres import EmbeddedPostgres
server = EmbeddedPostgres().start()
print(server.url, server.directory, flush=True)
input()
"""
START_TRIAL_BROKER = """
from saga_worker.testing import resolve_broker
print(resolve_broker(prefer="trial").url, "-", flush=True)
input()
"""


async def query(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def refuses(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it died while we connected
        return True
    return False


def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> pytest.RunResult:
    """A run of its own, in a project that only has saga_worker installed and configures nothing."""
    for name in ("SAGA_WORKER_TEST_DATABASE_URL", "SAGA_WORKER_TEST_AMQP_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    return pytester.runpytest_subprocess("-rs", "-p", "no:cacheprovider", *arguments)


@pytest.mark.postgres_server
@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_committed_rows_survive_the_end_of_a_private_postgres(
    private_postgres: EmbeddedPostgres, mode: StopMode
) -> None:
    url = private_postgres.url
    await query(url, "CREATE TABLE kept AS SELECT 7 AS id")
    private_postgres.stop(mode)
    assert refuses(url)
    private_postgres.start()

    assert private_postgres.url == url
    assert await query(url, "SELECT id FROM kept") == 7


@pytest.mark.postgres_server
async def test_a_given_directory_keeps_its_data_for_the_next_server() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # as root the server runs as another user
        with EmbeddedPostgres(directory=Path(folder) / "postgres") as first:
            await query(first.url, "CREATE TABLE kept AS SELECT 7 AS id")
        with EmbeddedPostgres(directory=Path(folder) / "postgres") as second:
            assert await query(second.url, "SELECT id FROM kept") == 7


@pytest.mark.postgres_server
async def test_a_private_postgres_asks_for_its_password(private_postgres: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(f"postgresql://postgres:guessed@127.0.0.1:{private_postgres.port}/postgres", "SELECT 1")


@pytest.mark.postgres_server
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("program", [START_POSTGRES, START_TRIAL_BROKER], ids=["postgres", "trial broker"])
async def test_a_server_ends_and_leaves_nothing_when_its_program_is_killed(
    program: str, ending: signal.Signals
) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    url, directory = (await process.stdout.readline()).decode().split()
    assert not refuses(url)
    process.send_signal(ending)
    await process.wait()

    await eventually(lambda: refuses(url))
    await eventually(lambda: not Path(directory).exists())


@pytest.mark.slow
@pytest.mark.rabbitmq_server
async def test_persistent_messages_survive_the_end_of_a_private_rabbitmq(private_rabbitmq: LocalRabbitmq) -> None:
    async with await aio_pika.connect(private_rabbitmq.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True)
        message = aio_pika.Message(b"7", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept")
    url = private_rabbitmq.url
    private_rabbitmq.ctl("eval", "mnesia:sync_log().")  # the node flushes its list of queues late
    private_rabbitmq.kill()
    assert refuses(url)
    private_rabbitmq.start()

    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).get_queue("kept")
        assert (await queue.get(timeout=60)).body == b"7"
    assert "kept" in private_rabbitmq.ctl("list_queues", "name")


def test_a_given_url_is_taken_as_it_is_and_its_password_is_not_told() -> None:
    backend = resolve_database("postgresql://me:secret@db.example:6543/app")

    assert (backend.url, backend.kind) == ("postgresql://me:secret@db.example:6543/app", Kind.GIVEN)
    assert "db.example:6543" in backend.description
    assert "secret" not in repr(backend)


async def test_a_trial_broker_runs_in_a_process_of_its_own_until_stopped() -> None:
    backend = resolve_broker(prefer="trial")
    try:
        async with await aio_pika.connect(backend.url) as connection:
            assert (await (await connection.channel()).declare_queue(exclusive=True)).name
        assert not backend.is_real
    finally:
        backend.stop()
    assert refuses(backend.url)


async def test_a_migrated_database_has_the_tables_and_an_empty_one_has_none(
    database_url: str, empty_database_url: str
) -> None:
    count = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'saga_worker'"

    assert await query(database_url, count) != 0
    assert await query(empty_database_url, count) == 0


async def test_names_below_a_namespace_are_deleted_and_others_are_not(amqp_url: str, namespace: Namespace) -> None:
    other = Namespace(f"{namespace}-other")
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        mine = await channel.declare_queue(namespace.queue("mine"), durable=True)
        theirs = await channel.declare_queue(other.queue("theirs"), durable=True)
        await channel.declare_exchange(namespace.exchanges[0], "topic", durable=True)
        await asyncio.to_thread(namespace.delete, amqp_url)

        assert (await channel.declare_queue(theirs.name, passive=True)).name == theirs.name
        await asyncio.to_thread(other.delete, amqp_url)
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.declare_queue(mine.name, passive=True)
        channel = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.declare_exchange(namespace.exchanges[0], "topic", passive=True)


def test_every_test_has_its_own_database_on_one_server_for_all_workers(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import asyncio, asyncpg, pathlib, pytest

        async def use(url):
            connection = await asyncpg.connect(url)
            await connection.execute("CREATE TABLE mine (id int)")
            await connection.close()

        @pytest.mark.parametrize("number", range(4))
        def test_it(empty_database_url, number):
            asyncio.run(use(empty_database_url))
            pathlib.Path(f"server-{empty_database_url.rpartition('/')[0].rpartition(':')[2]}").touch()
        """
    )
    result = run_pytest(pytester, monkeypatch, "-n", "2")

    result.assert_outcomes(passed=4)
    assert len(list(pytester.path.glob("server-*"))) == 1


def test_no_server_starts_for_tests_that_ask_for_none(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest(pytester, monkeypatch)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["saga_worker, when a test asks: *"])
    result.stdout.no_fnmatch_line("saga_worker used *")


@pytest.mark.parametrize("xdist", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_missing_rabbitmq_skips_with_a_reason_and_fails_where_it_is_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, xdist: tuple[str, ...]
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.rabbitmq\ndef test_it(): pass")
    skipped = run_pytest(pytester, monkeypatch, "--backends", "trial", *xdist)
    required = run_pytest(pytester, monkeypatch, "--backends", "trial", "--require-real", *xdist)

    skipped.assert_outcomes(skipped=1)
    skipped.stdout.fnmatch_lines(["SKIPPED*needs a real RabbitMQ*rabbitmq-server*"])
    required.assert_outcomes(errors=1)
    required.stdout.fnmatch_lines(["*--require-real: needs a real RabbitMQ*"])


async def test_waiting_returns_the_first_true_value() -> None:
    values = iter([0, None, "", "here"])

    assert await eventually(lambda: next(values)) == "here"


async def test_waiting_in_vain_says_what_was_last_seen() -> None:
    async def two_of_three() -> bool:
        assert os.sep == "no", "2 of 3"
        return True

    with pytest.raises(AssertionError, match=r"<lambda> did not hold within 0\.05 s; last saw 0"):
        await eventually(lambda: 0, deadline=0.05)
    with pytest.raises(AssertionError, match=r"two_of_three did not hold .*2 of 3"):
        await eventually(two_of_three, deadline=0.05)
