"""The demo's story, from empty servers to a checked end.

Takes servers and a number of orders, guarantees that every wait has a deadline and that every figure in the `Outcome`
was measured in views, ledgers and exit codes. Hands that to the summary.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from saga_worker.testing import ledgers
from saga_worker.testing.checker import Report, check
from saga_worker.trial.demo.crew import Crew, Place
from saga_worker.trial.demo.orders import KNOWN_CURRENCY, POISON_CURRENCY, plan
from saga_worker.trial.demo.shop import Shop
from saga_worker.trial.demo.watch import Watch

WAIT_SECONDS: Final = 120.0
UNDOABLE: Final = ("reserve_stock", "charge_card")
FIRST_RELEASE: Final = KNOWN_CURRENCY
FIXED_RELEASE: Final = f"{KNOWN_CURRENCY},{POISON_CURRENCY}"


@dataclass(slots=True)
class Outcome:
    """The figures of the summary, the verdicts behind them, and what went wrong on the way."""

    figures: dict[str, int]
    report: Report
    check_code: int
    check_words: str
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return self.report.holds and self.check_code == 0 and not self.problems


class Play:
    """One run. `say` is told what happens at the moment, in words."""

    def __init__(self, sagas: int, place: Place, crew: Crew, watch: Watch, *, say: Callable[[str], None]) -> None:
        self._sagas = sagas
        self._place = place
        self._crew = crew
        self._watch = watch
        self._say = say
        self._figures: dict[str, int] = {}

    async def run(self) -> Outcome:
        """The whole story. A wait that fails ends it early, and the checker still gets to see what there is."""
        problems: list[str] = []
        try:
            await self._open()
            await self._trade()
            await self._settle()
            await self._repair()
            await self._crew.stop_workers()
        except TimeoutError as error:
            problems.append(str(error) or "A process took too long to start.")
        return await self._judge(problems)

    async def _open(self) -> None:
        self._say("starting two workers and the participants")
        await asyncio.gather(
            self._crew.start_participants(),
            self._crew.start_workers("worker-1", "worker-2", currencies=FIRST_RELEASE),
        )

    async def _trade(self) -> None:
        """Publish; half way a worker is killed and another takes its place."""
        waves = plan(self._sagas)
        half = len(waves.orders) // 2
        async with Shop(self._place) as shop:
            self._say(f"publishing {len(waves.early)} events ahead of their orders")
            await shop.publish(waves.early)
            early = {event.id for event in waves.early}
            await self._until(lambda: early <= self._watch.seen_parked, "early events are parked")
            self._say(f"publishing {len(waves.orders)} orders, some of them twice")
            await shop.publish(waves.orders[:half])
            await self._until(lambda: self._watch.now.stored >= len(early) + half // 2, "orders arrive")
            self._say("killing worker-1 with SIGKILL, starting worker-3")
            await self._crew.kill_worker("worker-1")
            await asyncio.gather(
                shop.publish([*waves.orders[half:], *waves.late]),
                self._crew.start_workers("worker-3", currencies=FIRST_RELEASE),
            )

    async def _settle(self) -> None:
        self._say("waiting until only the dead letters are left, and the slowest reply has come")
        await self._until(self._is_settled, "every order has ended or is a dead letter")
        slow = self._slow_replies()
        while await self._watch.stored(slow) < len(slow):
            await asyncio.sleep(0.1)
            await self._until(self._is_settled, "every slow reply has been stored")
        self._figures["dead_lettered"] = len(self._watch.now.dead)

    def _is_settled(self) -> bool:
        now = self._watch.now
        return now.is_quiet and now.started + len(now.dead) >= self._sagas

    def _slow_replies(self) -> list[str]:
        """The ids of the replies that a participant holds back, as it wrote them down."""
        lines = (line for path in self._place.sink_ledgers for line in ledgers.read_lines(path))
        return sorted({f"{line['message_id']}:reply" for line in lines if line["answer"]["slow"]})

    async def _repair(self) -> None:
        """A fixed release goes out, and the dead letters get their second chance."""
        self._say("stopping the workers, starting the release that knows the currency")
        await self._crew.stop_workers()
        await self._crew.start_workers("worker-4", "worker-5", currencies=FIXED_RELEASE)
        self._say(f"replaying {len(self._watch.now.dead)} dead letters")
        why = "--why=the release that knows the currency is out"
        code, words = await self._crew.command("inbox", "replay", "--reason=handler_error", "--yes", why)
        if code != 0:
            raise TimeoutError(f"saga-worker inbox replay ended with {code}: {words}")
        await self._until(
            lambda: self._watch.now.is_quiet and self._watch.now.started >= self._sagas and not self._watch.now.dead,
            "every replayed order has ended",
        )

    async def _judge(self, problems: list[str]) -> Outcome:
        self._say("checking ledgers against the database")
        check_code, words = await self._crew.command("check")
        views = await ledgers.read_views(self._place.database_url, schema=self._place.schema)
        report = check(
            ledgers.read_producer(self._place.producer_ledger),
            [line for path in self._place.sink_ledgers if path.exists() for line in ledgers.read_sink(path)],
            views,
            minimum_acknowledged=self._sagas,
            minimum_faults=1,
            faults=self._crew.killed,
            undoable=UNDOABLE,
        )
        figures = await self._watch.figures()
        figures |= {
            "dead_lettered": self._figures.get("dead_lettered", 0),
            "duplicates": report.repeated,
            "parked": len(self._watch.seen_parked),
            "workers_killed": self._crew.killed,
            "lost": len(report.lost),
            "doubled": len(report.doubled),
        }
        figures["stuck"] = max(figures["stuck"], len(report.stuck))
        if figures["completed"] + figures["compensated"] != self._sagas:
            problems.append(f"{self._sagas} orders were placed; that many sagas did not end completed or compensated.")
        return Outcome(figures, report, check_code, words, problems)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        await self._watch.until(condition, what=what, seconds=WAIT_SECONDS)


def stopwatch() -> Callable[[], float]:
    """Seconds since now."""
    started = time.monotonic()
    return lambda: round(time.monotonic() - started, 1)
