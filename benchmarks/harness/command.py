"""The command line that all benchmarks share, and their output: readable, or one line of JSON per benchmark.

A benchmark is a module with `NAME`, `FIGURES` (the targets it measures) and `async def measure(options, servers) ->
Result`. Its last line of output is one object, `{"R1": {"value": …, "target": …, "verdict": …}, …}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import plot
from benchmarks.harness.servers import Servers, servers
from benchmarks.harness.verdicts import SIZES, TARGETS, Figure


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may ask for; each benchmark says in its own words what it makes of it."""

    pairs: int = 3
    sagas: int | None = None  # per run; None: what the benchmark thinks right
    seconds: int = 3  # of each pgbench run
    repeats: int = 3  # how often a disturbed pair is measured before it is taken as it is
    general: bool = False  # without the fast path
    settings: Mapping[str, str] = field(default_factory=dict)  # of the workers, as environment variables
    size: float = 1.0  # the part of its rows and messages that `growth` makes
    log: Path | None = None  # of `real_log`
    against: str | None = None  # the older commit that `real_log` runs too

    def product_settings(self) -> dict[str, str]:
        """The environment of the product's workers, beside what a deployment needs."""
        return {"SAGA_WORKER_FAST_PATH": str(not self.general).lower(), **self.settings}


@dataclass(frozen=True, slots=True)
class Result:
    """Figures by target, everything measured on the way (JSON values), and the charts of `--plot`."""

    benchmark: str
    figures: dict[str, Figure]
    detail: dict[str, Any]
    charts: tuple[plot.Chart, ...] = ()

    def document(self) -> dict[str, Any]:
        figures = {name: asdict(figure) for name, figure in self.figures.items()}
        return {"benchmark": self.benchmark, "figures": figures, **self.detail}


Measure = Callable[[Options, Servers], Awaitable[Result]]


def main(description: str, *benchmarks: Measure, expected: Sequence[str] = ()) -> None:
    """Run the benchmarks one after the other. One that raises does not keep the others from running: of the `expected`
    targets those without a figure have failed, and the exit code is 1.
    """
    given = _arguments(description)
    settings = {f"SAGA_WORKER_{name}": value for name, _, value in (text.partition("=") for text in given.set)}
    options = Options(
        pairs=given.pairs, sagas=given.sagas, seconds=given.seconds, repeats=given.repeats, general=given.general,
        settings=settings, size=given.size, log=given.log, against=given.against,
    )  # fmt: skip
    figures, failures = asyncio.run(_run(benchmarks, options, as_json=given.json, charts_in=given.plot))
    figures = {name: Figure(None, TARGETS[name].bound, "fail") for name in expected} | figures
    print(json.dumps({name: figures[name].line() for name in sorted(figures, key=lambda name: int(name[1:]))}))
    sys.exit(1 if failures else 0)


def _arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pairs", type=int, default=3, help="interleaved pairs (%(default)s); fewer are quicker")
    add("--sagas", type=int, help="sagas in each run of the product; fewer are quicker")
    add("--seconds", type=int, default=3, help="of each pgbench run (%(default)s)")
    add("--repeats", type=int, default=3, help="of a pair on a busy machine (%(default)s)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="for the workers, such as BATCH_SIZE=50")
    add("--general", action="store_true", help="store first, apply by the pool: no fast path")
    add("--size", type=float, default=1.0, help="part of the million rows of growth; below 1 no verdict")
    add("--log", metavar="FILE", type=Path, help="the events of real_log: JSON lines, .gz")
    add("--against", metavar="COMMIT", help="an older commit that real_log runs too, in the same pairs")
    add("--json", action="store_true", help="a line of JSON for each benchmark, then the figures")
    add("--plot", metavar="DIRECTORY", type=Path, help="write SVG charts there")
    return parser.parse_args()


async def _run(
    benchmarks: Sequence[Measure], options: Options, *, as_json: bool, charts_in: Path | None
) -> tuple[dict[str, Figure], int]:
    """The figures, and how many benchmarks raised."""
    _clean_up_when_terminated()
    figures: dict[str, Figure] = {}
    failures = 0
    async with servers() as found:
        for benchmark in benchmarks:
            try:
                result = await benchmark(options, found)
            except Exception:  # a wrong run, or a server that went away: the others may still be measured
                traceback.print_exc()
                failures += 1
                continue
            figures |= result.figures
            document = result.document() | {"machine": found.machine}
            print(json.dumps(document) if as_json else _readable(result), flush=True)
            if charts_in is not None:
                _draw(result.charts, charts_in)
    return figures, failures


def _clean_up_when_terminated() -> None:
    """SIGTERM ends the program as Ctrl-C does: with nothing left on the servers. A second one does not hurry it."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None

    def stop() -> None:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        running.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)


def _draw(charts: Sequence[plot.Chart], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        (directory / f"{chart.name}.svg").write_text(plot.svg(chart))


def _readable(result: Result) -> str:
    lines = [f"{result.benchmark}:"]
    for name, figure in result.figures.items():
        target = (TARGETS | SIZES)[name]
        sign = "≥" if target.at_least else "≤"
        lines.append(f"  {name:<4} {figure.value!s:>8}  {sign} {figure.target:<5} {figure.verdict:<13} {target.text}")
        lines.append(f"       pairs {', '.join(map(str, figure.pairs))}")
    return "\n".join([*lines, json.dumps(result.detail, indent=2)])


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
