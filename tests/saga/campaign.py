"""Random definitions under random histories for as long as wanted, with a new seed each time.

python -m tests.saga.campaign --examples 100000            prints what breaks a promise, reduced; exit code 1
python -m tests.saga.campaign --examples 1000 --seed 7     the same run again
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from saga_worker import DefinitionError
from tests.saga.acts import Act, play
from tests.saga.generated import Shape, build, shapes
from tests.saga.test_generated import HISTORIES, SLOW
from tests.saga.world import World

Case = tuple[Shape, Sequence[Act], bool]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--depth", type=int, default=2, help="how deep forms stand inside forms (2)")
    options = parser.parse_args()
    begun, played = time.monotonic(), 0
    last: list[Case] = []

    @seed(options.seed)
    @settings(
        max_examples=options.examples,
        deadline=None,
        suppress_health_check=SLOW,
        database=None,
        phases=[Phase.generate],
    )
    @given(shape=shapes(options.depth), history=HISTORIES, starts=st.sampled_from([True, True, True, True, False]))
    def campaign(shape: Shape, history: list[Any], starts: bool) -> None:
        nonlocal played
        played += 1
        last[:] = [(shape, history, starts)]
        _play(last[0])

    try:
        campaign()
    except Exception as error:
        reduced, error = reduce(last[0], error)
        traceback.print_exception(error, limit=-5)
        shape, history, starts = reduced
        print(f"{shape},\n{list(history)}, starts={starts}\nseed {options.seed}, {played} histories", file=sys.stderr)
        return 1
    print(f"seed {options.seed}: {played} histories, no promise broken, {time.monotonic() - begun:.0f} s")
    return 0


def reduce(case: Case, error: Exception, *, run: Callable[[Case], None] | None = None) -> tuple[Case, Exception]:
    """The case without whatever can be left out so that the same thing still goes wrong."""
    run = run or _play
    kind, words = type(error), str(error)[:12]
    shorter = True
    while shorter:
        shorter = False
        for smaller in _smaller(case):
            try:
                run(smaller)
            except DefinitionError:
                continue
            except Exception as again:
                if type(again) is kind and str(again)[:12] == words:
                    case, error, shorter = smaller, again, True
                    break
    return case, error


def _smaller(case: Case) -> Iterator[Case]:
    shape, history, starts = case
    for size in (8, 4, 2, 1):
        for place in range(0, len(history), size):
            yield shape, [*history[:place], *history[place + size :]], starts
    for part in _parts(shape):
        yield part, history, starts


def _parts(node: Any) -> Iterator[Any]:
    """The shape with one thing less, or with one thing in the place of what holds it."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, tuple):
            for smaller in _shorter(value):
                yield replace(node, **{field.name: smaller})
        elif is_dataclass(value):
            for smaller in _parts(value):
                yield replace(node, **{field.name: smaller})


def _shorter(values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for place, value in enumerate(values):
        before, after = values[:place], values[place + 1 :]
        yield (*before, *after)
        if isinstance(value, tuple):
            for smaller in _shorter(value):
                yield (*before, smaller, *after)
        elif is_dataclass(value):
            for field in fields(value):
                inside = getattr(value, field.name)
                if isinstance(inside, tuple) and all(is_dataclass(each) for each in inside):
                    yield (*before, *inside, *after)
                elif isinstance(inside, tuple):
                    for branch in inside:
                        if isinstance(branch, tuple) and all(is_dataclass(each) for each in branch):
                            yield (*before, *branch, *after)
            for smaller in _parts(value):
                yield (*before, smaller, *after)


def _play(case: Case) -> None:
    shape, history, starts = case
    play(World(build(shape), authors="generated.py"), history, starts=starts)


if __name__ == "__main__":
    sys.exit(main())
