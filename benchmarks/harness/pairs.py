"""Interleaved pairs: measured once more while the machine is busy elsewhere, and judged by their ratios."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from benchmarks.harness.command import Options, say
from benchmarks.harness.deployment import Deployment, Run
from benchmarks.harness.verdicts import Figure, Target, judge


class Pair(Protocol):
    """The contenders of one comparison, run one right after the other."""

    @property
    def is_disturbed(self) -> bool:
        """Strangers had too much of the machine during any of the runs."""
        ...

    def ratios(self) -> dict[str, float]:
        """By target."""
        ...


AnyPair = TypeVar("AnyPair", bound=Pair)


async def measure_pairs(name: str, options: Options, one_pair: Callable[[], Awaitable[AnyPair]]) -> list[AnyPair]:
    """`options.pairs` of them; a disturbed one is measured up to `options.repeats` times, and then kept as it is."""
    pairs = []
    for number in range(options.pairs):
        pair = await one_pair()
        for _ in range(options.repeats - 1):
            if not pair.is_disturbed:
                break
            say(f"{name}: the machine was busy elsewhere; once more.")
            pair = await one_pair()
        pairs.append(pair)
        ratios = {figure: round(value, 3) for figure, value in pair.ratios().items()}
        say(f"{name}: pair {number + 1} of {options.pairs}: {ratios}")
    return pairs


async def by_processes(
    name: str, counts: Sequence[int], contender: Callable[[int], Deployment], sagas: int
) -> dict[int, Run]:
    """A run of `contender` with each number of worker processes."""
    runs = {}
    for count in counts:
        async with contender(count) as deployment:
            runs[count] = await deployment.measure(sagas)
        say(f"{name}: {count} processes: {runs[count].events_per_second:.0f} events/s")
    return runs


def fastest(runs: Mapping[int, Run]) -> int:
    """The number of processes that did best."""
    return max(runs, key=lambda count: runs[count].events_per_second)


def judge_pairs(pairs: Sequence[Pair], targets: Mapping[str, Target]) -> dict[str, Figure]:
    """A figure for each of `targets`, which the pairs have ratios of."""
    disturbed = [pair.is_disturbed for pair in pairs]
    return {
        name: judge(target, [pair.ratios()[name] for pair in pairs], disturbed=disturbed)
        for name, target in targets.items()
    }
