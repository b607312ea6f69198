"""P22: an undo that its participant refuses, a few times, or for ever: then it is in somebody's hands, never silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests.faults.campaign import DEAL, Campaign, Event, Place
from tests.faults.definitions.deal import UNDO_TRIES
from tests.faults.partners import REJECTED, Asked, Partners, Reply, agreeable

Eventually = Callable[..., Awaitable[Any]]


class Stubborn:
    """Declines every payment, so that each deal is undone; refuses the undos of a deal as long as it likes."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.is_open = False

    def __call__(self, asked: Asked) -> Sequence[Reply]:
        deal = asked.data["deal"]
        if asked.type == "pay":
            return [REJECTED]
        if asked.type != "unbook" or self._gives_in(deal):
            return agreeable(asked)
        self.refusals[deal] += 1
        return [REJECTED]

    def _gives_in(self, deal: str) -> bool:
        return self.is_open or (deal.startswith("twice") and self.refusals[deal] == 2)


@pytest.mark.slow
async def test_a_refused_undo_is_tried_again_then_listed_and_taken_up_by_retry(
    place: Place, eventually: Eventually
) -> None:
    """features: 33, 45; M30"""
    stubborn = Stubborn()
    async with Campaign(place, DEAL) as run, Partners(run, stubborn) as partners:

        async def listed() -> dict[str, str]:
            rows = await run.fetch("SELECT key, attention FROM saga_worker.v_saga WHERE attention IS NOT NULL")
            return {row["key"]: row["attention"] for row in rows}

        await run.start_worker("worker")
        deals = [f"{kind}-{number}" for kind in ("twice", "ever") for number in range(3)]
        await run.publish([Event(f"open-{deal}", "deal_opened", {"deal": deal}) for deal in deals])
        await run.until_quiet()

        ever = {f"ever-{number}": "undo_failed: book" for number in range(3)}
        assert await listed() == ever
        assert await run.statuses() == {"compensated": 3, "compensating": 3}
        assert stubborn.refusals == Counter({f"twice-{n}": 2 for n in range(3)} | dict.fromkeys(ever, UNDO_TRIES))

        # A retry while the participant still refuses: as many tries again, then listed again.
        assert (await run.command("saga", "retry", "deal/ever-0", "--why", "hoping")).code == 0
        await eventually(lambda: stubborn.refusals["ever-0"] == 2 * UNDO_TRIES, 30)
        await run.until_quiet()
        assert await listed() == ever

        await run.kill("worker")  # the list outlives the worker
        await run.start_worker("worker")
        stubborn.is_open = True
        retried = await run.command("saga", "retry", "--all-attention", "--yes", "--why", "it bears it now")
        assert retried.code == 0, retried.err
        await run.until_quiet()
        run.faults += sum(stubborn.refusals.values())
        outcome = await run.outcome(acknowledged=6, faults=6, undoable=("book", "pay"))

        assert not outcome.broken
        assert await listed() == {}
        assert await run.statuses() == {"compensated": 6}
        for deal in deals:
            undos = [each.message_id for each in partners.asked("unbook", deal)]
            refused = stubborn.refusals[deal]
            assert len(set(undos)) == refused + 1, "a new id for each try after a refusal"
        await run.stop("worker")
