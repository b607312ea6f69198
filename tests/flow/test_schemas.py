"""Tables in the application's own database, under the names that the application gives them a place for."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from saga_worker.client import Client
from saga_worker.loading import load
from saga_worker.sql import migrate
from tests.flow.workers import Workers
from tests.stages.jobs import JobAsked

OWN = """
from tests.stages.jobs import job_saga

job, asked = job_saga()
"""


async def test_two_installations_live_in_one_database_of_the_application_each_in_a_schema_of_its_own(
    workers: Workers, database_url: str, tmp_path: Path
) -> None:
    """features: 121"""
    place = tmp_path / "own.py"
    place.write_text(OWN)
    application = await asyncpg.connect(database_url)
    try:
        await application.execute("CREATE TABLE public.customer (id text PRIMARY KEY)")
        await migrate.upgrade(database_url, schema="billing")
        await workers.start(place)
        await workers.start(place, frozenset({"advance", "relay", "sweep"}), SAGA_WORKER_SCHEMA="billing")
        saga = load(place).latest("job")
        assert saga is not None

        for schema, key in (("saga_worker", "first"), ("billing", "second")):
            async with Client(workers.settings(SAGA_WORKER_SCHEMA=schema)) as client:
                run = await client.start(saga, JobAsked(job=key))
                assert run.key == key
                found = await application.fetch(f"SELECT key FROM {schema}.v_saga")
                assert [row["key"] for row in found] == [key]
        assert await application.fetchval("SELECT count(*) FROM public.customer") == 0
    finally:
        await application.close()
