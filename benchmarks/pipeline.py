"""Events per second of a three-command saga, all the way over RabbitMQ and back, beside what pgbench does alone.

    ./dev bench pipeline --json

One pair measures, interleaved: the best unbatched pgbench (one commit per event, and three), the batched and the merged
one (100 events at a time), and the product: sagas of four events each (a start, three replies), three commands and a
closing event out, every delivery acknowledged after its commit, every message confirmed. pgbench has the number of
clients and the product the number of processes that does best here. Each run is checked before it counts. Wall-clock
rates on a shared machine vary; the ratio within a pair is what is worth reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import WARM_UP, Product, Run
from benchmarks.harness.pairs import by_processes, fastest, judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers, new_name
from benchmarks.harness.statements import counting
from benchmarks.harness.verdicts import TARGETS
from benchmarks.yardstick import Pgbench, Yardstick

NAME = "pipeline"
FIGURES = ("R1", "R2", "R3", "R4", "R5", "R10")
SAGAS = 10_000
PROCESSES = (1, 2)
COUNTED_SAGAS = 2000  # in the run that counts statements
# Script -> clients to try and events per transaction; the best is looked for once, and kept for all pairs.
SCRIPTS = {
    "unbatched": ((1, 2, 4, 8, 16), 1),
    "unbatched3": ((1, 2, 4, 8, 16), 1),
    "batched": ((1, 2, 4), 100),
    "merged": ((1, 2, 4), 100),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What pgbench did by script, and the product right after it."""

    limits: dict[str, Pgbench]
    product: Run

    @property
    def is_disturbed(self) -> bool:
        return self.product.usage.is_disturbed or any(run.usage.is_disturbed for run in self.limits.values())

    def ratios(self) -> dict[str, float]:
        rate, cpu = self.product.events_per_second, self.product.cpu
        return {
            "R1": rate / self.limits["unbatched"].events_per_second,
            "R2": rate / self.limits["unbatched3"].events_per_second,
            "R3": rate / self.limits["merged"].events_per_second,
            "R4": cpu["worker"] / self.limits["batched"].cpu["postgresql"],
            "R5": cpu["postgresql"] / self.limits["merged"].cpu["postgresql"],
            "R10": self.product.counted["wal_syncs"] / self.product.events * 1000,
        }

    def document(self) -> dict[str, Any]:
        limits = {script: run.document() for script, run in self.limits.items()}
        ratios = {name: round(value, 3) for name, value in self.ratios().items()}
        return {"ratios": ratios, "disturbed": self.is_disturbed, "product": self.product.document(), "limits": limits}


async def measure(options: Options, servers: Servers) -> Result:
    """R1 to R5 and R10."""
    scan = {}
    async with Yardstick(servers, seconds=options.seconds) as yardstick:
        for script, (clients, batch) in SCRIPTS.items():
            say(f"{NAME}: which number of clients is best for {script}?")
            scan[script] = (await yardstick.best(script, clients, batch=batch)).clients
        found = await by_processes(NAME, PROCESSES, partial(_product, options, servers), options.sagas or SAGAS)
        make_product = partial(_product, options, servers, fastest(found))
        pairs = await measure_pairs(NAME, options, partial(one_pair, options, make_product, yardstick, scan))
    figures = judge_pairs(pairs, {name: TARGETS[name] for name in FIGURES})
    detail = {"path": "general" if options.general else "fast", "clients": scan, **_medians(pairs)}
    detail["processes"] = {"best": fastest(found), "scan": {count: run.document() for count, run in found.items()}}
    detail["statements"] = await count_statements(options, servers)
    return Result(NAME, figures, detail | {"pairs": [pair.document() for pair in pairs]}, _charts(pairs))


def _product(options: Options, servers: Servers, processes: int) -> Product:
    return Product(servers, workers=processes, settings=options.product_settings())


async def one_pair(
    options: Options, make_product: Callable[[], Product], yardstick: Yardstick, clients: dict[str, int]
) -> Pair:
    limits = {
        script: await yardstick.run(script, clients=clients[script], batch=batch)
        for script, (_, batch) in SCRIPTS.items()
    }
    async with make_product() as product:
        return Pair(limits, await product.measure(options.sagas or SAGAS))


async def count_statements(options: Options, servers: Servers) -> dict[str, Any]:
    """Statements and round trips of the transactions that store deliveries, counted by a proxy."""
    name = new_name()
    await servers.admin.execute(f'CREATE DATABASE "{name}"')
    try:
        async with counting(servers.url_of(name)) as (url, counter):
            settings = options.product_settings() | {"SAGA_WORKER_DATABASE_URL": url}
            product = Product(servers, database=name, settings=settings)
            await product.prepare()
            async with product:
                await product.complete(WARM_UP)
                counter.transactions.clear()
                await product.complete(min(COUNTED_SAGAS, options.sagas or SAGAS))
                counted = counter.document()
    finally:
        await servers.drop(name)
    return counted


def _medians(pairs: list[Pair]) -> dict[str, Any]:
    cpu = {name: round(median(pair.product.cpu[name] for pair in pairs), 1) for name in pairs[0].product.cpu}
    limits = {
        script: round(median(pair.limits[script].events_per_second for pair in pairs)) for script in pairs[0].limits
    }
    return {
        "events_per_second": round(median(pair.product.events_per_second for pair in pairs)),
        "cpu_us_per_event": cpu, "limits": limits,
    }  # fmt: skip


def _charts(pairs: list[Pair]) -> tuple[Chart, ...]:
    medians = _medians(pairs)
    rates = {**medians["limits"], "product": medians["events_per_second"]}
    cpu = {name: (medians["cpu_us_per_event"][name],) for name in ("worker", "postgresql", "rabbitmq", "harness")}
    return (
        Chart("pipeline-rates", "Events per second", tuple(rates), {"median": tuple(rates.values())}),
        Chart("pipeline-cpu", "CPU microseconds per event", ("product",), cpu, stacked=True),
    )


if __name__ == "__main__":
    main(__doc__ or "", measure)
