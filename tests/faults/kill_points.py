"""SIGKILL at each named fault point under a shop's load, and what the checker says about it afterwards.

    python tests/faults/kill_points.py --runs 10

prints a table, point → runs → kills → promises checked → result, and exits with 1 if a promise was broken or a worker
was not killed where it should have been. Servers: SAGA_WORKER_TEST_DATABASE_URL and SAGA_WORKER_TEST_AMQP_URL, or
what can be found or started here. The suite makes one run per point (`test_kill_points.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from saga_worker.faults import POINTS
from saga_worker.testing import databases, resolve_broker, resolve_database
from saga_worker.testing.namespaces import Namespace
from saga_worker.trial.demo.orders import plan
from tests.faults.campaign import CHECKOUT, Campaign, Event, Place

TAKEN_OVER: Final = "relay.taken_over"  # is passed only where another worker died before
# The fast path commits in the orchestrator.
GENERAL_ONLY: Final = frozenset({"consumer.before_commit", "activities.before_commit", "activities.committed"})
UNDOABLE: Final = ("reserve_stock", "charge_card")
SETTINGS: Final = {"CHECKOUT_PAYMENT_TIMEOUT_SECONDS": "1.5", "CHECKOUT_REVIEW_TIMEOUT_SECONDS": "2"}


@dataclass(frozen=True, slots=True)
class Run:
    """One run at one point."""

    point: str
    kills: int
    acknowledged: int
    redelivered: int
    statuses: dict[str, int]
    promises: Sequence[str]
    broken: Sequence[str]
    seconds: float


def load(orders: int, *, seed: int) -> tuple[list[Event], list[Event]]:
    """Orders of every fate, some twice, some events ahead of them; and what comes after the restart."""
    waves = plan(orders, seed=seed)
    events = [[_event(e.id, e.type, e.body) for e in wave] for wave in (waves.early, waves.orders, waves.late)]
    return events[0] + events[1] + events[2], events[1][: orders // 4]


def _event(id: str, type: str, body: bytes) -> Event:
    return Event(id, type, json.loads(body), "shop")


async def kill_at(
    place: Place, point: str, *, nth: int = 1, orders: int = 14, seed: int = 1, bystander: bool = False,
    is_fast: bool = True,
) -> Run:  # fmt: skip
    """Kill a worker at the n-th passing of `point`, start another, wait for the end of every order, check."""
    started = time.monotonic()
    events, again = load(orders, seed=seed)
    is_fast = is_fast and point not in GENERAL_ONLY
    async with Campaign(place, CHECKOUT, {**SETTINGS, "SAGA_WORKER_FAST_PATH": str(is_fast).lower()}) as run:
        first = "relay.before_publish=kill" if point == TAKEN_OVER else f"{point}:{nth}=kill"
        await asyncio.gather(run.start_participants(), run.start_worker("victim", fault=first))
        if bystander:
            await run.start_worker("bystander")
        await run.publish(events)
        await run.until_killed("victim")
        if point == TAKEN_OVER:
            await run.start_worker("victim", fault=f"{TAKEN_OVER}=kill", ready=False)
            await run.until_killed("victim")
        await asyncio.gather(run.start_worker("heir"), run.publish(again))
        await run.until_quiet()
        expected = 2 if point == TAKEN_OVER else 1
        outcome = await run.outcome(acknowledged=orders, faults=expected, undoable=UNDOABLE)
        statuses = await run.statuses()
        broken = list(outcome.broken)
        if statuses.get("completed", 0) + statuses.get("compensated", 0) != orders:
            broken.append(f"{orders} orders were placed, but the sagas are {statuses}")
        await run.stop("heir", *(["bystander"] if bystander else []))
        return Run(
            point, run.faults, outcome.report.acknowledged, outcome.report.redelivered, statuses, outcome.promises,
            broken, time.monotonic() - started,
        )  # fmt: skip


# -- the command --------------------------------------------------------------------------------------------------


def main() -> int:
    options = _options()
    points = options.point or list(POINTS)
    with _servers(options.database_url, options.amqp_url) as (database_url, amqp_url):
        template = databases.make_template(database_url)
        try:
            table = {point: list(_runs(point, options, database_url, amqp_url, template)) for point in points}
        finally:
            databases.drop(database_url, template)
    print(markdown(table))
    return 1 if any(run.broken for runs in table.values() for run in runs) else 0


def markdown(table: Mapping[str, Sequence[Run]]) -> str:
    """The table of docs/guarantees.md."""
    lines = ["| fault point | runs | kills | promises checked | result |", "|---|---|---|---|---|"]
    for point, runs in table.items():
        broken = [violation for run in runs for violation in run.broken]
        result = f"**{len(broken)} violations**: {broken[0]}" if broken else "all hold"
        kills = sum(run.kills for run in runs)
        lines.append(f"| `{point}` | {len(runs)} | {kills} | {' '.join(runs[0].promises)} | {result} |")
    return "\n".join(lines)


def _runs(point: str, options: argparse.Namespace, database_url: str, amqp_url: str, template: str) -> Iterator[Run]:
    """The first run kills at the first passing; later ones at a random one, every second beside a healthy worker.

    Two runs on the fast path, two on the general one, and so on.
    """
    choice = random.Random(f"{options.seed}:{point}")
    for number in range(options.runs):
        nth = 1 if number == 0 or point == TAKEN_OVER else choice.randint(1, 4)
        namespace = Namespace(f"kill{uuid.uuid4().hex[:10]}")
        with databases.fresh(database_url, template=template) as url, tempfile.TemporaryDirectory() as directory:
            place = Place(url, amqp_url, namespace, Path(directory))
            seed, bystander = options.seed + number, number % 2 == 1 and point != TAKEN_OVER  # or it takes them first
            run = asyncio.run(
                kill_at(
                    place,
                    point,
                    nth=nth,
                    orders=options.orders,
                    seed=seed,
                    bystander=bystander,
                    is_fast=number // 2 % 2 == 0,
                )
            )
            namespace.delete(amqp_url)
        print(
            f"{point}:{nth} seed {seed}: {run.statuses}, {run.acknowledged} events, {run.redelivered} second copies, "
            f"{run.seconds:.1f} s{''.join(f'; BROKEN {violation}' for violation in run.broken)}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        yield run


@contextmanager
def _servers(database_url: str | None, amqp_url: str | None) -> Iterator[tuple[str, str]]:
    database = resolve_database(database_url, fsync=True)
    try:
        broker = resolve_broker(amqp_url)
        try:
            yield database.url, broker.url
        finally:
            broker.stop()
    finally:
        database.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill a worker at each named fault point, and check the promises.")
    parser.add_argument("--runs", type=int, default=1, help="per point")
    parser.add_argument("--orders", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--point", action="append", choices=list(POINTS), help="only this one (repeatable)")
    parser.add_argument("--database-url", default=os.environ.get("SAGA_WORKER_TEST_DATABASE_URL"))
    parser.add_argument("--amqp-url", default=os.environ.get("SAGA_WORKER_TEST_AMQP_URL"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
