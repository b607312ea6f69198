"""The product beside the worker that a good engineer writes by hand (`handwritten.py`), each at its best.

    ./dev bench against_handwritten --json

Both play the same saga with the same load generator, participant, queues and servers. How many processes are best is
looked for once and kept for all pairs. One pair measures the handwritten worker, then the product; both are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from subprocess import PIPE
from typing import Any

from benchmarks import handwritten
from benchmarks.harness.command import Options, Result, main
from benchmarks.harness.deployment import Deployment, Product, Run, WrongRun
from benchmarks.harness.pairs import by_processes, fastest, judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import TARGETS

NAME = "against_handwritten"
FIGURES = ("R11",)
HANDWRITTEN_SAGAS = 2_000  # so that both run for seconds
SAGAS = 10_000
PROCESSES = {"handwritten": (1, 2, 3), "product": (1, 2)}
Contender = Callable[[int], Deployment]  # by number of processes


class Handwritten(Deployment):
    """Processes of `handwritten.py` on tables of their own."""

    worker_stdout = PIPE  # they say when they are ready

    async def prepare(self) -> None:
        await handwritten.create_tables(self.database_url)

    def worker_command(self) -> Sequence[str]:
        return ("-m", "benchmarks.handwritten", self.database_url, self.servers.amqp_url, self.namespace)

    async def wait_for_workers(self) -> None:
        for worker in self.workers:
            assert worker.stdout is not None
            with worker.stdout as said:
                if said.readline() != b"ready\n":
                    raise WrongRun("A handwritten worker did not start; its words are above.")

    async def check_tables(self, sagas: int) -> None:
        found = await self.database.fetchrow(
            "SELECT (SELECT count(*) FROM saga WHERE status = $1) AS ended, (SELECT count(*) FROM saga) AS sagas,"
            " (SELECT count(*) FROM inbox) AS inbox, (SELECT count(*) FROM saga_history) AS history,"
            " (SELECT count(*) FROM outbox) AS unsent",
            handwritten.COMPLETED,
        )
        events = sagas * self.workload.events
        wanted = {"ended": sagas, "sagas": sagas, "inbox": events, "history": events, "unsent": 0}
        if dict(found or {}) != wanted:
            raise WrongRun(f"The tables hold {dict(found or {})}; wanted {wanted}.")


@dataclass(frozen=True, slots=True)
class Pair:
    handwritten: Run
    product: Run

    @property
    def is_disturbed(self) -> bool:
        return self.handwritten.usage.is_disturbed or self.product.usage.is_disturbed

    def ratios(self) -> dict[str, float]:
        return {"R11": self.product.events_per_second / self.handwritten.events_per_second}

    def document(self) -> dict[str, Any]:
        return {
            "ratio": round(self.ratios()["R11"], 3), "disturbed": self.is_disturbed,
            "handwritten": self.handwritten.document(), "product": self.product.document(),
        }  # fmt: skip


async def measure(options: Options, servers: Servers) -> Result:
    """R11."""
    contenders: dict[str, Contender] = {
        "handwritten": lambda count: Handwritten(servers, workers=count),
        "product": lambda count: Product(servers, workers=count, settings=options.product_settings()),
    }
    sagas = {
        "handwritten": min(options.sagas or HANDWRITTEN_SAGAS, HANDWRITTEN_SAGAS),
        "product": options.sagas or SAGAS,
    }
    scan = {
        name: await by_processes(f"{NAME}: {name}", PROCESSES[name], contender, sagas[name])
        for name, contender in contenders.items()
    }
    best = {name: fastest(runs) for name, runs in scan.items()}
    pairs = await measure_pairs(NAME, options, partial(one_pair, contenders, best, sagas))
    figures = judge_pairs(pairs, {"R11": TARGETS["R11"]})
    rates = {
        "handwritten": round(median(pair.handwritten.events_per_second for pair in pairs)),
        "product": round(median(pair.product.events_per_second for pair in pairs)),
    }
    detail = {
        "processes": best, "events_per_second": rates,
        "scan": {name: {count: run.document() for count, run in runs.items()} for name, runs in scan.items()},
        "pairs": [pair.document() for pair in pairs],
    }  # fmt: skip
    chart = Chart("against-handwritten", "Events per second", tuple(rates), {"median": tuple(rates.values())})
    return Result(NAME, figures, detail, (chart,))


async def one_pair(contenders: dict[str, Contender], processes: dict[str, int], sagas: dict[str, int]) -> Pair:
    runs = {}
    for name, contender in contenders.items():
        async with contender(processes[name]) as deployment:
            runs[name] = await deployment.measure(sagas[name])
    return Pair(**runs)


if __name__ == "__main__":
    main(__doc__ or "", measure)
