"""The walk over the order of steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from saga_worker import DefinitionError, Event, Saga, Step, pivot, when
from saga_worker.saga.flow import Flow, after, ahead, before_pivots, enter, flow_of, leaves, pivots


class Told(Event): ...


class Answers(BaseModel):
    """What the conditions of a flow will say, by their number."""

    yes: frozenset[int] = frozenset()


NO = Answers()


def steps(*names: str) -> Iterator[Step[Answers]]:
    saga = Saga("story", state=Answers)

    def tell(state: Answers) -> Told:
        return Told()

    return (saga.emit(name=name)(tell) for name in names)


def asks(number: int, *then: Step[Answers], otherwise: Step[Answers] | None = None) -> Step[Answers]:
    return when(lambda state: number in state.yes, *then, otherwise=otherwise)


def walk(root: Flow[Answers], state: Answers) -> list[str]:
    """The steps that a saga takes whose conditions never change."""
    taken: list[str] = []
    opened = enter(root, state)
    while opened:
        taken += opened
        opened = after(root, opened[0], state).opened
    return taken


def test_a_sequence_is_walked_in_its_order() -> None:
    """features: 63"""
    root = flow_of(tuple(steps("a", "b", "c")))

    assert walk(root, NO) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("yes", "expected"),
    [
        (set(), ["a", "d", "e"]),
        ({1}, ["a", "b", "e"]),
        ({1, 2}, ["a", "b", "c", "e"]),
        ({2}, ["a", "d", "e"]),
    ],
)
def test_a_condition_takes_one_branch_and_comes_back(yes: set[int], expected: list[str]) -> None:
    a, b, c, d, e = steps("a", "b", "c", "d", "e")
    root = flow_of((a, asks(1, b, asks(2, c), otherwise=d), e))

    assert walk(root, Answers(yes=frozenset(yes))) == expected


def test_a_condition_is_asked_when_the_flow_comes_to_it() -> None:
    a, b, c = steps("a", "b", "c")
    root = flow_of((a, asks(1, b), c))

    assert after(root, "a", Answers(yes=frozenset({1}))).opened == ("b",)
    assert after(root, "a", NO).opened == ("c",)


def test_a_flow_whose_conditions_all_fail_ends_at_once() -> None:
    a, b = steps("a", "b")

    assert enter(flow_of((asks(1, a), asks(2, b))), NO) == ()


def test_what_is_ahead_does_not_depend_on_conditions() -> None:
    a, b, c, d, e = steps("a", "b", "c", "d", "e")
    root = flow_of((a, asks(1, b, otherwise=c), pivot(d), e))

    assert ahead(root, ["a"]) == {"a", "b", "c", "d", "e"}
    assert ahead(root, ["b"]) == {"b", "d", "e"}
    assert ahead(root, ["b", "c"]) == {"b", "c", "d", "e"}
    assert ahead(root, ["e"]) == {"e"}
    assert ahead(root, []) == frozenset()


def test_a_pivot_is_known_wherever_it_stands() -> None:
    a, b, c = steps("a", "b", "c")
    root = flow_of((a, asks(1, pivot(b)), pivot(c)))

    assert pivots(root) == {"b", "c"}


def test_only_steps_that_may_run_before_every_pivot_need_an_undo() -> None:
    a, b, c, d, e, f, g = steps("a", "b", "c", "d", "e", "f", "g")
    root = flow_of((a, asks(1, b, pivot(c)), d, pivot(e), f, pivot(g)))

    assert before_pivots(root) == {"a", "b", "d"}


def test_without_a_pivot_no_step_stands_before_one() -> None:
    assert before_pivots(flow_of(tuple(steps("a", "b")))) == frozenset()


def test_a_position_that_the_flow_does_not_have_is_refused_with_the_remedy() -> None:
    root = flow_of(tuple(steps("a")))

    with pytest.raises(DefinitionError, match=r"no step gone in this flow.*new version"):
        after(root, "gone", NO)
    with pytest.raises(DefinitionError, match="no step gone in this flow"):
        ahead(root, ["gone"])


@pytest.mark.parametrize("wrong", ["a", None, 1])
def test_what_is_no_step_is_refused(wrong: object) -> None:
    with pytest.raises(DefinitionError, match="is no step"):
        flow_of((wrong,))  # type: ignore[arg-type]


def test_a_condition_without_steps_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"test_flow\.py:.* no step to take"):
        when(lambda state: True)


def test_a_pivot_takes_one_step() -> None:
    (a,) = steps("a")

    with pytest.raises(DefinitionError, match=r"pivot\(…\) takes one step"):
        pivot(asks(1, a))


class Count:
    """Gives out step names and condition numbers while Hypothesis draws a flow."""

    def __init__(self) -> None:
        self.steps = 0
        self.conditions = 0


@st.composite
def flows(draw: st.DrawFn) -> Flow[Answers]:
    count = Count()

    def leaf() -> Step[Answers]:
        count.steps += 1
        (step,) = steps(f"s{count.steps}")
        return pivot(step) if draw(st.integers(0, 5)) == 0 else step

    def node(depth: int) -> Step[Answers]:
        if depth == 0 or draw(st.booleans()):
            return leaf()
        count.conditions += 1
        number = count.conditions
        then = [node(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        return asks(number, *then, otherwise=node(depth - 1) if draw(st.booleans()) else None)

    return flow_of(tuple(node(2) for _ in range(draw(st.integers(1, 3)))))


@given(root=flows(), yes=st.frozensets(st.integers(1, 9)))
def test_every_walk_ends_in_written_order_and_stays_within_what_was_ahead(
    root: Flow[Answers], yes: frozenset[int]
) -> None:
    taken = walk(root, Answers(yes=yes))

    written = [leaf.id for leaf in leaves(root)]
    assert [name for name in written if name in taken] == taken
    for position, name in enumerate(taken):
        assert set(taken[position:]) <= ahead(root, [name])


@given(root=flows(), yes=st.frozensets(st.integers(1, 9)))
def test_every_step_walked_before_a_pivot_is_known_to_need_an_undo(root: Flow[Answers], yes: frozenset[int]) -> None:
    taken = walk(root, Answers(yes=yes))

    first = next((position for position, name in enumerate(taken) if name in pivots(root)), 0)
    assert set(taken[:first]) <= before_pivots(root)
