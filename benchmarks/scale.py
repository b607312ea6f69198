"""The pipeline with one, two and four worker processes on this machine, where the broker is the limit.

    ./dev bench scale --json

One pair runs each number once; R15 is two over one, and four over two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main
from benchmarks.harness.deployment import Product, Run
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import FOUR_TO_TWO, TARGETS, both

NAME = "scale"
FIGURES = ("R15",)
SAGAS = 10_000
WORKERS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Round:
    """A run for each number of workers."""

    runs: dict[int, Run]

    @property
    def is_disturbed(self) -> bool:
        return any(run.usage.is_disturbed for run in self.runs.values())

    def ratios(self) -> dict[str, float]:
        rate = {count: run.events_per_second for count, run in self.runs.items()}
        return {"two_to_one": rate[2] / rate[1], "four_to_two": rate[4] / rate[2]}

    def document(self) -> dict[str, Any]:
        return {str(count): run.document() for count, run in self.runs.items()}


async def measure(options: Options, servers: Servers) -> Result:
    """R15."""
    rounds = await measure_pairs(NAME, options, partial(one_round, options, servers))
    figures = judge_pairs(rounds, {"two_to_one": TARGETS["R15"], "four_to_two": FOUR_TO_TWO})
    verdict = both(*figures.values())
    detail = {"four_to_two": asdict(figures["four_to_two"]), "pairs": [each.document() for each in rounds]}
    return Result(NAME, {"R15": replace(figures["two_to_one"], verdict=verdict)}, detail, (_chart(rounds),))


async def one_round(options: Options, servers: Servers) -> Round:
    runs: dict[int, Run] = {}
    for count in WORKERS:
        async with Product(servers, workers=count, settings=options.product_settings()) as product:
            runs[count] = await product.measure(options.sagas or SAGAS)
    return Round(runs)


def _chart(rounds: list[Round]) -> Chart:
    rates = tuple(median(each.runs[count].events_per_second for each in rounds) for count in WORKERS)
    return Chart("scale", "Events per second by worker processes", tuple(map(str, WORKERS)), {"median": rates})


if __name__ == "__main__":
    main(__doc__ or "", measure)
