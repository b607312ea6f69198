"""Sagas of three activities per second, beside what pgbench does with one transaction per event.

    ./dev bench activities --json

How many clients and how many worker processes are best is looked for once and kept. One pair measures unbatched pgbench
and then the product with the saga of `sagas/three_activities.py`: four inputs each, of which three are results of
activities that have nothing to wait for. Every activity is stored before it runs and its result before the next begins.
R12 counts the sagas per second as events of pgbench, three for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import SAGAS as DEFINITIONS
from benchmarks.harness.deployment import Product, Run, Workload
from benchmarks.harness.pairs import by_processes, fastest, judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import TARGETS
from benchmarks.yardstick import Pgbench, Yardstick

NAME = "activities"
FIGURES = ("R12",)
SAGAS = 6_000
CLIENTS = (1, 2, 4, 8, 16)
PROCESSES = (1, 2)
ACTIVITIES = 3
THREE_ACTIVITIES = Workload(
    "three_activities", DEFINITIONS / "three_activities.py", "bench_started", "bench_completed", 4, 4
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    limit: Pgbench
    product: Run

    @property
    def is_disturbed(self) -> bool:
        return self.limit.usage.is_disturbed or self.product.usage.is_disturbed

    @property
    def sagas_per_second(self) -> float:
        return self.product.sagas / self.product.seconds

    def ratios(self) -> dict[str, float]:
        return {"R12": self.sagas_per_second / (self.limit.events_per_second / ACTIVITIES)}

    def document(self) -> dict[str, Any]:
        return {
            "ratio": round(self.ratios()["R12"], 3), "disturbed": self.is_disturbed,
            "sagas_per_second": round(self.sagas_per_second), "product": self.product.document(),
            "limit": self.limit.document(),
        }  # fmt: skip


async def measure(options: Options, servers: Servers) -> Result:
    """R12."""
    async with Yardstick(servers, seconds=options.seconds) as yardstick:
        say(f"{NAME}: which number of clients is best for pgbench?")
        clients = (await yardstick.best("unbatched", CLIENTS)).clients
        product = partial(product_of, options, servers)
        scan = await by_processes(NAME, PROCESSES, product, options.sagas or SAGAS)
        one = partial(one_pair, options, yardstick, clients, partial(product, fastest(scan)))
        pairs = await measure_pairs(NAME, options, one)
    figures = judge_pairs(pairs, {"R12": TARGETS["R12"]})
    cpu = {name: round(median(pair.product.cpu[name] for pair in pairs), 1) for name in pairs[0].product.cpu}
    detail = {
        "sagas_per_second": round(median(pair.sagas_per_second for pair in pairs)),
        "unbatched": round(median(pair.limit.events_per_second for pair in pairs)), "clients": clients,
        "processes": fastest(scan), "scan": {count: run.document() for count, run in scan.items()},
        "cpu_us_per_input": cpu,
    }  # fmt: skip
    shown = {name: (cpu[name],) for name in ("worker", "postgresql", "rabbitmq", "harness")}
    chart = Chart("activities-cpu", "CPU microseconds per input", ("product",), shown, stacked=True)
    return Result(NAME, figures, detail | {"pairs": [pair.document() for pair in pairs]}, (chart,))


def product_of(options: Options, servers: Servers, workers: int) -> Product:
    return Product(servers, workload=THREE_ACTIVITIES, workers=workers, settings=options.product_settings())


async def one_pair(options: Options, yardstick: Yardstick, clients: int, product: Callable[[], Product]) -> Pair:
    limit = await yardstick.run("unbatched", clients=clients)
    async with product() as deployment:
        return Pair(limit, await deployment.measure(options.sagas or SAGAS))


if __name__ == "__main__":
    main(__doc__ or "", measure)
