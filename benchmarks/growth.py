"""What a long history, a snapshot that is held open, and a long queue cost.

    ./dev bench growth --json

R8: events per second in a database with a million ended sagas and a million inbox rows, over those in an empty one.
R9: a transaction elsewhere holds a snapshot while 300,000 events are drained; the rate at the end of that, over the
rate of as many events right after the snapshot is gone and the tables are vacuumed. R14: the peak of a worker's memory
while a million events wait in its queue. `--size 0.01` makes a hundredth of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import asyncpg

from benchmarks.harness.accounting import Reading, Usage, peak_rss_megabytes
from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import WARM_UP, Product, Run, until
from benchmarks.harness.history import multiply
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers, new_name
from benchmarks.harness.verdicts import TARGETS, Figure, judge

NAME = "growth"
FIGURES = ("R8", "R9", "R14")
SAGAS = 10_000
ENDED_SAGAS = 1_000_000
COPIED_SAGAS = 1000  # run for real, then multiplied
EVENTS_UNDER_SNAPSHOT = 300_000
WAITING_EVENTS = 1_000_000
PUBLISHED_TOGETHER = 20_000


@dataclass(frozen=True, slots=True)
class History:
    """The pipeline on an empty database, and on one that was filled before."""

    empty: Run
    filled: Run

    @property
    def is_disturbed(self) -> bool:
        return self.empty.usage.is_disturbed or self.filled.usage.is_disturbed

    def ratios(self) -> dict[str, float]:
        return {"R8": self.filled.events_per_second / self.empty.events_per_second}


@dataclass(frozen=True, slots=True)
class Held:
    """Events per second at the end of a held snapshot, and after it."""

    under: float
    without: float
    usages: tuple[Usage, Usage]

    @property
    def is_disturbed(self) -> bool:
        return any(usage.is_disturbed for usage in self.usages)

    def ratios(self) -> dict[str, float]:
        return {"R9": self.under / self.without}


async def measure(options: Options, servers: Servers) -> Result:
    """R8, R9 and R14."""
    history, history_detail = await _history(options, servers)
    snapshot, snapshot_detail = await _snapshot(options, servers)
    memory, memory_detail = await _memory(options, servers)
    figures = {"R8": history, "R9": snapshot, "R14": memory}
    if options.size != 1:
        figures = {name: replace(figure, verdict="inconclusive") for name, figure in figures.items()}
    detail = {"size": options.size, "history": history_detail, "snapshot": snapshot_detail, "memory": memory_detail}
    return Result(NAME, figures, detail, (_chart(figures),))


# -- a long history ---------------------------------------------------------------------------------------------------


async def _history(options: Options, servers: Servers) -> tuple[Figure, dict[str, Any]]:
    filled = new_name()
    try:
        sizes = await _fill(options, servers, filled)
        pairs = await measure_pairs(f"{NAME}, history", options, partial(one_history, options, servers, filled))
    finally:
        await servers.drop(filled)
    documents = [{"empty": pair.empty.document(), "filled": pair.filled.document()} for pair in pairs]
    return judge_pairs(pairs, {"R8": TARGETS["R8"]})["R8"], {"bytes_per_saga": sizes, "pairs": documents}


async def one_history(options: Options, servers: Servers, filled: str) -> History:
    runs = []
    for database in (None, filled):
        async with Product(servers, database=database, settings=options.product_settings()) as product:
            runs.append(await product.measure(options.sagas or SAGAS))
    return History(*runs)


async def _fill(options: Options, servers: Servers, name: str) -> dict[str, int]:
    """Bytes on disk per saga of four events, with indexes, by table."""
    sagas = int(ENDED_SAGAS * options.size)
    say(f"{NAME}: filling a database with {sagas} sagas and as many inbox rows.")
    await servers.admin.execute(f'CREATE DATABASE "{name}"')
    product = Product(servers, database=name)
    await product.prepare()
    async with product:
        await product.complete(COPIED_SAGAS)
        await product.stop_workers()
        await product.check()
        await multiply(product.database, sagas)
        rows_per_saga = {"saga": 1, "inbox": product.workload.events, "journal": product.workload.steps}
        return {
            table: round(await _bytes_per_row(product.database, table) * rows) for table, rows in rows_per_saga.items()
        }


async def _bytes_per_row(database: asyncpg.Connection, table: str) -> float:
    size = f"pg_total_relation_size('saga_worker.{table}')"
    return float(await database.fetchval(f"SELECT {size}::float / count(*) FROM saga_worker.{table}"))


# -- a snapshot held open ---------------------------------------------------------------------------------------------


async def _snapshot(options: Options, servers: Servers) -> tuple[Figure, dict[str, Any]]:
    pairs = await measure_pairs(f"{NAME}, snapshot", options, partial(one_held, options, servers))
    documents = [{"under": round(pair.under), "without": round(pair.without)} for pair in pairs]
    return judge_pairs(pairs, {"R9": TARGETS["R9"]})["R9"], {"pairs": documents}


async def one_held(options: Options, servers: Servers) -> Held:
    async with Product(servers, settings=options.product_settings()) as product:
        per_saga = product.workload.events
        counted = options.sagas or SAGAS
        before_that = max(0, int(EVENTS_UNDER_SNAPSHOT * options.size) // per_saga - counted)
        await product.complete(WARM_UP)
        holder = await asyncpg.connect(product.database_url)
        async with holder.transaction(isolation="repeatable_read"):
            await holder.fetchval("SELECT count(*) FROM saga_worker.saga")  # from here on it sees this moment
            if before_that:
                await product.complete(before_that)
            under, usage_under = await _drain(product, counted)
        await holder.close()
        await product.database.execute("VACUUM")  # what autovacuum could not do meanwhile
        without, usage_without = await _drain(product, counted)
        await product.stop_workers()
        await product.check()
    return Held(under, without, (usage_under, usage_without))


async def _drain(product: Product, sagas: int) -> tuple[float, Usage]:
    """Events per second."""
    await product.servers.admin.execute("CHECKPOINT")
    reading = Reading.take(product.roots)
    seconds = await product.complete(sagas)
    return sagas * product.workload.events / seconds, reading.until(Reading.take(product.roots))


# -- a long queue -----------------------------------------------------------------------------------------------------


async def _memory(options: Options, servers: Servers) -> tuple[Figure, dict[str, Any]]:
    waiting = int(WAITING_EVENTS * options.size)
    async with Product(servers, settings=options.product_settings()) as product:
        await product.complete(WARM_UP)
        await product.stop_workers()
        say(f"{NAME}: {waiting} events go into the queue.")
        for _ in range(0, waiting, PUBLISHED_TOGETHER):
            await product.amqp.publish_all(product.starts(min(PUBLISHED_TOGETHER, waiting)))
        queued, _ = await product.amqp.depth(f"{product.namespace}.inbox")
        await product.start_workers(wait=False)
        # An answer queues up behind the starts, so that no saga ends before all have begun.
        begun = WARM_UP + min(options.sagas or SAGAS, waiting // 2)
        await until(partial(_have_begun, product, begun), seconds=300, alive=product.workers)
        peak = peak_rss_megabytes(product.workers[0].pid)
        left, _ = await product.amqp.depth(f"{product.namespace}.inbox")
    say(f"{NAME}: {round(peak)} MB with {queued} events waiting at first, {left} in the end")
    return judge(TARGETS["R14"], [peak]), {"queued": queued, "left": left, "peak_rss_mb": round(peak)}


async def _have_begun(product: Product, sagas: int) -> bool:
    return bool(await product.database.fetchval("SELECT count(*) >= $1 FROM saga_worker.saga", sagas))


def _chart(figures: dict[str, Figure]) -> Chart:
    ratios = {"measured": tuple(figures[name].value or 0.0 for name in ("R8", "R9"))}
    targets = {"target": tuple(TARGETS[name].bound for name in ("R8", "R9"))}
    return Chart("growth", "Rate over that of a fresh system", ("long history", "held snapshot"), ratios | targets)


if __name__ == "__main__":
    main(__doc__ or "", measure)
