"""Workers that are killed where a saga rests: in the pause of a retry, and between two of its undos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.faults.campaign import OWN, Campaign, Event, Place
from tests.faults.partners import DONE, REJECTED, Asked, Partners, Reply

JOURNEY = OWN / "journey.py"
NUMBER = 5


def _journeys(**more: object) -> list[Event]:
    return [Event(f"j{n}", "journey_planned", {"deal": f"d{n}", **more}) for n in range(NUMBER)]


@pytest.mark.slow
async def test_what_is_undone_already_is_not_undone_again_after_a_death_between_two_undos(place: Place) -> None:
    """The newest is undone, the older undo is out, its answer comes to the next worker.

    features: 3, 43, 62
    """
    is_next = False

    async def lives_on(run: Campaign, asked: Asked) -> bool:
        return is_next

    def script(asked: Asked) -> Sequence[Reply]:
        match asked.type:
            case "book_train" | "book_hotel":
                return [Reply("booked", {"booking": f"{asked.type} of {asked.data['deal']}"})]
            case "book_guide":
                return [REJECTED]
            case "return_train":
                return [Reply("done", once=lives_on)]
            case _:
                return [DONE]

    settings = {"ERRAND_DIRECTORY": str(place.directory)}
    async with Campaign(place, JOURNEY, settings) as run, Partners(run, script, destinations=("left", "right")) as left:
        await run.start_worker("one")
        await run.publish(_journeys())
        await run.until(lambda: _all_asked(left, "return_train"))
        assert await run.statuses() == {"compensating": NUMBER}
        await run.kill("one")
        await run.start_worker("two")
        is_next = True
        await run.until_quiet()

        assert await run.statuses() == {"compensated": NUMBER}
        for undo, what in (("return_hotel", "book_hotel"), ("return_train", "book_train")):
            ids = Counter({each.message_id for each in left.asked(undo)})
            assert len(ids) == NUMBER, f"one {undo} for each journey, whoever sent it"
            for asked in left.asked(undo):
                assert asked.data["booking"] == f"{what} of {asked.data['deal']}", "what the reply said, from the row"
        assert {asked.data["weather"] for asked in left.asked("return_train")} == {1}
        outcome = await run.outcome(acknowledged=NUMBER, faults=1, undoable=("book_train", "book_hotel"))
        assert not outcome.broken
        await run.stop("two")


@pytest.mark.slow
async def test_a_retry_whose_worker_dies_in_the_pause_is_made_by_the_next(place: Place) -> None:
    """The pause of an activity, and then that of a silent command.

    features: 29, 34
    """

    async def asked_twice(run: Campaign, asked: Asked) -> bool:
        return len(partners.asked("book_hotel", asked.data["deal"])) > 1

    def script(asked: Asked) -> Sequence[Reply]:
        booked = {"booking": "b"}
        if asked.type == "book_hotel":
            return [Reply("booked", booked, once=asked_twice)]
        return [Reply("booked", booked) if asked.type == "book_train" else DONE]

    settings = {
        "ERRAND_DIRECTORY": str(place.directory), "DEAL_PAUSE_SECONDS": "15", "DEAL_BOOK_TIMEOUT_SECONDS": "1",
    }  # fmt: skip
    async with Campaign(place, JOURNEY, settings) as run:
        partners = Partners(run, script, destinations=("left", "right"))
        async with partners:
            await run.start_worker("one")
            await run.publish(_journeys(fails_first=True))
            resting = (
                "SELECT count(*) FROM saga_worker.v_activity WHERE state = 'ready' AND attempts = 1 AND next_at > now()"
            )
            await run.until(lambda: _is(run, resting, NUMBER))
            await run.kill("one")
            assert await run.value(resting) == NUMBER, "killed in the pause"
            await run.start_worker("two")
            resending = "SELECT count(*) FROM saga_worker.v_timer WHERE name LIKE 'resend:%' AND due_at > now()"
            await run.until(lambda: _is(run, resending, NUMBER))
            await run.kill("two")
            assert await run.value(resending) == NUMBER, "killed in the pause"
            await run.start_worker("three")
            await run.until_quiet()

            assert await run.statuses() == {"completed": NUMBER}
            attempts = _attempts(place)
            for n in range(NUMBER):
                mine = [each for each in attempts if each["deal"] == f"d{n}"]
                assert [each["n"] for each in mine] == [1, 2]
                assert len({each["key"] for each in mine}) == 1 and len({each["pid"] for each in mine}) == 2
                assert len({each.message_id for each in partners.asked("book_hotel", f"d{n}")}) == 1, "the same message"
            assert not (await run.outcome(acknowledged=NUMBER, faults=2, undoable=())).broken
            await run.stop("three")


async def _all_asked(partners: Partners, type: str) -> bool:
    return len({each.message_id for each in partners.asked(type)}) == NUMBER


async def _is(run: Campaign, query: str, number: int) -> bool:
    return bool(await run.value(query) == number)


def _attempts(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place.directory / "journeys.jsonl").read_text().splitlines()]
