"""The command line as a script calls it, with servers of the test's own."""

from __future__ import annotations

import pytest

from tests.stages import transport
from tests.stages.command_line import Ran, Run


@pytest.fixture(params=["lean", "public"])
def hot_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways past the client library; a test for one of them says parametrize("hot_path", […], indirect=True).

    `bare`: the public one, on a library that does not take our transport.
    """
    if request.param == "bare":
        transport.take_no_transport(monkeypatch)
    monkeypatch.setattr(transport, "PATH", "public" if request.param == "bare" else request.param)
    return str(request.param)


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
