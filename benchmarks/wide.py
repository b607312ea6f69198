"""What an item of a wide `for_each` and a step of a long chain cost, beside those of a narrow and a short one.

    ./dev bench wide --json

One pair of W1 runs 100 sagas with 100 items each, two at a time, and then one saga with 10,000, 200 at a time: the same
number of children, each with one command. One pair of W2 runs 100 sagas of 10 commands, twenty times one after the
other, and then 100 of 200: the same number of replies. As many are in flight in the small case as in the large one, so
that batches are of one size. The figures are ratios of the CPU time of worker, PostgreSQL and RabbitMQ for each item or
step; 1 means that size is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main
from benchmarks.harness.deployment import SAGAS as DEFINITIONS
from benchmarks.harness.deployment import Product, Run, Workload
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import SIZES

NAME = "wide"
FIGURES = ("W1", "W2")
ITEMS = 10_000
NARROW = 100
SHORT, LONG = 10, 200


class Sized(Product):
    """With definitions that read their size from the environment; `rounds` of sagas one after another."""

    def __init__(
        self, servers: Servers, *, workload: Workload, sizes: dict[str, int], settings: dict[str, str]
    ) -> None:
        super().__init__(servers, workload=workload, settings=settings)
        self._sizes = {name: str(size) for name, size in sizes.items()}
        self.rounds = 1

    def worker_environment(self) -> dict[str, str]:
        return super().worker_environment() | self._sizes

    async def complete(self, sagas: int) -> float:
        seconds = 0.0
        for _ in range(self.rounds):
            seconds += await super().complete(sagas // self.rounds)
        return seconds


def wide(width: int) -> Workload:
    """Three rows for each child: its start, its reply, and its end."""
    rows = 1 + 3 * width
    return Workload("wide", DEFINITIONS / "wide.py", "bench_started", "bench_completed", rows, rows, sagas=1 + width)


def chain(length: int) -> Workload:
    rows = 1 + length
    return Workload("chain", DEFINITIONS / "chain.py", "bench_started", "bench_completed", rows, rows)


@dataclass(frozen=True, slots=True)
class Pair:
    """Runs of the small and the large size, for items and for steps."""

    narrow: Run
    wide: Run
    short: Run
    long: Run

    @property
    def is_disturbed(self) -> bool:
        return any(run.usage.is_disturbed for run in (self.narrow, self.wide, self.short, self.long))

    def ratios(self) -> dict[str, float]:
        return {"W1": cost(self.wide) / cost(self.narrow), "W2": cost(self.long) / cost(self.short)}

    def document(self) -> dict[str, Any]:
        runs = {"narrow": self.narrow, "wide": self.wide, "short": self.short, "long": self.long}
        ratios = {name: round(ratio, 3) for name, ratio in self.ratios().items()}
        return {"ratios": ratios, "disturbed": self.is_disturbed, **{n: run.document() for n, run in runs.items()}}


def cost(run: Run) -> float:
    """Microseconds of CPU for one inbox row, of which each item has three and each step one."""
    return sum(run.cpu[part] for part in ("worker", "postgresql", "rabbitmq"))


async def measure(options: Options, servers: Servers) -> Result:
    """W1 and W2."""
    pairs = await measure_pairs(NAME, options, partial(one_pair, options, servers, options.sagas or ITEMS))
    figures = judge_pairs(pairs, SIZES)
    costs = {
        f"{NARROW} items": median(cost(p.narrow) for p in pairs),
        "all items": median(cost(p.wide) for p in pairs),
        f"{SHORT} steps": median(cost(p.short) for p in pairs), f"{LONG} steps": median(cost(p.long) for p in pairs),
    }  # fmt: skip
    chart = Chart("wide", "Microseconds of CPU per inbox row", tuple(costs), {"median": tuple(costs.values())})
    detail = {"cpu_us_per_row": {name: round(value) for name, value in costs.items()}}
    return Result(NAME, figures, detail | {"pairs": [pair.document() for pair in pairs]}, (chart,))


async def one_pair(options: Options, servers: Servers, items: int = ITEMS) -> Pair:
    """`items`: how many children each of the runs has, and half as many steps as the chains have."""
    sagas = max(1, items // NARROW)
    return Pair(
        narrow=await one(options, servers, wide(NARROW), {"BENCH_WIDTH": NARROW, "BENCH_FLIGHT": 2}, sagas),
        wide=await one(options, servers, wide(items), {"BENCH_WIDTH": items, "BENCH_FLIGHT": 2 * sagas}, 1),
        short=await one(options, servers, chain(SHORT), {"BENCH_STEPS": SHORT}, sagas * LONG // SHORT, LONG // SHORT),
        long=await one(options, servers, chain(LONG), {"BENCH_STEPS": LONG}, sagas),
    )


async def one(
    options: Options, servers: Servers, workload: Workload, sizes: dict[str, int], sagas: int, rounds: int = 1
) -> Run:
    async with Sized(servers, workload=workload, sizes=sizes, settings=options.product_settings()) as product:
        await product.complete(max(1, sagas // rounds // 10))
        product.rounds = rounds
        return await product.measure(sagas, warm_up=0)


if __name__ == "__main__":
    main(__doc__ or "", measure)
