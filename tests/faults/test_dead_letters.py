"""Dead letters: kept whole, shown, replayed; eight operators at once apply each of five hundred exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.faults.campaign import TALLY, Campaign, Event, Place
from tests.faults.definitions.tally import REFUSED
from tests.faults.test_bursts import seen

Eventually = Callable[..., Awaitable[Any]]
BROKEN_RELEASE = {"TALLY_RELEASE": "1"}
DEAD = 500
OPERATORS = 8


def refused(*accounts: str) -> list[Event]:
    """Accounts that are opened, count below zero, which a release cannot, and then above."""
    events = [Event(f"open-{account}", "tally_opened", {"account": account}) for account in accounts]
    events += [Event(f"below-{account}", "counted", {"account": account, "n": REFUSED}) for account in accounts]
    return events


@pytest.mark.slow
async def test_what_a_handler_refuses_is_kept_shown_and_applied_by_the_next_release(
    place: Place, eventually: Eventually
) -> None:
    async with Campaign(place, TALLY) as run:
        await run.start_worker("worker", variables=BROKEN_RELEASE)
        events = [*refused("a"), Event("above-a", "counted", {"account": "a", "n": 7}), *refused("b")[:1]]
        await run.publish(events)
        (dead,) = await eventually(lambda: run.fetch("SELECT * FROM saga_worker.v_dead"), 30)
        assert (dead["message_id"], dead["reason"], dead["attempts"]) == ("below-a", "handler_error", 2)
        assert dead["first_failed_at"] < dead["last_failed_at"]
        await eventually(
            lambda: run.value("SELECT count(*) = 1 FROM saga_worker.v_inbox WHERE reason = 'behind_dead'"), 30
        )

        shown = await run.command("inbox", "show", str(dead["id"]))
        assert shown.code == 0
        for word in (
            "this release cannot count below zero",
            "tally.py",
            '"account"',
            "-1",
            "below-a",
            "application/json",
        ):
            assert word in shown.out, word

        await run.stop("worker")
        await run.start_worker("worker")  # the mended release
        replayed = await run.command("inbox", "replay", str(dead["id"]), "--why", "mended", "--actor", "ada", "--json")
        assert (replayed.code, replayed.documents[0]["replayed"]) == (0, 1)
        await run.until_quiet(may_wait=True)
        assert await seen(run) == {"a": [REFUSED, 7], "b": []}, "in the old order, the one behind it too"
        again = await run.command("inbox", "replay", str(dead["id"]), "--json")
        assert (again.code, again.documents[0]["not_dead"]) == (1, 1)
        audit = await run.fetch("SELECT actor, action, reason FROM saga_worker.v_audit")
        assert [tuple(row) for row in audit] == [("ada", "replay", "mended")]

        run.faults += 1
        assert not (await run.outcome(acknowledged=len(events))).broken
        await run.stop("worker")


@pytest.mark.slow
async def test_eight_replays_at_once_apply_each_dead_letter_once(place: Place, eventually: Eventually) -> None:
    accounts = [f"a{n}" for n in range(DEAD)]
    async with Campaign(place, TALLY) as run:
        await run.start_worker("broken", variables=BROKEN_RELEASE | {"SAGA_WORKER_MAX_ATTEMPTS": "1"})
        await run.publish(refused(*accounts))
        await eventually(lambda: run.value(f"SELECT count(*) = {DEAD} FROM saga_worker.v_dead"), 30)
        await run.stop("broken")

        await run.start_workers("one", "two")
        arguments = ("inbox", "replay", "--reason", "handler_error", "--yes", "--json")
        ran = await asyncio.gather(*(run.command(*arguments, "--actor", f"op{n}") for n in range(OPERATORS)))
        assert [each.code for each in ran] == [0] * OPERATORS, [each.err for each in ran]
        assert sum(each.documents[0]["replayed"] for each in ran) == DEAD
        await run.until_quiet(may_wait=True)

        assert await seen(run) == {key: [REFUSED] for key in accounts}
        assert await run.states() == {"done": 2 * DEAD}
        audited = await run.fetch("SELECT target, count(*) FROM saga_worker.v_audit WHERE action = 'replay' GROUP BY 1")
        assert len(audited) == DEAD and {row[1] for row in audited} == {1}
        run.faults += DEAD
        assert not (await run.outcome(acknowledged=2 * DEAD, faults=DEAD)).broken
        await run.stop("one", "two")
