"""The command line as a script calls it, with servers of the test's own."""

from __future__ import annotations

import pytest

from tests.stages.command_line import Ran, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process; no server is named in its environment."""
    from saga_worker.admin.cli import main

    monkeypatch.delenv("SAGA_WORKER_DATABASE_URL", raising=False)
    monkeypatch.delenv("SAGA_WORKER_AMQP_URL", raising=False)

    def run_(*arguments: str) -> Ran:
        code = main(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run_


@pytest.fixture
def database(run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database, named in the environment of `run`."""
    monkeypatch.setenv("SAGA_WORKER_DATABASE_URL", database_url)
    return database_url
