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
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main
from benchmarks.harness.deployment import SAGAS as DEFINITIONS
from benchmarks.harness.deployment import Product, Run, Workload, until
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import TARGETS
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

    def ratios(self) -> dict[str, float]:
        return {"R13": self.compensated.events_per_second / self.completed.events_per_second}

    def document(self) -> dict[str, Any]:
        return {
            "ratio": round(self.ratios()["R13"], 3), "disturbed": self.is_disturbed,
            "completed": self.completed.document(), "compensated": self.compensated.document(),
        }  # fmt: skip


async def measure(options: Options, servers: Servers) -> Result:
    """R13."""
    pairs = await measure_pairs(NAME, options, partial(one_pair, options, servers))
    figures = judge_pairs(pairs, {"R13": TARGETS["R13"]})
    rates = {
        "completed": median(pair.completed.events_per_second for pair in pairs),
        "compensated": median(pair.compensated.events_per_second for pair in pairs),
    }
    chart = Chart("compensation", "Events per second", tuple(rates), {"median": tuple(rates.values())})
    detail = {"events_per_second": {name: round(rate) for name, rate in rates.items()}}
    return Result(NAME, figures, detail | {"pairs": [pair.document() for pair in pairs]}, (chart,))


async def one_pair(options: Options, servers: Servers) -> Pair:
    runs = []
    for workload in (COMPLETED, COMPENSATED):
        async with Ended(servers, workload=workload, settings=options.product_settings()) as product:
            runs.append(await product.measure(options.sagas or SAGAS))
    return Pair(*runs)


if __name__ == "__main__":
    main(__doc__ or "", measure)
