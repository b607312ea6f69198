"""The machinery of the fault tests keeps its own promises: nothing outlives a run, and nothing that fails is hidden."""

from __future__ import annotations

import asyncio
import os
import sys

import asyncpg
import pytest

from tests.faults.campaign import DEAL, STUCK, Campaign, Place

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
OTHERS_THAT_SAMPLE = """\
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1 AND query = $2"""


async def test_a_run_whose_samples_fail_says_so_and_leaves_no_process_behind(place: Place) -> None:
    sleeper = 0
    with pytest.raises(asyncpg.UndefinedTableError):
        async with Campaign(place, DEAL) as run:
            sleeper = run.processes.start("sleeper", SLEEPER, os.environ)
            await run.fetch("DROP SCHEMA saga_worker CASCADE")
            assert run.sampling is not None
            await asyncio.wait({run.sampling})

    with pytest.raises(ProcessLookupError):
        os.kill(sleeper, 0)


async def test_a_run_goes_on_sampling_when_its_connection_was_ended(place: Place) -> None:
    operator = await asyncpg.connect(place.database_url)
    async with Campaign(place, DEAL) as run:
        lost = await run.value("SELECT pg_backend_pid()")
        await operator.execute("SELECT pg_terminate_backend($1)", lost)

        await run.until(lambda: operator.fetchval(OTHERS_THAT_SAMPLE, lost, STUCK))
    await operator.close()
