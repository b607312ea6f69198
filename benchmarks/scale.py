"""The pipeline with one, two and four worker processes on this machine, where the broker is the limit.

    ./dev bench scale --json

One pair runs each number once; R15 is two over one, and four over two.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import Product, Run
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import FOUR_TO_TWO, TARGETS, both, judge

NAME = "scale"
FIGURES = ("R15",)
SAGAS = 10_000
WORKERS = (1, 2, 4)


async def measure(options: Options, servers: Servers) -> Result:
    """R15."""
    rounds = []
    for number in range(options.pairs):
        rounds.append(await _round(options, servers))
        say(f"{NAME}: round {number + 1} of {options.pairs}: {_rates(rounds[-1])}")
    disturbed = [_is_disturbed(runs) for runs in rounds]
    two = judge(TARGETS["R15"], [_ratio(runs, 2, 1) for runs in rounds], disturbed=disturbed)
    four = judge(FOUR_TO_TWO, [_ratio(runs, 4, 2) for runs in rounds], disturbed=disturbed)
    detail = {
        "four_to_two": {"target": FOUR_TO_TWO.text, "value": four.value, "bound": four.target, "pairs": four.pairs},
        "pairs": [{str(count): run.document() for count, run in runs.items()} for runs in rounds],
    }
    return Result(NAME, {"R15": replace(two, verdict=both(two, four))}, detail, (_chart(rounds),))


async def _round(options: Options, servers: Servers) -> dict[int, Run]:
    runs: dict[int, Run] = {}
    for attempt in range(options.repeats):
        for count in WORKERS:
            async with Product(servers, workers=count, settings=options.product_settings()) as product:
                runs[count] = await product.measure(options.sagas or SAGAS)
        if not _is_disturbed(runs) or attempt + 1 == options.repeats:
            break
        say(f"{NAME}: the machine was busy elsewhere; once more.")
    return runs


def _is_disturbed(runs: dict[int, Run]) -> bool:
    return any(run.usage.is_disturbed for run in runs.values())


def _ratio(runs: dict[int, Run], many: int, few: int) -> float:
    return runs[many].events_per_second / runs[few].events_per_second


def _rates(runs: dict[int, Run]) -> dict[int, int]:
    return {count: round(run.events_per_second) for count, run in runs.items()}


def _chart(rounds: list[dict[int, Run]]) -> Chart:
    rates: dict[str, Any] = {
        "median": tuple(median(runs[count].events_per_second for runs in rounds) for count in WORKERS)
    }
    return Chart("scale", "Events per second by worker processes", tuple(map(str, WORKERS)), rates)


if __name__ == "__main__":
    main(__doc__ or "", measure)
