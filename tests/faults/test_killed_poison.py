"""An event that kills whoever applies it ends as a dead letter after max_crashes; its neighbours do not notice."""

from __future__ import annotations

import pytest

from tests.faults.campaign import TALLY, Campaign, Event, Place
from tests.faults.definitions.tally import DEADLY

CRASHES = 2
MOST_DEATHS = 12


@pytest.mark.slow
async def test_an_event_that_kills_its_workers_dies_alone(place: Place) -> None:
    accounts = [f"a{n}" for n in range(30)]
    events = [Event(f"open-{account}", "tally_opened", {"account": account}) for account in (*accounts, "deadly")]
    events += [Event(f"{account}-1", "counted", {"account": account, "n": 1}) for account in accounts]
    poison = Event("poison", "counted", {"account": "deadly", "n": DEADLY})
    behind = Event("behind", "counted", {"account": "deadly", "n": 1})
    async with Campaign(place, TALLY, {"SAGA_WORKER_MAX_CRASHES": str(CRASHES)}) as run:
        await run.start_worker("worker", roles=["consume"])  # all of it is stored before anybody applies it
        await run.publish([*events[:40], poison, *events[40:], behind])
        await run.until(lambda: run.value(f"SELECT count(*) = {len(events) + 2} FROM saga_worker.v_inbox"))
        await run.stop("worker")

        # Deaths are counted when the lease of the dead is over, so there may be some more of them than are counted.
        has_died = "SELECT count(*) FROM saga_worker.v_dead"
        await run.keep_running("worker", lambda: run.value(has_died), most_deaths=MOST_DEATHS)
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
