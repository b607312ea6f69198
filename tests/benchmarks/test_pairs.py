"""A pair on a busy machine is measured again, a bounded number of times."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.command import Options
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.verdicts import Target


@dataclass
class Measured:
    ratio: float
    is_disturbed: bool

    def ratios(self) -> dict[str, float]:
        return {"R1": self.ratio}


async def test_a_disturbed_pair_is_measured_again_and_kept_when_the_machine_stays_busy() -> None:
    coming = iter([Measured(9, True), Measured(4, False), Measured(8, True), Measured(7, True), Measured(6, True)])

    async def one_pair() -> Measured:
        return next(coming)

    pairs = await measure_pairs("test", Options(pairs=2, repeats=3), one_pair)

    assert pairs == [Measured(4, False), Measured(6, True)]


def test_figures_are_judged_by_the_undisturbed_pairs() -> None:
    pairs = [Measured(4, False), Measured(1, True), Measured(5, False)]

    judged = judge_pairs(pairs, {"R1": Target("a rate", 3.0)})["R1"]
    assert (judged.value, judged.second_best, judged.verdict) == (4.5, 4, "pass")
