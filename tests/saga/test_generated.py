"""Random definitions under random histories: whatever is written and whatever happens, no promise is broken.

Five thousand of them, in five tests so that they can run side by side; derandomized, so that a run is the same
everywhere. A longer run with other seeds: `python -m tests.saga.campaign --examples 100000`.

features: 163, 167; L1, L2, L4, L7, L8
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from saga_worker.saga.inputs import COMPENSATED
from tests.saga.acts import Act, Answer, ChildEnds, Event, histories, play
from tests.saga.generated import MAKERS, Ask, Child, Each, Fork, Here, Loop, Shape, Tell, build, shapes
from tests.saga.scripted import BROKEN, LOCALS
from tests.saga.world import World

EXAMPLES = 1000
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors]
HISTORIES = histories(MAKERS, own_work=True, more_control=["wake", "wake"])

WITH_CHILDREN = histories(MAKERS, own_work=True, more_control=["wake", "wake"], children=True)


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    yield
    BROKEN.clear()
    LOCALS.clear()


def tell(shape: Shape, history: list[Act], starts: bool = True) -> World:
    return play(World(build(shape), authors="generated.py"), history, starts=starts)


@pytest.mark.parametrize("part", range(5))
def test_no_definition_and_no_history_breaks_a_promise(part: int) -> None:
    @seed(part)
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW, database=None)
    @given(shape=shapes(), history=HISTORIES, starts=st.sampled_from([True, True, True, True, False]))
    def check(shape: Shape, history: list[Any], starts: bool) -> None:
        tell(shape, history, starts)

    check()


@pytest.mark.parametrize("part", range(2))
def test_nor_does_one_with_sagas_within_sagas(part: int) -> None:
    """features: L5, L6"""

    @seed(part)
    @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=SLOW, database=None)
    @given(shape=shapes(children=True), history=WITH_CHILDREN)
    def check(shape: Shape, history: list[Any]) -> None:
        tell(shape, history)

    check()


KEPT: dict[str, tuple[Shape, list[Act]]] = {
    "a start whose loop uses up its rounds at once": (Shape((Loop(0, (Tell(),), 1),)), []),
    "a time-out of a sub-saga that nobody waits for": (
        Shape((Child(has_timeout=True, is_awaited=False), Ask())),
        [],
    ),
    "a for_each without items in a branch that loses its join": (
        Shape((Fork(((Ask(), Each(0, 1)), (Ask(), Ask())), 1),)),
        [Answer(), Event("begun")],
    ),
    "a child that went back by itself when its undo was out": (
        Shape((Here("hybrid"), Child())),
        [Event("cancel", "compensate"), ChildEnds(1, COMPENSATED)],
    ),
    "the same beside a command": (Shape((Fork(((Ask(),), (Loop(0, (Tell(),), 1),))),)), []),
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_once_broke_a_promise_keeps_it(kept: str) -> None:
    shape, history = KEPT[kept]

    tell(shape, history)
