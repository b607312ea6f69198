"""The targets, and what the ratios of interleaved pairs say about them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Verdict = Literal["pass", "fail", "inconclusive"]
FOREIGN_SHARE: Final = 0.10  # of all cores; above it a wall-clock ratio says nothing


@dataclass(frozen=True, slots=True)
class Target:
    """`at_least`: the figure must not be below the bound; else not above. `is_wall`: needs a machine left alone."""

    text: str
    bound: float
    stretch: float | None = None
    at_least: bool = True
    is_wall: bool = True

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def best_first(self, values: Sequence[float]) -> list[float]:
        return sorted(values, reverse=self.at_least)


@dataclass(frozen=True, slots=True)
class Figure:
    """A target's median over the pairs, the second-best pair, which decides, and every pair."""

    value: float | None
    target: float
    verdict: Verdict
    second_best: float | None = None
    pairs: tuple[float, ...] = ()

    def line(self) -> dict[str, Any]:
        return {"value": self.value, "target": self.target, "verdict": self.verdict}


TARGETS: Final = {
    "R1": Target("events/s ÷ best unbatched pgbench, one commit per event", 3, 4),
    "R2": Target("events/s ÷ best unbatched pgbench, three commits per event", 5, 7),
    "R3": Target("events/s ÷ merged pgbench, batches of 100", 0.33, 0.45),
    "R4": Target("worker CPU ÷ PostgreSQL CPU of batched pgbench, per event", 1.0, 0.6, at_least=False, is_wall=False),
    "R5": Target("PostgreSQL CPU ÷ that of merged pgbench, per event", 1.2, 1.0, at_least=False, is_wall=False),
    "R6": Target("idle p50 of a saga ÷ 4 × (broker round trip + commit)", 1.5, at_least=False),
    "R7": Target("p99 at half load ÷ idle p50", 20, at_least=False),
    "R8": Target("events/s with 1M sagas and 1M inbox rows ÷ empty", 0.85),
    "R9": Target("events/s under a snapshot held for 300k events ÷ without", 0.7),
    "R10": Target("WAL syncs per 1,000 events", 20, at_least=False, is_wall=False),
    "R11": Target("events/s ÷ handwritten.py at its best process count", 15),
    "R12": Target("sagas/s of three activities ÷ (best unbatched pgbench events/s ÷ 3)", 3),
    "R13": Target("compensated ÷ completed sagas/s, per event", 0.8),
    "R14": Target("worker's RSS with 1M events waiting, MB", 300, at_least=False, is_wall=False),
    "R15": Target("events/s of two worker processes ÷ one", 1.1),
}
SIZES: Final = {
    "W1": Target("CPU per item of 10,000 ÷ of 100", 1.2, at_least=False, is_wall=False),
    "W2": Target("CPU per step of 200 ÷ of 10", 1.2, at_least=False, is_wall=False),
}
FOUR_TO_TWO: Final = Target("events/s of four worker processes ÷ two", 0.95)  # the other half of R15


def judge(target: Target, values: Sequence[float], *, disturbed: Sequence[bool] = ()) -> Figure:
    """The median of the pairs, and a verdict: the second-best pair misses the target, or it does not.

    Of a wall-clock ratio only undisturbed pairs count; when most were disturbed, nothing can be said.
    """
    counted = [v for v, bad in zip(values, disturbed or [False] * len(values), strict=True) if not bad]
    if not target.is_wall:
        counted = list(values)
    shown = counted or list(values)
    if not shown:
        return Figure(None, target.bound, "inconclusive")
    best = target.best_first(shown)
    decisive = best[min(1, len(best) - 1)]
    verdict: Verdict = "pass" if target.is_met(decisive) else "fail"
    if len(counted) * 2 <= len(values):
        verdict = "inconclusive"
    pairs = tuple(round(value, 3) for value in values)
    return Figure(round(statistics.median(shown), 3), target.bound, verdict, round(decisive, 3), pairs)


def both(first: Figure, second: Figure) -> Verdict:
    """A target of two conditions fails with either."""
    verdicts = {first.verdict, second.verdict}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
