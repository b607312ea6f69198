"""Order under fire: producers publish numbered events of many keys, workers are killed at random, and the journal is
read: each key's events have to be applied in order, each once.

`python tests/faults/ordered.py --partitions 8` spreads the keys over partitions; `--sequence` has one queue and the
definition number its events. Neither is the control: one queue and many workers lose the order. Prints a line of
JSON and exits 1 when an event is out of order, missing or doubled. The suite runs each kind, smaller
(`test_ordered.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from saga_worker.broker import BrokerConnection, Confirmed, Outgoing, Properties, Publisher, Topology
from saga_worker.testing.namespaces import Namespace
from tests.faults.campaign import OWN, Campaign, Place

GROUP: Final = 200
QUIET_SECONDS: Final = 60.0  # without a single event applied, the run is given up
APPLIED: Final = "SELECT count(*) FROM saga_worker.journal"
JOURNAL: Final = """\
SELECT s.key, array_agg(j.message_id ORDER BY j.revision) AS applied
FROM saga_worker.v_journal j JOIN saga_worker.v_saga s USING (saga_id) GROUP BY s.key"""


@dataclass(frozen=True, slots=True)
class Plan:
    events: int = 100_000
    producers: int = 8
    workers: int = 4
    keys: int = 200
    partitions: int = 1
    sequence: bool = False
    kill_seconds: float = 3.0  # from one kill to the next, on average; 0: none
    seed: int = 1

    def numbers(self, key: int) -> range:
        """The numbers of a key's events: from 1 on, all keys about alike."""
        return range(1, (self.events - key - 1) // self.keys + 2)


@dataclass(frozen=True, slots=True)
class Outcome:
    plan: Plan
    kills: int
    seconds: float
    applied: int
    out_of_order: int
    missing: int
    doubled: int
    dead: int

    @property
    def is_clean(self) -> bool:
        return self.out_of_order == self.missing == self.doubled == self.dead == 0


async def ordered(place: Place, plan: Plan, *, worker_settings: dict[str, str] | None = None) -> Outcome:
    """One run on an empty, migrated database."""
    settings = {
        "SAGA_WORKER_PARTITIONS": str(plan.partitions),
        "SAGA_WORKER_MAX_CRASHES": "100",  # these are killed for no fault of a row
        "METER_SEQUENCE": str(int(plan.sequence)),
        **(worker_settings or {}),
    }
    async with Campaign(place, OWN / "ordered.py", settings) as run:
        names = [f"worker-{number}" for number in range(plan.workers)]
        await run.start_workers(*names)
        started = time.monotonic()
        killing = asyncio.create_task(_kill(run, names, plan))
        try:
            await asyncio.gather(*(_produce(place, plan, number) for number in range(plan.producers)))
            applied = await _until_applied(run, plan.events)
        finally:
            killing.cancel()
            await asyncio.wait({killing})
        seconds = time.monotonic() - started
        if not killing.cancelled() and (error := killing.exception()) is not None:
            raise error
        journal = {row["key"]: row["applied"] for row in await run.fetch(JOURNAL)}
        dead = await run.value("SELECT count(*) FROM saga_worker.v_dead")
        await run.stop(*run.processes.running)
        return _judge(plan, journal, run.faults, seconds, applied, dead)


async def _produce(place: Place, plan: Plan, producer: int) -> None:
    """All keys of one producer in turns, in order on one channel, every event confirmed."""
    topology = Topology(str(place.namespace), plan.partitions)
    publisher = Publisher(BrokerConnection(place.amqp_url, f"producer {producer}"), topology)
    await publisher.start()
    try:
        await publisher.ready(30)
        keys = range(producer, plan.keys, plan.producers)
        longest = max((len(plan.numbers(key)) for key in keys), default=0)
        messages = [
            _message(topology, f"meter-{key}", n, f"producer-{producer}")
            for n in range(1, longest + 1)
            for key in keys
            if n in plan.numbers(key)
        ]
        for start in range(0, len(messages), GROUP):
            outcomes = await publisher.publish(messages[start : start + GROUP])
            assert all(isinstance(outcome, Confirmed) for outcome in outcomes), outcomes
    finally:
        await publisher.close()


def _message(topology: Topology, key: str, n: int, source: str) -> Outgoing:
    event_type = "installed" if n == 1 else "reading"
    properties = Properties(
        message_id=f"{key}:{n}", type=event_type, app_id=source, delivery_mode=2, content_type="application/json",
        headers={"saga-key": key},
    )  # fmt: skip
    body = json.dumps({"meter": key, "n": n}).encode()
    return Outgoing(topology.events, event_type, body, properties, mandatory=True)


async def _kill(run: Campaign, names: Sequence[str], plan: Plan) -> None:
    """One worker after the other, at random; each is started again at once."""
    rng = random.Random(plan.seed)
    starting: dict[str, asyncio.Task[None]] = {}
    try:
        while plan.kill_seconds:
            await asyncio.sleep(plan.kill_seconds * rng.uniform(0.5, 1.5))
            name = rng.choice(names)
            if name in starting:
                await asyncio.wait({starting[name]})  # not cancelled with this task: half a start cannot be stopped
            await run.kill(name)
            starting[name] = asyncio.create_task(run.start_worker(name))
    finally:
        await asyncio.gather(*starting.values())


async def _until_applied(run: Campaign, events: int) -> int:
    applied, moved_at = 0, time.monotonic()
    while applied < events and time.monotonic() - moved_at < QUIET_SECONDS:
        await asyncio.sleep(0.2)
        now_applied = int(await run.value(APPLIED))
        if now_applied > applied:
            applied, moved_at = now_applied, time.monotonic()
    return applied


def _judge(plan: Plan, journal: dict[str, list[str]], kills: int, seconds: float, applied: int, dead: int) -> Outcome:
    out_of_order = missing = doubled = 0
    for key in range(plan.keys):
        numbers = [int(message_id.rpartition(":")[2]) for message_id in journal.get(f"meter-{key}", [])]
        missing += len(set(plan.numbers(key)) - set(numbers))
        doubled += len(numbers) - len(set(numbers))
        out_of_order += sum(n < before for before, n in pairwise(numbers))
    return Outcome(plan, kills, round(seconds, 1), applied, out_of_order, missing, doubled, dead)


def main() -> int:
    plain = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", required=True, help="an empty database; it is migrated")
    parser.add_argument("--amqp-url", required=True)
    parser.add_argument("--events", type=int, default=plain.events)
    parser.add_argument("--producers", type=int, default=plain.producers)
    parser.add_argument("--workers", type=int, default=plain.workers)
    parser.add_argument("--keys", type=int, default=plain.keys)
    parser.add_argument("--partitions", type=int, default=plain.partitions)
    parser.add_argument("--sequence", action="store_true", help="the definition numbers its events")
    parser.add_argument("--kill-seconds", type=float, default=plain.kill_seconds, help="0: kill nobody")
    parser.add_argument("--seed", type=int, default=plain.seed)
    parser.add_argument("--general", action="store_true", help="the workers run without the fast path")
    options = vars(parser.parse_args())
    database_url, amqp_url = options.pop("database_url"), options.pop("amqp_url")
    settings = {"SAGA_WORKER_FAST_PATH": "false"} if options.pop("general") else {}
    outcome = asyncio.run(_run(database_url, amqp_url, Plan(**options), settings))
    print(json.dumps({**asdict(outcome), "events_per_second": round(outcome.applied / outcome.seconds)}))
    return 0 if outcome.is_clean else 1


async def _run(database_url: str, amqp_url: str, plan: Plan, settings: dict[str, str]) -> Outcome:
    from saga_worker.sql.migrate import upgrade

    await upgrade(database_url)
    namespace = Namespace(f"ordered-{random.getrandbits(32):08x}")
    with tempfile.TemporaryDirectory() as directory:
        try:
            place = Place(database_url, amqp_url, namespace, Path(directory))
            return await ordered(place, plan, worker_settings=settings)
        finally:
            await asyncio.to_thread(namespace.delete, amqp_url)


if __name__ == "__main__":
    sys.exit(main())
