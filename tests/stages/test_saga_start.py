"""`saga-worker saga start` beside a worker: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from saga_worker.loading import load
from tests.stages.command_line import Ran, Run
from tests.stages.jobs import Crew, JobDone, Packed, crew

DEFINITIONS = "from tests.stages.jobs import job_saga\n\njob, asked = job_saga()\n"


@pytest.fixture
async def worker(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crew]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "jobs.py").write_text(DEFINITIONS)
    monkeypatch.setenv("SAGA_WORKER_DEFINITIONS", str(tmp_path / "jobs.py"))
    saga = load(tmp_path / "jobs.py").latest("job")
    assert saga is not None
    async with crew(database, saga) as running:
        yield running


@pytest.fixture
def event(tmp_path: Path) -> str:
    (tmp_path / "job.json").write_text('{"job": "a", "cents": 5}\n')
    return str(tmp_path / "job.json")


async def start(run: Run, *arguments: str) -> Ran:
    """The command runs an event loop of its own."""
    return await asyncio.to_thread(run, "saga", "start", *arguments, "--json")


async def test_a_saga_is_started_and_its_end_waited_for(run: Run, worker: Crew, event: str) -> None:
    """features: 54, 136; L22"""
    started = await start(run, "job", "--input", event, "--idempotency-key", "i-1")
    await worker.answer(Packed(box="7"), "a", seq=1)
    await worker.say(JobDone(job="a"))
    ended = await start(run, "job", "--input", event, "--idempotency-key", "i-1", "--wait", "30")

    assert (started.code, started.documents) == (
        0, [{"saga": "job/a", "outcome": "started", "idempotency_key": "i-1", "is_repeat": False}],
    )  # fmt: skip
    (found,) = ended.documents
    assert (ended.code, found["status"]) == (0, "completed")
    assert found["state"] == {"job": "a", "cents": 5, "box": "7"}
    rows = await worker.harness.query("SELECT source, message_id FROM saga_worker.v_inbox WHERE type = 'job_asked'")
    assert rows == [{"source": "cli", "message_id": "i-1"}]


async def test_an_end_that_is_no_success_is_exit_code_1(run: Run, worker: Crew, event: str) -> None:
    await start(run, "job", "--input", event, "--idempotency-key", "i-1")
    still_open = await start(run, "job", "--input", event, "--idempotency-key", "i-1", "--wait", "0.05")
    again = await start(run, "job", "--input", event)

    assert (still_open.code, "has not ended within 0.05 s" in still_open.err) == (1, True)
    assert (again.code, "There is a saga of this key already" in again.err) == (1, True)


async def test_the_key_may_stand_beside_the_event(run: Run, worker: Crew, tmp_path: Path, event: str) -> None:
    (tmp_path / "keyless.json").write_text('{"cents": 5}')
    started = await start(run, "job", "--input", str(tmp_path / "keyless.json"), "--key", "b")
    other = await start(run, "job", "--input", event, "--key", "b")

    assert (started.code, started.documents[0]["saga"]) == (0, "job/b")
    assert (other.code, "another key" in other.err) == (2, True)


async def test_what_does_not_fit_is_said_before_anything_is_stored(
    run: Run, worker: Crew, tmp_path: Path, event: str
) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps({"job": "a", "cents": "secret"}))
    wrong = await start(run, "job", "--input", str(tmp_path / "wrong.json"))
    other_type = await start(run, "job", "--input", event, "--type", "job_done")
    other_name = await start(run, "jab", "--input", event)

    assert (wrong.code, "cents: int_parsing" in wrong.err, "secret" in wrong.err) == (1, True, False)
    assert (other_type.code, "what does: job_asked" in other_type.err) == (2, True)
    assert (other_name.code, "there are: job 1" in other_name.err) == (2, True)
    assert await worker.harness.states() == []


async def test_without_a_worker_the_start_is_stored(
    run: Run, database: str, worker: Crew, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_worker.admin.saga_start.ACCEPTED_SECONDS", 0.05)
    await worker.harness.pool.stop()
    started = await start(run, "job", "--input", event)

    assert (started.code, started.documents[0]["outcome"]) == (0, "stored")
    assert "Is a worker running" in started.err


async def test_earlier_runs_of_a_key_are_shown(run: Run, worker: Crew, event: str) -> None:
    """features: 55, 64, 68"""
    await start(run, "job", "--input", event)
    await worker.answer(Packed(box="7"), "a", seq=1)
    await worker.say(JobDone(job="a"))
    ended = await start(run, "job", "--input", event, "--idempotency-key", "i-2", "--wait", "30")
    assert (ended.code, "already" in ended.err) == (1, True)  # it does not restart: so one is made an earlier run here
    await worker.harness.query("UPDATE saga_worker.saga SET ref = NULL")
    await start(run, "job", "--input", event)

    present = await asyncio.to_thread(run, "saga", "show", "job/a", "--json")
    (document,) = present.documents
    (earlier,) = document["earlier_runs"]
    shown = await asyncio.to_thread(run, "saga", "show", earlier["saga_id"])
    listed = await asyncio.to_thread(run, "saga", "list", "--key", "a", "--json")

    assert (shown.code, document["saga"]["status"]) == (0, "running")
    assert "This is an earlier run of its key; `saga-worker saga show job/a` shows the present one." in shown.out
    assert {saga["saga_id"] for saga in listed.documents} == {earlier["saga_id"], document["saga"]["saga_id"]}
