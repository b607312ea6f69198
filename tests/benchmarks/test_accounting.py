"""CPU by process tree: what a child used is found, whether it still runs or has ended."""

from __future__ import annotations

import os
import subprocess
import sys

import asyncpg
import pytest

from benchmarks.harness.accounting import Reading, Usage, broker_processes, cores, peak_rss_megabytes, postmaster_of
from saga_worker.trial.local_rabbitmq import LocalRabbitmq
from saga_worker.trial.postgres import EmbeddedPostgres

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\ninput()"


def test_a_child_is_on_its_own_account_and_after_its_end_on_that_of_its_parent() -> None:
    me = [os.getpid()]
    before = Reading.take({"me": me})
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        apart = Reading.take({"me": me, "child": [child.pid]})
        child.communicate(b"\n")
    usage = before.until(Reading.take({"me": me}))

    assert 0.2 < apart.cpu["child"] < 3
    assert usage.cpu["me"] >= 0.2


def test_a_machine_is_disturbed_when_strangers_had_a_tenth_of_it() -> None:
    quiet = Usage(wall=10, cpu={"worker": 8}, other=0.5 * cores(), steal=0.4 * cores())
    busy = Usage(wall=10, cpu={"worker": 8}, other=0.5 * cores(), steal=0.6 * cores())

    assert not quiet.is_disturbed
    assert busy.is_disturbed
    assert quiet.microseconds_per(1000)["worker"] == 8000


def test_the_peak_of_a_process_is_known() -> None:
    assert 5 < peak_rss_megabytes(os.getpid()) < 5000


@pytest.mark.postgres_server
async def test_the_postmaster_is_found_by_one_of_its_backends(private_postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(private_postgres.url)
    (postmaster,) = postmaster_of(await connection.fetchval("SELECT pg_backend_pid()"))
    await connection.close()

    first_line = (private_postgres.directory / "data" / "postmaster.pid").read_text().splitlines()[0]
    assert postmaster == int(first_line)


@pytest.mark.rabbitmq_server
def test_the_node_is_found_by_its_port(private_rabbitmq: LocalRabbitmq) -> None:
    port = int(private_rabbitmq.url.rpartition(":")[2].partition("/")[0])

    assert len(broker_processes(port)) == 1
