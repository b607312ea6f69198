"""Two releases on one database: the next one migrates while this one runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

import saga_worker
from saga_worker.saga.errors import SchemaMismatch
from saga_worker.sql import migrate
from tests.stages.pool_harness import Opened, harness, row

REVISION = """
from saga_worker.sql.migrate import run_script

revision, down_revision, branch_labels, depends_on = "{revision}", "{before}", None, None
expand = {expand}


def upgrade() -> None:
    run_script("{revision}_more.sql")
"""
ADDS = "ALTER TABLE saga_worker.saga ADD COLUMN more_{revision} text NOT NULL DEFAULT ''"


class Release:
    """This package with one revision more, or several."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self._directory = directory
        self._database_url = database_url
        self._head = migrate.head()
        ours = Path(saga_worker.__file__).parent
        shutil.copytree(ours, directory / "saga_worker", ignore=shutil.ignore_patterns("__pycache__"))
        self._versions = directory / "saga_worker" / "sql" / "migrations" / "versions"

    def add(self, revision: str, *, expand: bool) -> None:
        text = REVISION.format(revision=revision, before=self._head, expand=expand)
        (self._versions / f"{revision}_more.py").write_text(text)
        (self._versions / f"{revision}_more.sql").write_text(ADDS.format(revision=revision))
        self._head = revision

    def upgrade(self) -> str:
        """Run its `saga-worker db upgrade`; what it says that it did."""
        environment = os.environ | {
            "SAGA_WORKER_DATABASE_URL": self._database_url, "PYTHONPATH": str(self._directory),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "saga_worker", "db", "upgrade", "--json"], env=environment, cwd=self._directory,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["result"])


@pytest.fixture
def next_release(tmp_path: Path, database_url: str) -> Release:
    return Release(tmp_path, database_url)


async def test_a_worker_runs_on_the_schema_of_a_newer_release_that_only_adds(
    next_release: Release, database_url: str
) -> None:
    next_release.add("9001", expand=True)
    next_release.add("9002", expand=True)
    assert next_release.upgrade() == f"upgraded from {migrate.head()} to 9002"

    await migrate.check(database_url)
    assert await migrate.upgrade(database_url) == "9002", "the older release leaves it alone"
    async with harness(database_url) as h:
        await h.store(row(Opened(account="a"), "a", message_id="1"))
        await h.drain()
        assert await h.states() == ["done"]


async def test_a_worker_refuses_the_schema_of_a_newer_release_that_takes_something_away(
    next_release: Release, database_url: str
) -> None:
    next_release.add("9001", expand=False)
    next_release.add("9002", expand=True)
    next_release.upgrade()

    refused = "at revision 9002, where only releases of revision 9001 or later can run; .* run a newer release"
    with pytest.raises(SchemaMismatch, match=refused):
        await migrate.check(database_url)
    with pytest.raises(SchemaMismatch, match=refused):
        await migrate.upgrade(database_url)


async def test_a_schema_that_says_nothing_of_other_releases_is_for_its_own_only(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE saga_worker.schema_version DROP COLUMN compatible_from")
    await migrate.check(database_url)
    await connection.execute("UPDATE saga_worker.schema_version SET version_num = '9999'")

    with pytest.raises(SchemaMismatch, match="run a newer release"):
        await migrate.check(database_url)
    await connection.close()
