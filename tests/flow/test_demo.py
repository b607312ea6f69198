"""The demo as a newcomer runs it: the command, its one line of JSON, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from saga_worker.trial.demo.watch import QUERIES

MAIN = "import sys; from saga_worker.admin.cli import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", MAIN, "demo"]
# As in the foreground of a terminal: a job in the background of a shell, and all below it, starts deaf to Ctrl-C.
HEARS_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
EVERY_KIND = 40  # orders: enough for each kind of fate
POSITIVE = (
    "compensated", "dead_lettered", "replayed", "duplicates", "late_successes", "parked", "workers_killed",
)  # fmt: skip


def environment(**changed: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SAGA_WORKER_")} | changed


def demo(*arguments: str, **variables: str) -> dict[str, Any]:
    """Run it to its end; the object on its last line."""
    done = subprocess.run(
        [*COMMAND, "--json", *arguments], env=environment(**variables), capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def assert_whole(result: dict[str, Any], *, sagas: int) -> None:
    assert result["completed"] + result["compensated"] == result["sagas"] == sagas
    assert [result[name] for name in ("lost", "doubled", "stuck")] == [0, 0, 0]
    assert {name: result[name] for name in POSITIVE if not result[name]} == {}
    assert all(result["promises"].values()) and result["check"] == 0


def test_without_any_server_every_order_is_shipped_or_taken_back() -> None:
    assert_whole(demo("--sagas", str(EVERY_KIND)), sagas=EVERY_KIND)


async def test_on_given_servers_it_leaves_nothing_behind(database_url: str, amqp_url: str) -> None:
    result = demo("--sagas", "20", SAGA_WORKER_DATABASE_URL=database_url, SAGA_WORKER_AMQP_URL=amqp_url)
    assert_whole(result, sagas=20)

    connection = await asyncpg.connect(database_url)
    schemas = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'demo%'")
    await connection.close()
    assert schemas == []


async def test_what_it_keeps_gives_the_same_figures_by_sql(tmp_path: Path) -> None:
    result = demo("--sagas", "20", "--keep", TMPDIR=str(tmp_path))
    try:
        connection = await asyncpg.connect(result["database_url"])
        measured = {name: await connection.fetchval(query) for name, query in QUERIES.items()}
        await connection.close()
    finally:
        stop = await asyncio.create_subprocess_shell(result["stop"])
        assert await stop.wait() == 0

    assert measured == {name: result[name] for name in QUERIES}
    wait_until(lambda: not list(tmp_path.iterdir()), "servers and files are gone")


def test_an_interrupted_demo_ends_every_process_it_started(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        wait_until(lambda: "killing" in (tmp_path / "words").read_text(), "the demo is under way")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1, (tmp_path / "words").read_text()

    wait_until(lambda: not processes_in(tmp_path), "every process has ended")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words"]


@contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "words").open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{HEARS_INTERRUPTS}; {MAIN}", "demo", "--sagas", "60"],
            env=environment(TMPDIR=str(directory)), stdout=words, stderr=words,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def processes_in(directory: Path) -> list[str]:
    """Processes whose environment names the directory, as all of the demo's have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(directory).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def wait_until(condition: Any, what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen that {what}"
        time.sleep(0.05)
