"""Our pgbench scripts beside those of another directory, taking turns: the same work, or not?

    ./dev python -m benchmarks.yardstick DIRECTORY [--rounds 3]

The directory has a schema.sql and scripts of the same names. Prints a table; rates of a busy machine scatter, CPU and
WAL per event do not.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.harness.servers import servers
from benchmarks.report import table
from benchmarks.yardstick import HERE, Pgbench, Yardstick

CASES = (("unbatched", 16, 1), ("unbatched3", 16, 1), ("batched", 2, 100), ("merged", 2, 100))


async def compare(directory: Path, *, rounds: int) -> str:
    runs = defaultdict[tuple[str, Path], list[Pgbench]](list)
    async with servers() as found:
        for _ in range(rounds):
            for script, clients, batch in CASES:
                for scripts in (HERE, directory):
                    async with Yardstick(found, scripts=scripts) as yardstick:
                        run = await yardstick.run(script, clients=clients, batch=batch)
                    runs[script, scripts].append(run)
    head = ("script", "events/s, ours", "theirs", "PostgreSQL CPU µs per event, ours", "theirs",
            "WAL bytes per event, ours", "theirs")  # fmt: skip
    return table(head, [_row(script, runs[script, HERE], runs[script, directory]) for script, _, _ in CASES])


def _row(script: str, ours: list[Pgbench], theirs: list[Pgbench]) -> list[object]:
    names = ("events_per_second", "postgresql_cpu_us_per_event", "wal_bytes_per_event")
    return [script, *(median(run.document()[name] for run in runs) for name in names for runs in (ours, theirs))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(asyncio.run(compare(given.directory, rounds=given.rounds)))
