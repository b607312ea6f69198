"""What the demo shows: a live table while it runs, a summary at its end.

Takes snapshots and outcomes, guarantees that standard output carries the result only (with `--json` one object on its
last line) and that everything said on the way goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from saga_worker.sql import in_schema
from saga_worker.trial.demo.crew import Crew, Place
from saga_worker.trial.demo.play import Outcome
from saga_worker.trial.demo.servers import Servers
from saga_worker.trial.demo.watch import QUERIES, Watch

REFRESH_SECONDS: Final = 0.2
SAGA_STATUSES: Final = ("running", "waiting", "compensating", "completed", "compensated")
ROW_STATES: Final = ("ready", "parked", "held", "done", "ignored", "dead")
WORDS: Final = {
    "sagas": "orders, one saga each",
    "completed": "shipped",
    "compensated": "taken back whole",
    "dead_lettered": "dead letters, before the fixed release",
    "replayed": "dead letters replayed after it",
    "duplicates": "repeated events, each applied once",
    "late_successes": "replies later than their time-out, undone",
    "parked": "events that overtook their order, kept for it",
    "workers_killed": "workers killed with SIGKILL",
    "lost": "events lost",
    "doubled": "effects doubled",
    "stuck": "sagas stuck",
}


class Board:
    """The live table on a terminal; elsewhere one line per phase."""

    def __init__(self, crew: Crew, watch: Watch, *, seconds: Callable[[], float]) -> None:
        self._crew = crew
        self._watch = watch
        self._seconds = seconds
        self._phase = ""
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._drawing: asyncio.Task[None] | None = None

    def say(self, phase: str) -> None:
        """What happens from now on."""
        self._phase = phase
        if not self._console.is_terminal:
            self._console.print(f"{self._seconds():5.1f} s  {phase}", highlight=False, soft_wrap=True)

    def start(self) -> None:
        if self._console.is_terminal:
            self._live.start()
            self._drawing = asyncio.create_task(self._draw())

    async def stop(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            with suppress(asyncio.CancelledError):
                await self._drawing
            self._live.stop()

    async def _draw(self) -> None:
        while True:
            await self._watch.look()
            self._live.update(self._picture(), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)

    def _picture(self) -> Group:
        now = self._watch.now
        table = Table(title=f"saga-worker demo, {self._seconds():.1f} s", title_justify="left")
        for heading in ("sagas", "", "inbox", "", "workers", ""):
            table.add_column(heading, justify="right" if not heading else "left", min_width=6)
        workers = list(self._crew.workers.items())
        for line in range(max(len(SAGA_STATUSES), len(ROW_STATES), len(workers))):
            table.add_row(
                *_cells(SAGA_STATUSES, now.sagas, line),
                *_cells(ROW_STATES, now.inbox, line),
                *(workers[line] if line < len(workers) else ("", "")),
            )
        return Group(table, Text(f"outbox {now.outbox}   {self._phase}"))


def _cells(names: tuple[str, ...], counts: dict[str, int], line: int) -> tuple[str, str]:
    return (names[line], str(counts.get(names[line], 0))) if line < len(names) else ("", "")


def as_json(outcome: Outcome, seconds: float, kept: dict[str, str]) -> str:
    """The figures of the summary as one line."""
    verdicts = {verdict.invariant: verdict.holds for verdict in outcome.report.verdicts}
    return json.dumps(outcome.figures | {"seconds": seconds, "check": outcome.check_code, "promises": verdicts} | kept)


def print_summary(outcome: Outcome, seconds: float) -> None:
    """Figures and verdicts for people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None)
    for name, words in WORDS.items():
        table.add_row(str(outcome.figures[name]), words)
    console.print(table)
    for verdict in outcome.report.verdicts:
        mark = "[green]holds [/]" if verdict.holds else "[red]BROKEN[/]"
        console.print(f"  {verdict.invariant:4} {mark} {verdict.promise} [dim]({verdict.examined} looked at)[/]")
    console.print(f"  saga-worker check: exit code {outcome.check_code}; {seconds:g} seconds")


def print_problems(outcome: Outcome) -> None:
    """What went wrong, on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for problem in outcome.problems:
        console.print(problem, markup=False)
    for verdict in outcome.report.verdicts:
        for violation in verdict.violations[:10]:
            console.print(f"{verdict.invariant}: {violation}", markup=False)
    if outcome.check_code != 0:
        console.print(outcome.check_words, markup=False)


def kept(servers: Servers, place: Place) -> dict[str, str]:
    """Where everything is, and how to end it. Of servers that were given nothing is repeated."""
    keeper = servers.keeper
    stop = f"kill {keeper.pid} && rm -r {place.directory}" if keeper else f"rm -r {place.directory}"
    return {
        "database_url": "as given" if servers.is_database_given else servers.database_url,
        "amqp_url": "as given" if servers.is_broker_given else servers.amqp_url,
        "schema": place.schema,
        "namespace": place.namespace,
        "ledgers": str(place.directory),
        "stop": stop,
    }


def print_kept(where: dict[str, str]) -> None:
    """For people, on standard error: the places, and the queries behind the figures."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("Kept:")
    for name, value in where.items():
        console.print(f"  {name:13} {value}", markup=False)
    console.print("The same figures from the views:")
    for name, query in QUERIES.items():
        console.print(f"  -- {name}\n  {in_schema(query, where['schema'])};", markup=False)
