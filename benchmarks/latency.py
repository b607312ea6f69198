"""How long a four-event saga takes from its start event to its closing one, on an idle system and at half load.

    ./dev bench latency --json

One pair measures on one deployment: first, taking turns with pauses between, single sagas, round trips of one command
through the broker to the participant and back, and single commits (R6 is the first over four times the sum of the
other two, medians all). Then the rate at saturation, and sagas that start at half that rate, each timed from the
moment it was due (R7: their 99th percentile over the idle median).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

from benchmarks.harness.accounting import Reading, Usage
from benchmarks.harness.amqp import Amqp, Delivery, Message, pack_properties
from benchmarks.harness.command import Options, Result, main
from benchmarks.harness.deployment import WARM_UP, Deployment, Product
from benchmarks.harness.echo import QUORUM
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.plot import Chart
from benchmarks.harness.servers import Servers
from benchmarks.harness.verdicts import TARGETS

NAME = "latency"
FIGURES = ("R6", "R7")
SAGAS = 5000  # for the rate at saturation
TURNS = 100
PAUSE_SECONDS = 0.02
LOADED_SECONDS = 4.0
RUN_UP_SECONDS = 0.5  # of the loaded phase, not counted
TICK_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Idle:
    """Milliseconds of every turn."""

    saga: list[float]
    round_trip: list[float]
    commit: list[float]
    usage: Usage

    @property
    def floor(self) -> float:
        return 4 * (median(self.round_trip) + median(self.commit))


@dataclass(frozen=True, slots=True)
class Pair:
    """Both phases of one deployment."""

    idle: Idle
    saturated: float  # sagas per second
    loaded: list[float]  # milliseconds
    usage: Usage  # of the loaded phase

    @property
    def is_disturbed(self) -> bool:
        return self.idle.usage.is_disturbed or self.usage.is_disturbed

    def ratios(self) -> dict[str, float]:
        p50 = median(self.idle.saga)
        return {"R6": p50 / self.idle.floor, "R7": percentile(self.loaded, 99) / p50}

    def document(self) -> dict[str, Any]:
        idle = {"saga": self.idle.saga, "round_trip": self.idle.round_trip, "commit": self.idle.commit}
        return {
            "ratios": {name: round(value, 3) for name, value in self.ratios().items()},
            "disturbed": self.is_disturbed, "foreign_share": round(self.idle.usage.foreign_share, 3),
            "idle_ms": {name: spread(values) for name, values in idle.items()},
            "half_load_ms": spread(self.loaded), "half_load_sagas_per_second": round(self.saturated / 2),
        }  # fmt: skip


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def spread(values: list[float]) -> dict[str, float]:
    return {"p50": round(median(values), 2), "p99": round(percentile(values, 99), 2), "max": round(max(values), 2)}


async def measure(options: Options, servers: Servers) -> Result:
    """R6 and R7."""
    pairs = await measure_pairs(NAME, options, partial(one_pair, options, servers))
    figures = judge_pairs(pairs, {name: TARGETS[name] for name in FIGURES})
    return Result(NAME, figures, {"pairs": [pair.document() for pair in pairs]}, (_chart(pairs),))


async def one_pair(options: Options, servers: Servers) -> Pair:
    product = Product(servers, settings=options.product_settings())
    product.queues += ("probe",)
    async with product:
        await product.complete(WARM_UP)
        idle = await _idle(product)
        sagas = options.sagas or SAGAS
        saturated = sagas / await product.complete(sagas)
        reading = Reading.take(product.roots)
        loaded = await _paced(product, saturated / 2)
        usage = reading.until(Reading.take(product.roots))
        await product.stop_workers()
        await product.check()
    return Pair(idle, saturated, loaded, usage)


async def _idle(product: Deployment) -> Idle:
    probe = await _Probe.open(product)
    await product.database.execute("CREATE TABLE IF NOT EXISTS tiny (v int)")
    commit = await product.database.prepare("INSERT INTO tiny VALUES (1)")
    saga, round_trip, commits = list[float](), list[float](), list[float]()
    turns: list[tuple[list[float], Callable[[], Awaitable[object]]]] = [
        (saga, partial(product.complete, 1)), (round_trip, probe.round_trip), (commits, commit.fetch),
    ]  # fmt: skip
    await probe.round_trip()
    reading = Reading.take(product.roots)
    for _ in range(TURNS):
        for taken, turn in turns:
            began = time.perf_counter()
            await turn()
            taken.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
    usage = reading.until(Reading.take(product.roots))
    await probe.amqp.close()
    return Idle(saga, round_trip, commits, usage)


class _Probe:
    """Sends one command to the participant as a saga does, and waits for the answer: quorum queues both ways."""

    def __init__(self, amqp: Amqp, namespace: str, body: bytes) -> None:
        self.amqp = amqp
        self._queue = f"{namespace}.probe"
        properties = pack_properties(message_id="probe", type="first", reply_to=self._queue)
        self._command = Message(f"{namespace}.commands", "echo.first", properties, body)
        self._answered = asyncio.Event()

    @classmethod
    async def open(cls, product: Deployment) -> _Probe:
        self = cls(await Amqp.connect(product.servers.amqp_url), product.namespace, product.workload.body("probe"))
        await self.amqp.declare_queue(self._queue, QUORUM)
        self.amqp.on_deliveries = self._on_answer
        await self.amqp.consume(self._queue)
        return self

    def _on_answer(self, deliveries: list[Delivery]) -> None:
        self.amqp.ack(deliveries[-1].tag)
        self._answered.set()

    async def round_trip(self) -> None:
        self._answered.clear()
        self.amqp.publish([self._command])
        async with asyncio.timeout(10):
            await self._answered.wait()


async def _paced(product: Deployment, rate: float) -> list[float]:
    """Start sagas at `rate` per second; milliseconds from when each was due to its end."""
    count = int(rate * LOADED_SECONDS)
    first = product.started
    messages = product.starts(count)
    began, sent = time.monotonic(), 0
    while sent < count:
        due = min(count, int((time.monotonic() - began) * rate) + 1)
        if due > sent:
            product.amqp.publish(messages[sent:due])
            sent = due
        await asyncio.sleep(TICK_SECONDS)
    await product.have_ended(product.started)
    run_up = int(RUN_UP_SECONDS * rate)
    return [
        (product.ended[product.key(first + number)] - began - number / rate) * 1000 for number in range(run_up, count)
    ]


def _chart(pairs: list[Pair]) -> Chart:
    percents = {
        f"p{percent}": tuple(
            median(percentile(values, percent) for values in phase)
            for phase in ([pair.idle.saga for pair in pairs], [pair.loaded for pair in pairs])
        )
        for percent in (50, 99)
    }
    return Chart("latency", "Milliseconds from start to end of a saga", ("idle", "half load"), percents)


if __name__ == "__main__":
    main(__doc__ or "", measure)
