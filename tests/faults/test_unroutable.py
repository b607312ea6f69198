"""P10: the binding of one destination is gone. Its commands wait and ask for attention; nothing else waits for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.faults.campaign import DEAL, Campaign, Event, Place
from tests.faults.partners import Partners

Eventually = Callable[..., Awaitable[Any]]
REFUSED = """\
SELECT count(*) FROM saga_worker.v_outbox
WHERE destination = 'right' AND attempts > 0 AND next_at IS NOT NULL AND last_error IS NOT NULL"""
LISTED = "SELECT count(*) FROM saga_worker.v_saga WHERE attention = 'undeliverable: right'"


@pytest.mark.slow
async def test_an_unroutable_command_stays_and_holds_up_nothing_else(place: Place, eventually: Eventually) -> None:
    """features: M29"""
    async with Campaign(place, DEAL) as run, Partners(run) as partners:
        await run.start_worker("worker")
        await partners.unbind("right")
        run.faults += 1
        kept, taken_back = [f"kept-{n}" for n in range(3)], [f"back-{n}" for n in range(3)]
        await run.publish([Event(f"open-{deal}", "deal_opened", {"deal": deal}) for deal in kept + taken_back])

        await eventually(lambda: run.value(f"SELECT ({REFUSED}) = 6 AND ({LISTED}) = 6"), 30)
        assert {each.destination for each in partners.seen} == {"left"}

        # Each of these sagas has a message for the left behind the one that cannot leave for the right.
        await run.publish([Event(f"cancel-{deal}", "deal_cancelled", {"deal": deal}) for deal in taken_back])
        await eventually(lambda: len(partners.asked("unbook")) == 3, 30)
        await eventually(
            lambda: run.value("SELECT count(*) = 3 FROM saga_worker.v_saga WHERE status = 'compensated'"), 30
        )
        assert await run.value(f"SELECT ({REFUSED}) = 6"), "the commands for the right are still there"
        assert await run.value("SELECT count(*) FROM saga_worker.v_saga WHERE unsettled = 1") == 3

        await run.kill("worker")  # whoever takes the rows over keeps trying
        await run.start_worker("heir")
        await eventually(lambda: run.value(f"SELECT ({REFUSED}) = 6 AND ({LISTED}) = 6"), 30)
        await partners.bind("right")

        await run.until_quiet()
        outcome = await run.outcome(acknowledged=9, faults=2, undoable=("book", "pay"))
        assert not outcome.broken
        assert await run.statuses() == {"completed": 3, "compensated": 3}
        assert await run.value("SELECT count(*) FROM saga_worker.v_saga WHERE attention IS NOT NULL") == 0
        assert await run.value("SELECT sum(unsettled) FROM saga_worker.v_saga") == 0
        refunded = {each.data["deal"] for each in partners.asked("refund")}
        assert refunded == set(taken_back), "what the right did after all, for a deal that was taken back, is undone"
        assert len({each.message_id for each in partners.asked("pay")}) == 6
        await run.stop("heir")
