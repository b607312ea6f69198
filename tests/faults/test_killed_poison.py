"""What kills whoever runs it is not run for ever: an event ends as a dead letter, a timer or a local step on the
attention list; the neighbours do not notice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.campaign import OWN, TALLY, Campaign, Event, Place
from tests.faults.definitions.tally import DEADLY

CRASHES = 2
MOST_DEATHS = 12


@pytest.mark.slow
@pytest.mark.parametrize("lease_seconds", ["2", "300"])
async def test_an_event_that_kills_its_workers_dies_alone(place: Place, lease_seconds: str) -> None:
    """features: M5"""
    accounts = [f"a{n}" for n in range(30)]
    events = [Event(f"open-{account}", "tally_opened", {"account": account}) for account in (*accounts, "deadly")]
    events += [Event(f"{account}-1", "counted", {"account": account, "n": 1}) for account in accounts]
    poison = Event("poison", "counted", {"account": "deadly", "n": DEADLY})
    behind = Event("behind", "counted", {"account": "deadly", "n": 1})
    settings = {"SAGA_WORKER_MAX_CRASHES": str(CRASHES), "SAGA_WORKER_LEASE_SECONDS": lease_seconds}
    async with Campaign(place, TALLY, settings) as run:
        await run.start_worker("worker", roles=["consume"])  # all of it is stored before anybody applies it
        await run.publish([*events[:40], poison, *events[40:], behind])
        await run.until(lambda: run.value(f"SELECT count(*) = {len(events) + 2} FROM saga_worker.v_inbox"))
        await run.stop("worker")

        # Restarted at once: nobody waits until the lease of the dead is over. The first one had its neighbours in hand.
        has_died = "SELECT count(*) FROM saga_worker.v_dead"
        await run.keep_running("worker", lambda: run.value(has_died), most_deaths=1 + CRASHES)
        await run.until_quiet(may_wait=True)

        (dead,) = await run.fetch("SELECT * FROM saga_worker.v_dead")
        assert (dead["message_id"], dead["reason"]) == ("poison", "worker_killed")
        assert dead["error"].startswith(f"{CRASHES} workers died")
        neighbours = await run.fetch(
            "SELECT state, attempts, crashes FROM saga_worker.v_inbox WHERE saga_key <> 'deadly'"
        )
        assert {tuple(row) for row in neighbours} == {("done", 0, 0)}
        assert await run.states() == {"done": len(events), "dead:worker_killed": 1, "held:behind_dead": 1}
        attention = await run.fetch("SELECT key, attention FROM saga_worker.v_saga WHERE attention IS NOT NULL")
        assert [tuple(row) for row in attention] == [("deadly", "dead_letter")]
        outcome = await run.outcome(acknowledged=len(events), faults=1 + CRASHES)
        # The one behind it waits for an operator: held, and its saga is on the attention list.
        assert outcome.broken == ["I1: Event test/behind was confirmed and routed, but has no final row."]
        await run.stop("worker")


TIMER_LISTED = "timer_failed: wait:patience: 2 workers died of it, alone"
RETRY = ("saga", "retry", "--all-attention", "--yes")
REPLAY = ("inbox", "replay", "--reason", "worker_killed", "--yes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saga", "begun", "listed", "remedy", "lease_seconds"),
    [
        ("waiting", "wait_begun", TIMER_LISTED, RETRY, "2"),
        ("waiting", "wait_begun", TIMER_LISTED, RETRY, "300"),
        ("writing", "write_begun", "local_failed: write", RETRY, "2"),
        ("writing", "write_begun", "local_failed: write", RETRY, "300"),
        ("asking", "ask_begun", "dead_letter", REPLAY, "2"),  # activities of the dead wait for the end of their lease
    ],
    ids=["a timer", "a timer, at once", "a local step", "a local step, at once", "the result of an activity"],
)
async def test_a_step_that_no_message_brings_about_kills_few_workers_and_waits_for_an_operator(
    place: Place, saga: str, begun: str, listed: str, remedy: Sequence[str], lease_seconds: str
) -> None:
    keys = [*(f"k{n}" for n in range(20)), "deadly"]
    settings = {
        "SAGA_WORKER_MAX_CRASHES": str(CRASHES), "LETHAL_DIRECTORY": str(place.directory),
        "SAGA_WORKER_LEASE_SECONDS": lease_seconds,
    }  # fmt: skip
    async with Campaign(place, OWN / "lethal.py", settings) as run:
        await run.start_worker("consumer", roles=["consume"])
        await run.publish([Event(f"begin-{key}", begun, {"key": key}) for key in keys])
        attention = "SELECT key, attention FROM saga_worker.v_saga WHERE attention IS NOT NULL"
        await run.keep_running("worker", lambda: run.fetch(attention), most_deaths=MOST_DEATHS)
        assert [tuple(row) for row in await run.fetch(attention)] == [("deadly", listed)]
        assert run.faults > CRASHES

        await run.until_quiet(may_wait=True)
        assert run.processes.running == ["consumer", "worker"], "it was not run again"
        assert (await run.statuses())["completed"] == len(keys) - 1
        (place.directory / "mended").touch()
        assert (await run.command(*remedy)).code == 0
        await run.until_quiet()
        assert await run.statuses() == {"completed": len(keys)}
        assert await run.fetch(attention) == []
        assert not (await run.outcome(acknowledged=len(keys), undoable=())).broken
        await run.stop("consumer", "worker")
