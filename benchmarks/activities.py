"""Sagas of three activities per second, beside what pgbench does with one transaction per event.

    ./dev bench activities --json

One pair measures the best unbatched pgbench and then the product with the saga of `sagas/three_activities.py`: four
inputs each, of which three are results of activities that have nothing to wait for. Every activity is stored before it
runs and its result before the next begins. R12 counts the sagas per second as events of pgbench, three for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import SAGAS as DEFINITIONS
from benchmarks.harness.deployment import Product, Run, Workload
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import TARGETS
from benchmarks.yardstick import Pgbench, Yardstick

NAME = "activities"
FIGURES = ("R12",)
SAGAS = 6_000
CLIENTS = (1, 2, 4, 8, 16)
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
        pairs = await measure_pairs(NAME, options, partial(one_pair, options, servers, yardstick, clients))
    figures = judge_pairs(pairs, {"R12": TARGETS["R12"]})
    cpu = {name: round(median(pair.product.cpu[name] for pair in pairs), 1) for name in pairs[0].product.cpu}
    detail = {
        "sagas_per_second": round(median(pair.sagas_per_second for pair in pairs)),
        "unbatched": round(median(pair.limit.events_per_second for pair in pairs)), "clients": clients,
        "cpu_us_per_input": cpu,
    }  # fmt: skip
    shown = {name: (cpu[name],) for name in ("worker", "postgresql", "rabbitmq", "harness")}
    chart = Chart("activities-cpu", "CPU microseconds per input", ("product",), shown, stacked=True)
    return Result(NAME, figures, detail | {"pairs": [pair.document() for pair in pairs]}, (chart,))


async def one_pair(options: Options, servers: Servers, yardstick: Yardstick, clients: int) -> Pair:
    limit = await yardstick.run("unbatched", clients=clients)
    async with Product(servers, workload=THREE_ACTIVITIES, settings=options.product_settings()) as product:
        return Pair(limit, await product.measure(options.sagas or SAGAS))


if __name__ == "__main__":
    main(__doc__ or "", measure)
