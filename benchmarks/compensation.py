"""Compensated sagas beside completed ones of the same definition: turning back must cost what going on costs.

    ./dev bench compensation --json

One pair runs the saga of `sagas/undone.py` twice: with a participant that does all it is asked, and with one that
refuses the third command, so that the first two are undone. R13 is the ratio of the events per second of both runs,
four events for a completed saga and six for a compensated one. A run ends when the last saga has: a compensated one
publishes no event, so that both are found in the table.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import SAGAS as DEFINITIONS
from benchmarks.harness.deployment import Product, Run, Workload, until
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import TARGETS, judge
from saga_worker.saga.transitions import Status

NAME = "compensation"
FIGURES = ("R13",)
SAGAS = 6_000
COMPLETED = Workload("completed", DEFINITIONS / "undone.py", "bench_started", "bench_completed", 4, 4)
COMPENSATED = Workload(
    "compensated", DEFINITIONS / "undone.py", "bench_started", "bench_completed", 6, 6, Status.COMPENSATED,
    answers={"third": "refused"},
)  # fmt: skip


class Ended(Product):
    """A run that is over when the last saga is at its end in the database."""

    async def complete(self, sagas: int) -> float:
        messages = self.starts(sagas)
        began = time.monotonic()
        await self.amqp.publish_all(messages)
        await until(self._have_all_finished, seconds=600, alive=self.workers)
        return time.monotonic() - began

    async def _have_all_finished(self) -> bool:
        finished = await self.database.fetchval("SELECT count(*) FROM saga_worker.saga WHERE finished_at IS NOT NULL")
        return bool(finished == self.started)


@dataclass(frozen=True, slots=True)
class Pair:
    completed: Run
    compensated: Run

    @property
    def is_disturbed(self) -> bool:
        return self.completed.usage.is_disturbed or self.compensated.usage.is_disturbed

    @property
    def ratio(self) -> float:
        return self.compensated.events_per_second / self.completed.events_per_second

    def document(self) -> dict[str, Any]:
        return {
            "ratio": round(self.ratio, 3), "disturbed": self.is_disturbed,
            "completed": self.completed.document(), "compensated": self.compensated.document(),
        }  # fmt: skip


async def measure(options: Options, servers: Servers) -> Result:
    """R13."""
    pairs = []
    for number in range(options.pairs):
        pairs.append(await one_pair(options, servers))
        say(f"{NAME}: pair {number + 1} of {options.pairs}: {pairs[-1].ratio:.3f}")
    figure = judge(
        TARGETS["R13"], [pair.ratio for pair in pairs], disturbed=[pair.is_disturbed for pair in pairs]
    )  # fmt: skip
    rates = {
        "completed": median(pair.completed.events_per_second for pair in pairs),
        "compensated": median(pair.compensated.events_per_second for pair in pairs),
    }
    chart = Chart("compensation", "Events per second", tuple(rates), {"median": tuple(rates.values())})
    detail = {"events_per_second": {name: round(rate) for name, rate in rates.items()}}
    return Result(NAME, {"R13": figure}, detail | {"pairs": [pair.document() for pair in pairs]}, (chart,))


async def one_pair(options: Options, servers: Servers) -> Pair:
    for attempt in range(options.repeats):
        runs = []
        for workload in (COMPLETED, COMPENSATED):
            async with Ended(servers, workload=workload, settings=options.product_settings()) as product:
                runs.append(await product.measure(options.sagas or SAGAS))
        pair = Pair(*runs)
        if not pair.is_disturbed or attempt + 1 == options.repeats:
            break
        say(f"{NAME}: the machine was busy elsewhere; once more.")
    return pair


if __name__ == "__main__":
    main(__doc__ or "", measure)
