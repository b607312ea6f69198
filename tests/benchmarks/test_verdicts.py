"""What the pairs of a benchmark say about a target."""

from __future__ import annotations

import pytest

from benchmarks.all import BENCHMARKS
from benchmarks.harness.verdicts import TARGETS, Figure, Target, both, judge

FLOOR = Target("a rate", 3.0)
CEILING = Target("a cost", 1.0, at_least=False, is_wall=False)


def test_the_value_is_the_median_and_the_second_best_pair_decides() -> None:
    judged = judge(FLOOR, [2.0, 2.9, 3.1, 3.5, 2.5])

    assert judged == Figure(2.9, 3.0, "pass", 3.1, (2.0, 2.9, 3.1, 3.5, 2.5))
    assert judge(FLOOR, [2.0, 2.9, 2.9, 3.5, 2.5]).verdict == "fail"


def test_of_a_cost_the_second_lowest_pair_decides() -> None:
    assert judge(CEILING, [0.9, 1.2, 1.0]).verdict == "pass"
    assert judge(CEILING, [0.9, 1.2, 1.1]).verdict == "fail"


def test_a_single_pair_decides_alone() -> None:
    assert judge(FLOOR, [3.0]).verdict == "pass"
    assert judge(FLOOR, [2.9]).verdict == "fail"


def test_disturbed_pairs_do_not_count_where_the_wall_clock_does() -> None:
    disturbed = [False, True, False, True, False]

    assert judge(FLOOR, [3.2, 1.0, 3.4, 1.0, 3.6], disturbed=disturbed).value == 3.4
    assert judge(FLOOR, [3.2, 1.0], disturbed=[False, True]).verdict == "inconclusive"


def test_counts_and_cpu_are_judged_on_a_busy_machine_too() -> None:
    assert judge(CEILING, [0.5, 0.6], disturbed=[True, True]).verdict == "pass"


def test_without_a_pair_nothing_is_known() -> None:
    assert judge(FLOOR, []) == Figure(None, 3.0, "inconclusive")


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [([4.0], [4.0], "pass"), ([4.0], [2.0], "fail"), ([4.0], [], "inconclusive"), ([2.0], [], "fail")],
)
def test_a_target_of_two_conditions_fails_with_either(first: list[float], second: list[float], verdict: str) -> None:
    assert both(judge(FLOOR, first), judge(FLOOR, second)) == verdict


def test_every_target_has_a_bound_that_its_stretch_goes_beyond() -> None:
    assert list(TARGETS) == [f"R{number}" for number in range(1, 16)]
    assert all(t.is_met(t.stretch) for t in TARGETS.values() if t.stretch is not None)


def test_every_target_is_measured_by_one_benchmark() -> None:
    measured = [name for benchmark in BENCHMARKS for name in benchmark.FIGURES]

    assert sorted(measured) == sorted(TARGETS)
