"""The forms a flow is written in: `when`, `choice`, `parallel`, `repeat_until`, `pivot`, around steps.

Takes what authors write, guarantees that each form can be gone through (it has steps, its numbers make sense, no pivot
stands where a step may be taken twice or given up), and hands the nodes to `flow`, which walks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, Generic, Literal, TypeAlias

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.source import check_callable, checked_name, where_called
from saga_worker.saga.steps import CommandOf, EmitStep, S, SavepointStep, SleepStep, Step, WaitStep

STEPS: Final = (CommandOf, ActivityStep, LocalStep, SubsagaStep, EachStep, WaitStep, SleepStep, SavepointStep, EmitStep)
MAX_ROUNDS: Final = 10_000
Join: TypeAlias = Literal["all", "any"] | int


class When(Step[S], Generic[S]):
    """Takes `then` if the test holds for the state at this moment, else `otherwise`."""

    def __init__(
        self, test: Callable[[S], bool], then: tuple[Step[S], ...], otherwise: tuple[Step[S], ...], source: str
    ) -> None:
        self.test: Final = test
        self.then: Final = then
        self.otherwise: Final = otherwise
        self.source: Final = source


class Parallel(Step[S], Generic[S]):
    """Opens all branches at once, and is over when `wanted` of them are; the others are then taken back."""

    def __init__(self, branches: tuple[tuple[Step[S], ...], ...], wanted: int, source: str) -> None:
        self.branches: Final = branches
        self.wanted: Final = wanted
        self.source: Final = source

    @cached_property
    def inside(self) -> tuple[frozenset[str], ...]:
        """The ids of the steps in each branch."""
        return tuple(
            frozenset(node.id for node in nodes(branch) if isinstance(node, STEPS)) for branch in self.branches
        )


class Repeat(Step[S], Generic[S]):
    """Takes its steps once, and again until the test holds, `times` rounds at most."""

    def __init__(
        self, test: Callable[[S], bool], steps: tuple[Step[S], ...], times: int, name: str, source: str
    ) -> None:
        self.test: Final = test
        self.steps: Final = steps
        self.times: Final = times
        self.name: Final = name
        self.source: Final = source


class Pivot(Step[S], Generic[S]):
    """The step after which a saga only goes forward."""

    def __init__(self, step: Step[S], source: str) -> None:
        self.step: Final = step
        self.source: Final = source


def when(test: Callable[[S], bool], *then: Step[S], otherwise: Step[S] | None = None) -> When[S]:
    """Steps that are taken only if `test` holds for the state when the flow comes here."""
    source = where_called()
    if not then:
        raise DefinitionError(f"{source}: when(…) has no step to take; name at least one after the test.")
    check_callable(test)
    check_steps((*then, *(() if otherwise is None else (otherwise,))), source)
    return When(test, then, () if otherwise is None else (otherwise,), source)


def choice(*arms: tuple[Callable[[S], bool], Sequence[Step[S]]], otherwise: Sequence[Step[S]] | None = None) -> When[S]:
    """The steps of the first arm whose test holds for the state when the flow comes here, else those of `otherwise`."""
    source = where_called()
    if not arms:
        raise DefinitionError(f"{source}: choice(…) has no arm; give at least one (test, [steps]).")
    chosen = tuple(otherwise or ())
    check_steps(chosen, source)
    for test, steps in reversed(arms):
        if not steps:
            raise DefinitionError(f"{source}: an arm of choice(…) has no step to take; name at least one.")
        check_callable(test)
        check_steps(tuple(steps), source)
        chosen = (When(test, tuple(steps), chosen, source),)
    (outermost,) = chosen
    assert isinstance(outermost, When)
    return outermost


def parallel(*branches: Step[S] | Sequence[Step[S]], join: Join = "all") -> Parallel[S]:
    """Branches that are gone through at the same time; one of several steps is a list.

    `join`: how many of them have to end before the flow goes on. With `"any"` or a number the other branches are then
    given up: what they have done, or may have done, is undone while the saga goes on.
    """
    source = where_called()
    wanted = {"all": len(branches), "any": 1}.get(join, 0) if isinstance(join, str) else join
    if len(branches) < 2:
        raise DefinitionError(f"{source}: parallel(…) has {len(branches)} branches; give at least two.")
    if not 1 <= wanted <= len(branches):
        raise DefinitionError(
            f"{source}: parallel(…) has {len(branches)} branches and join={join!r}; give 'all', 'any' or a number up to"
            f" {len(branches)}."
        )
    all_steps = tuple((branch,) if isinstance(branch, Step) else tuple(branch) for branch in branches)
    if not all(all_steps):
        raise DefinitionError(f"{source}: a branch of parallel(…) has no step; name at least one.")
    for steps in all_steps:
        check_steps(steps, source)
        refuse_pivots(steps, "a branch of parallel(…)", source)
    return Parallel(all_steps, wanted, source)


def repeat_until(test: Callable[[S], bool], *steps: Step[S], times: int, name: str) -> Repeat[S]:
    """Steps that are taken again and again until `test` holds for the state at the end of a round.

    After `times` rounds without that the saga compensates; past the pivot it goes on and asks for attention. `name`
    stands for the loop in stored sagas.
    """
    source = where_called()
    if not steps:
        raise DefinitionError(f"{source}: repeat_until(…) has no step to repeat; name at least one after the test.")
    if not 1 <= times <= MAX_ROUNDS:
        raise DefinitionError(f"{source}: repeat_until(…) has times={times}; give 1 to {MAX_ROUNDS}.")
    check_callable(test)
    check_steps(steps, source)
    refuse_pivots(steps, "repeat_until(…)", source)
    return Repeat(test, steps, times, checked_name(name, "loop", source=source), source)


def pivot(step: Step[S]) -> Pivot[S]:
    """Marks the step after which nothing is undone: from there on the saga only goes forward."""
    source = where_called()
    if not isinstance(step, STEPS):
        raise DefinitionError(f"{source}: pivot(…) takes one step, such as a command, an activity or a wait.")
    return Pivot(step, source)


def inner(step: Step[Any]) -> tuple[tuple[Step[Any], ...], ...]:
    """The sequences inside a node; of a step none."""
    match step:
        case When():
            return step.then, step.otherwise
        case Parallel():
            return step.branches
        case Repeat():
            return (step.steps,)
        case Pivot():
            return ((step.step,),)
        case _ if isinstance(step, STEPS):
            return ()
        case _:
            raise unknown_node(step)


def nodes(steps: tuple[Step[Any], ...]) -> Iterator[Step[Any]]:
    """Everything in `steps`, outermost first."""
    for step in steps:
        yield step
        for part in inner(step):
            yield from nodes(part)


def check_steps(steps: tuple[Step[S], ...], source: str) -> None:
    """Raises `DefinitionError` unless all of these have a place in a flow."""
    for step in steps:
        if not isinstance(step, (*STEPS, When, Parallel, Repeat, Pivot)):
            raise DefinitionError(f"{source}: {step!r} is no step; name the steps themselves, not their ids.")


def refuse_pivots(steps: tuple[Step[S], ...], place: str, source: str) -> None:
    if any(isinstance(node, Pivot) for node in nodes(steps)):
        raise DefinitionError(f"{source}: {place} has a pivot inside; place it before or after.")


def unknown_node(step: Step[Any]) -> DefinitionError:
    """What to say of something that a flow cannot hold."""
    return DefinitionError(
        f"{type(step).__name__} has no place in a flow; use commands, activities, local steps, sub-sagas, for_each,"
        " waits, sleeps, emits, when, choice, parallel, repeat_until and pivot."
    )
