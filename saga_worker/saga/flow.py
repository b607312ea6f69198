"""The order of steps, and the only walk over it.

Takes the nodes that authors write (`when`, `pivot`, a sequence), guarantees that positions are step ids and nothing
else, so that a stored saga survives a restart, and hands the next open steps to `decide`.

A step's *continuation* is what follows it on every level, innermost first: when it ends, the first continuation
that opens anything wins, and when none does the flow has ended. All questions are answered from continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, Generic, TypeAlias

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.own_work import ActivityStep, AnyStep, LocalStep
from saga_worker.saga.source import where_called
from saga_worker.saga.steps import CommandOf, EmitStep, S, Step, WaitStep

STEPS: Final = (CommandOf, ActivityStep, LocalStep, WaitStep, EmitStep)
Continuation: TypeAlias = tuple[tuple[Step[Any], ...], ...]


class When(Step[S], Generic[S]):
    """Takes `then` if the test holds for the state at this moment, else `otherwise`."""

    def __init__(
        self, test: Callable[[S], bool], then: tuple[Step[S], ...], otherwise: tuple[Step[S], ...], source: str
    ) -> None:
        self.test: Final = test
        self.then: Final = then
        self.otherwise: Final = otherwise
        self.source: Final = source


class Pivot(Step[S], Generic[S]):
    """The step after which a saga only goes forward."""

    def __init__(self, step: Step[S], source: str) -> None:
        self.step: Final = step
        self.source: Final = source


class Flow(Step[S], Generic[S]):
    """The root: a sequence of steps, with what is known of each place worked out once."""

    def __init__(self, steps: tuple[Step[S], ...], source: str) -> None:
        self.steps: Final = steps
        self.source: Final = source

    @cached_property
    def continuations(self) -> dict[str, Continuation]:
        """By step id: what follows the step, innermost level first."""
        return {leaf.id: continuation for leaf, continuation in _places(self.steps, ())}

    @cached_property
    def reach(self) -> dict[str, frozenset[str]]:
        """By step id: the step itself and all that may still come after it."""
        return {
            step_id: frozenset({step_id, *(leaf.id for rest in levels for leaf, _ in _places(rest, ()))})
            for step_id, levels in self.continuations.items()
        }

    @cached_property
    def pivots(self) -> frozenset[str]:
        return frozenset(_pivots(self.steps))


def when(test: Callable[[S], bool], *then: Step[S], otherwise: Step[S] | None = None) -> When[S]:
    """Steps that are taken only if `test` holds for the state when the flow comes here."""
    source = where_called()
    if not then:
        raise DefinitionError(f"{source}: when(…) has no step to take; name at least one after the test.")
    _check_steps((*then, *(() if otherwise is None else (otherwise,))), source)
    return When(test, then, () if otherwise is None else (otherwise,), source)


def pivot(step: Step[S]) -> Pivot[S]:
    """Marks the step after which nothing is undone: from there on the saga only goes forward."""
    source = where_called()
    if not isinstance(step, STEPS):
        raise DefinitionError(f"{source}: pivot(…) takes one step, such as a command, an activity or a wait.")
    return Pivot(step, source)


def flow_of(steps: tuple[Step[S], ...]) -> Flow[S]:
    """The root of a flow."""
    source = where_called()
    _check_steps(steps, source)
    return Flow(steps, source)


def enter(root: Flow[Any], state: Any) -> tuple[str, ...]:
    """The steps that a new saga opens; empty: its flow ends at once."""
    return _open(root.steps, state)


def after(root: Flow[Any], step_id: str, state: Any) -> tuple[str, ...]:
    """The steps that open when `step_id` ends; empty: the flow has ended."""
    for rest in _continuation(root, step_id):
        opened = _open(rest, state)
        if opened:
            return opened
    return ()


def ahead(root: Flow[Any], active: Iterable[str]) -> frozenset[str]:
    """The steps that are open or may still be reached, whatever the conditions will say."""
    reached: frozenset[str] = frozenset()
    for step_id in active:
        _continuation(root, step_id)
        reached |= root.reach[step_id]
    return reached


def pivots(root: Flow[Any]) -> frozenset[str]:
    """The steps marked as pivots."""
    return root.pivots


def leaves(root: Flow[Any]) -> Iterator[AnyStep]:
    """All steps in the order they were written; a step placed twice comes twice."""
    return (leaf for leaf, _ in _places(root.steps, ()))


def before_pivots(root: Flow[Any]) -> frozenset[str]:
    """The steps that may run before any pivot and be followed by one: what they do may have to be undone."""
    first, _ = _unpivoted(root.steps)
    return frozenset(step_id for step_id in first - root.pivots if root.reach[step_id] & root.pivots)


def _open(steps: tuple[Step[Any], ...], state: Any) -> tuple[str, ...]:
    """The ids that open when the flow comes to `steps`."""
    for step in steps:
        match step:
            case When():
                opened = _open(step.then if step.test(state) else step.otherwise, state)
            case Pivot():
                opened = _open((step.step,), state)
            case CommandOf() | ActivityStep() | LocalStep() | WaitStep() | EmitStep():
                opened = (step.id,)
            case _:
                raise _unknown_node(step)
        if opened:
            return opened
    return ()


def _places(steps: tuple[Step[Any], ...], outer: Continuation) -> Iterator[tuple[AnyStep, Continuation]]:
    """Every step inside `steps`, with its continuation."""
    for position, step in enumerate(steps):
        levels = (steps[position + 1 :], *outer)
        match step:
            case When():
                yield from _places(step.then, levels)
                yield from _places(step.otherwise, levels)
            case Pivot():
                yield from _places((step.step,), levels)
            case CommandOf() | ActivityStep() | LocalStep() | WaitStep() | EmitStep():
                yield step, levels
            case _:
                raise _unknown_node(step)


def _pivots(steps: tuple[Step[Any], ...]) -> Iterator[str]:
    for step in steps:
        match step:
            case Pivot():
                yield from (leaf.id for leaf, _ in _places((step,), ()))
            case When():
                yield from _pivots(step.then)
                yield from _pivots(step.otherwise)
            case _:
                pass


def _unpivoted(steps: tuple[Step[Any], ...]) -> tuple[frozenset[str], bool]:
    """The steps that may run before any pivot, and whether the end may be reached without one."""
    found: frozenset[str] = frozenset()
    for step in steps:
        match step:
            case When():
                (then, then_open), (otherwise, otherwise_open) = _unpivoted(step.then), _unpivoted(step.otherwise)
                found, is_open = found | then | otherwise, then_open or otherwise_open
            case Pivot():
                found, is_open = found | _unpivoted((step.step,))[0], False
            case CommandOf() | ActivityStep() | LocalStep() | WaitStep() | EmitStep():
                found, is_open = found | {step.id}, True
            case _:
                raise _unknown_node(step)
        if not is_open:
            return found, False
    return found, True


def _continuation(root: Flow[Any], step_id: str) -> Continuation:
    try:
        return root.continuations[step_id]
    except KeyError:
        raise DefinitionError(
            f"{root.source}: no step {step_id} in this flow, but a saga stands there; "
            "give a changed flow a new version and keep the old one while its sagas run."
        ) from None


def _check_steps(steps: tuple[Step[S], ...], source: str) -> None:
    for step in steps:
        if not isinstance(step, (*STEPS, When, Pivot)):
            raise DefinitionError(f"{source}: {step!r} is no step; name the steps themselves, not their ids.")


def _unknown_node(step: Step[Any]) -> DefinitionError:
    return DefinitionError(
        f"{type(step).__name__} has no place in a flow; use commands, activities, local steps, waits, emits, when and "
        "pivot."
    )
