"""P18, P19, P20, P21: replies that are late, doubled, contradictory, too fast, or exactly on the deadline."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests.faults.campaign import DEAL, Campaign, Event, Place
from tests.faults.partners import BOOKED, REJECTED, Asked, Partners, Reply, agreeable, later

Eventually = Callable[..., Awaitable[Any]]
UNDOABLE = ("book", "pay")
RACERS = int(os.environ.get("SAGA_WORKER_TEST_RACERS", "120"))


def opened(*deals: str) -> list[Event]:
    return [Event(f"open-{deal}", "deal_opened", {"deal": deal}) for deal in deals]


async def has_ended(run: Campaign, asked: Asked) -> object:
    return await _has_status(run, asked, "completed", "compensated")


async def is_taken_back(run: Campaign, asked: Asked) -> object:
    return await _has_status(run, asked, "compensating")


async def _has_status(run: Campaign, asked: Asked, *statuses: str) -> object:
    return await run.fetch(
        "SELECT FROM saga_worker.v_saga WHERE key = $1 AND status = ANY($2)", asked.data["deal"], statuses
    )


async def is_listed(run: Campaign, asked: Asked) -> object:
    return await run.fetch(
        "SELECT FROM saga_worker.v_saga WHERE key = $1 AND status = 'compensated' AND unsettled = 1",
        asked.data["deal"],
    )


async def booking_is_stored(run: Campaign, asked: Asked) -> object:
    return await run.fetch(
        """SELECT FROM saga_worker.v_inbox i JOIN saga_worker.v_saga s USING (saga_id)
           WHERE i.type = 'booked' AND s.key = $1""",
        asked.data["deal"],
    )


async def reasons(run: Campaign, type: str) -> Counter[str]:
    """What became of the replies of this type: state and reason."""
    rows = await run.fetch(
        "SELECT concat_ws(':', state, reason) FROM saga_worker.v_inbox WHERE type = $1 AND source IN ('left', 'right')",
        type,
    )
    return Counter(row[0] for row in rows)


@pytest.mark.slow
async def test_a_success_after_its_time_out_is_taken_back_once(place: Place) -> None:
    """`hybrid`: undone at the time-out, the success is only recorded. `crossing`: it comes before the undo is answered.
    `strict`: the saga ends first and lists one effect as unsettled; the success then is undone after the end.

    features: L1
    """

    def script(asked: Asked) -> Sequence[Reply]:
        kind = asked.data["deal"].partition("-")[0]
        match asked.type, kind:
            case ("book", "hybrid"):
                return [Reply("booked", {"booking": "b"}, once=has_ended)]
            case ("book", "crossing"):
                return [Reply("booked", {"booking": "b"}, once=is_taken_back)]
            case ("unbook", "crossing"):
                return [Reply("done", once=booking_is_stored)]
            case ("pay", "strict"):
                return [Reply("done", once=is_listed)]
            case _:
                return agreeable(asked)

    deals = [f"{kind}-{number}" for kind in ("hybrid", "crossing", "strict") for number in range(5)]
    settings = {"DEAL_BOOK_TIMEOUT_SECONDS": "4", "DEAL_PAY_TIMEOUT_SECONDS": "4"}
    async with Campaign(place, DEAL, settings) as run, Partners(run, script) as partners:
        await run.start_worker("worker")
        await run.publish(opened(*deals))
        await run.until(lambda: run.value(f"SELECT count(*) = {len(deals)} FROM saga_worker.v_saga"))
        await run.until_quiet()
        run.faults += len(deals)
        outcome = await run.outcome(acknowledged=15, faults=15, undoable=UNDOABLE)

        assert not outcome.broken
        assert await run.statuses() == {"compensated": 15}
        assert await run.value("SELECT sum(unsettled) FROM saga_worker.v_saga") == 0
        assert (await reasons(run, "booked"))["done:late_reply"] == 10
        for deal in deals:
            undos = {each.message_id for each in partners.asked("unbook", deal)}
            refunds = {each.message_id for each in partners.asked("refund", deal)}
            assert (len(undos), len(refunds)) == (1, 1 if deal.startswith("strict") else 0)
        await run.stop("worker")


async def first_is_applied(run: Campaign, asked: Asked) -> object:
    ids = [f"{asked.message_id}:reply", f"{asked.message_id}:first"]
    return await run.fetch(
        "SELECT FROM saga_worker.v_inbox WHERE message_id = ANY($1) AND state IN ('done', 'dead')", ids
    )


def second(type: str, **data: str) -> Reply:
    """What is sent when the first answer has had its effect."""
    return Reply(type, data, once=first_is_applied, label="second")


@pytest.mark.slow
async def test_the_first_valid_reply_wins_and_the_others_are_recorded(place: Place) -> None:
    answers = {
        "twice": [BOOKED, second("booked", booking="other")],
        "yes-no": [BOOKED, second("rejected")],
        "no-yes": [REJECTED, second("booked", booking="b")],
        "strange": [Reply("nonsense", label="first"), second("booked", booking="b")],
        "broken": [Reply("booked", {"wrong": 1}, label="first"), second("booked", booking="b")],
        "after-the-end": [BOOKED, Reply("rejected", once=has_ended, label="second")],
        "copied": [BOOKED, BOOKED, BOOKED],
    }

    def script(asked: Asked) -> Sequence[Reply]:
        return answers[asked.data["deal"]] if asked.type == "book" else agreeable(asked)

    async with Campaign(place, DEAL) as run, Partners(run, script):
        await run.start_workers("one", "two")
        await run.publish(opened(*answers))
        await run.until_quiet()
        run.faults += len(answers)
        outcome = await run.outcome(acknowledged=len(answers), faults=len(answers), undoable=UNDOABLE)

        assert not outcome.broken
        rows = await run.fetch("SELECT key, status, state ->> 'booking' FROM saga_worker.v_saga")
        ended = {row[0]: (row[1], row[2]) for row in rows}
        assert ended.pop("no-yes") == ("compensated", None)
        assert set(ended.values()) == {("completed", "b")}
        assert await reasons(run, "nonsense") == {"dead:schema_mismatch": 1}
        assert await reasons(run, "booked") == {
            "done": 6, "ignored:duplicate_reply": 1, "ignored:contradictory_reply": 1, "dead:schema_mismatch": 1,
        }  # fmt: skip
        assert await reasons(run, "rejected") == {"done": 1, "ignored:contradictory_reply": 2}
        await run.stop("one", "two")


@pytest.mark.slow
async def test_a_reply_that_outruns_the_relays_bookkeeping_is_accepted(place: Place, eventually: Eventually) -> None:
    """The relay is frozen between the broker's confirm and the delete: the row is still there when the answer is.

    features: M22
    """
    async with Campaign(place, DEAL) as run, Partners(run):
        roles = ("consume", "advance", "sweep")
        await run.start_worker("relay", roles=["relay"], fault="relay.confirmed=sleep:8")
        await run.start_worker("others", roles=roles)
        await run.publish(opened("quick"))

        await eventually(lambda: run.value(ANSWERED_UNSENT), 30)
        run.faults += 1
        await run.until_quiet()
        outcome = await run.outcome(acknowledged=1, undoable=UNDOABLE)

        assert not outcome.broken
        assert await run.statuses() == {"completed": 1}
        await run.stop("others", "relay")


ANSWERED_UNSENT = """\
SELECT EXISTS (SELECT FROM saga_worker.v_inbox WHERE type = 'booked' AND state = 'done')
   AND EXISTS (SELECT FROM saga_worker.v_outbox WHERE type = 'book')"""


@pytest.mark.slow
async def test_a_command_that_has_not_left_does_not_time_out(place: Place, eventually: Eventually) -> None:
    """No relay runs for longer than the time-out; it is due when somebody could have answered, and nobody does."""

    def silent(asked: Asked) -> Sequence[Reply]:
        return [] if asked.type == "book" else agreeable(asked)

    async with Campaign(place, DEAL, {"DEAL_BOOK_TIMEOUT_SECONDS": "1"}) as run, Partners(run, silent) as partners:
        await run.start_worker("others", roles=["consume", "advance", "sweep"])
        await run.publish(opened("slow"))
        await eventually(lambda: run.value(POSTPONED), 30)
        assert (await run.statuses(), partners.seen) == ({"running": 1}, [])

        await run.start_worker("relay", roles=["relay"])
        await run.until_quiet()
        run.faults += 1
        assert not (await run.outcome(acknowledged=1, undoable=UNDOABLE)).broken
        assert await run.statuses() == {"compensated": 1}
        assert [each.type for each in partners.seen] == ["book", "unbook"]
        await run.stop("others", "relay")


POSTPONED = """\
SELECT EXISTS (SELECT FROM saga_worker.v_timer t JOIN saga_worker.v_saga s USING (saga_id)
               WHERE t.name = 'timeout:1' AND t.due_at > s.started_at + interval '1.5 seconds')"""


@pytest.mark.slow
async def test_of_a_reply_and_its_time_out_exactly_one_wins(place: Place) -> None:
    await race(place, racers=RACERS)


async def race(place: Place, *, racers: int) -> Counter[str]:
    """Of ten replies eight come within 10 ms of their deadline, one long before and one long after it."""
    choice = random.Random(racers)
    near = {f"d{n}": choice.uniform(-0.01, 0.01) for n in range(racers)}
    offsets = near | {f"d{n}": -60.0 if n % 10 else 1.0 for n in range(racers) if n % 10 < 2}

    def script(asked: Asked) -> Sequence[Reply]:
        if asked.type != "book":
            return agreeable(asked)
        assert asked.deadline is not None
        return [Reply("booked", {"booking": "b"}, at=later(asked.deadline, offsets[asked.data["deal"]]))]

    async with Campaign(place, DEAL, {"DEAL_BOOK_TIMEOUT_SECONDS": "2"}) as run, Partners(run, script) as partners:
        await run.start_workers("one", "two")
        await run.publish(opened(*offsets))
        await run.until_quiet()
        run.faults += racers
        outcome = await run.outcome(acknowledged=racers, faults=racers, undoable=UNDOABLE)
        assert not outcome.broken

        status = {row[0]: row[1] for row in await run.fetch("SELECT key, status FROM saga_worker.v_saga")}
        undone = Counter(each.data["deal"] for each in partners.asked("unbook"))
        paid = Counter(each.data["deal"] for each in partners.asked("pay"))
        for deal in offsets:
            assert (undone[deal], paid[deal]) == ((0, 1) if status[deal] == "completed" else (1, 0)), deal
        won = Counter(status.values())
        assert won["completed"] and won["compensated"], won
        late = await reasons(run, "booked")
        assert late == {"done": won["completed"], "done:late_reply": won["compensated"]}
        early = await run.value(TOO_EARLY)
        assert early == 0, f"{early} time-outs took effect before their deadline"
        await run.stop("one", "two")
        return won


# The deadline is 2 s after the decision that armed the timer, on the clock of the database.
TOO_EARLY = """\
SELECT count(*) FROM saga_worker.v_journal fired JOIN saga_worker.v_journal armed USING (saga_id)
WHERE fired.source = 'timer' AND armed.revision = 1 AND fired.decided_at < armed.decided_at + interval '2 seconds'"""
