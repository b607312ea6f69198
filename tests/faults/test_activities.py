"""P23 and more: workers that are frozen, killed or stopped while they run activities; in both modes."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.faults.campaign import OWN, Campaign, Event, Place, on_path

ERRAND = OWN / "errand.py"
ERRANDS = 20
RESULTS = "SELECT count(*) FROM saga_worker.v_inbox WHERE message_id LIKE 'activity:%'"

paths = pytest.mark.parametrize("path", ["fast", "general"])


class Errands:
    """A run with errands that are under way in the worker `one`."""

    def __init__(self, run: Campaign, place: Place) -> None:
        self.run = run
        self.directory = place.directory

    def go(self) -> None:
        """Whatever is under way may end."""
        (self.directory / "go").touch()

    def notes(self, what: str) -> list[dict[str, Any]]:
        path = self.directory / "errands.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["what"] == what]

    async def until_begun(self, count: int) -> None:
        async def begun() -> bool:
            return len(self.notes("begun")) >= count

        await self.run.until(begun)

    async def workers_of_results(self) -> set[int]:
        rows = await self.run.fetch("SELECT (state ->> 'by')::int AS by FROM saga_worker.v_saga")
        return {row["by"] for row in rows}


@asynccontextmanager
async def under_way(place: Place, path: str, **settings: str) -> AsyncIterator[Errands]:
    variables = {"ERRAND_DIRECTORY": str(place.directory), **on_path(path), **settings}
    async with Campaign(place, ERRAND, variables) as run:
        errands = Errands(run, place)
        await run.start_worker("one")
        await run.publish([Event(f"e{n}", "errand_asked", {"errand": str(n)}) for n in range(ERRANDS)])
        await errands.until_begun(ERRANDS)
        yield errands


async def finish(errands: Errands, *workers: str, results: int = ERRANDS) -> None:
    run = errands.run
    await run.until_quiet()
    assert await run.statuses() == {"completed": ERRANDS}
    assert await run.value(RESULTS) == results
    assert not (await run.outcome(acknowledged=ERRANDS, undoable=())).broken
    await run.stop(*workers)


@pytest.mark.slow
@paths
async def test_a_frozen_worker_has_no_say_when_it_wakes_up(place: Place, path: str) -> None:
    async with under_way(place, path) as errands:
        run = errands.run
        run.processes.signal("one", signal.SIGSTOP)
        run.faults += 1
        await run.start_worker("two")
        await errands.until_begun(2 * ERRANDS)  # the lease is over, and all of them have begun anew
        zombie = {note["pid"] for note in errands.notes("begun")[:ERRANDS]}
        errands.go()
        await run.until_quiet()
        assert not await errands.workers_of_results() & zombie

        run.processes.signal("one", signal.SIGCONT)
        await run.until(lambda: _is_alive_again(run))
        await finish(errands, "one", "two")
        assert not await errands.workers_of_results() & zombie
        keys = {(note["errand"], note["key"]) for note in errands.notes("begun")}
        assert len(keys) == ERRANDS, "every attempt has the key of its errand"


async def _is_alive_again(run: Campaign) -> bool:
    return bool(run.processes.lines("one", "worker_lease_lost"))


@pytest.mark.slow
@paths
async def test_what_a_killed_worker_ran_is_run_again_under_the_same_key(place: Place, path: str) -> None:
    """features: 29, 59"""
    async with under_way(place, path) as errands:
        await errands.run.kill("one")
        errands.go()
        await errands.run.start_worker("two")
        await finish(errands, "two")
        assert {note["n"] for note in errands.notes("done")} == {2}
        assert len({note["key"] for note in errands.notes("begun")}) == ERRANDS


@pytest.mark.slow
async def test_an_activity_that_has_no_try_left_after_a_death_is_taken_back(place: Place) -> None:
    async with under_way(place, "true", ERRAND_TRIES="1") as errands:
        run = errands.run
        await run.kill("one")
        errands.go()
        await run.start_worker("two")
        await run.until_quiet()
        assert await run.statuses() == {"compensated": ERRANDS}
        assert len(errands.notes("undone")) == ERRANDS
        assert await run.value("SELECT sum(unsettled) FROM saga_worker.v_saga") == 0
        assert not (await run.outcome(acknowledged=ERRANDS, undoable=())).broken
        await run.stop("two")


@pytest.mark.slow
@paths
async def test_a_worker_that_is_stopped_gives_its_activities_to_the_next_at_once(place: Place, path: str) -> None:
    settings = {"SAGA_WORKER_LEASE_SECONDS": "300", "SAGA_WORKER_GRACE_SECONDS": "0.5"}
    async with under_way(place, path, ERRAND_TRIES="1", **settings) as errands:
        run = errands.run
        await run.start_worker("two")
        await run.stop("one")  # none of its activities can end before `go`
        run.faults += 1
        errands.go()
        await finish(errands, "two")
        assert {note["n"] for note in errands.notes("done")} == {1}, "a stop takes no try away"


@pytest.mark.slow
async def test_a_worker_that_is_stopped_waits_for_what_is_nearly_done(place: Place) -> None:
    async with under_way(place, "true") as errands:
        run = errands.run
        run.processes.signal("one", signal.SIGTERM)
        await run.processes.until_said("one", "worker_draining")
        errands.go()
        assert await run.processes.until_ended("one") == 0
        run.faults += 1
        assert await run.value(RESULTS) == ERRANDS
        await run.start_worker("two")
        await finish(errands, "two")
        assert len(errands.notes("begun")) == ERRANDS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("fast", "activities.begun:3"),
        ("fast", "orchestrator.before_commit:2"),
        ("fast", "orchestrator.committed:2"),
        ("general", "activities.before_commit"),
        ("general", "activities.committed"),
    ],
)
async def test_a_death_at_any_point_costs_no_result_and_makes_none_twice(place: Place, path: str, point: str) -> None:
    variables = {"ERRAND_DIRECTORY": str(place.directory), **on_path(path)}
    (place.directory / "go").touch()
    async with Campaign(place, ERRAND, variables) as run:
        await run.start_worker("one", fault=f"{point}=kill")
        await run.publish([Event(f"e{n}", "errand_asked", {"errand": str(n)}) for n in range(ERRANDS)])
        await run.until_killed("one")
        await run.start_worker("two")
        await finish(Errands(run, place), "two")
