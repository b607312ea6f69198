"""The order of steps, and the only walk over it.

Takes the nodes that authors write (`when`, `choice`, `parallel`, `repeat_until`, `pivot`, a sequence), guarantees that
positions are step ids and nothing else, so that a stored saga survives a restart, and hands the next open steps to
`decide`.

A step's *continuation* is what follows it on every level, innermost first: the rest of a sequence, the join of a
branch, the next round of a loop. When the step ends, the first level that opens anything wins, and when none does the
flow has ended. All questions are answered from continuations and from the steps that are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Generic, Literal, TypeAlias

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.instance import Round
from saga_worker.saga.own_work import ActivityStep, AnyStep, LocalStep
from saga_worker.saga.source import checked_name, where_called
from saga_worker.saga.steps import CommandOf, EmitStep, S, SavepointStep, SleepStep, Step, WaitStep

STEPS: Final = (CommandOf, ActivityStep, LocalStep, WaitStep, SleepStep, SavepointStep, EmitStep)
MAX_ROUNDS: Final = 10_000
Join: TypeAlias = Literal["all", "any"] | int
_FIRST_ROUND: Final = Round(1)


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
        return tuple(frozenset(leaf.id for leaf, _ in _places(branch, ())) for branch in self.branches)


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


# A level of a continuation: the steps after this one in a sequence, or the node whose branch or round has ended.
Level: TypeAlias = "tuple[Step[Any], ...] | Parallel[Any] | Repeat[Any]"
Continuation: TypeAlias = tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A branch that its join did not wait for; what its steps have sent after number `since` goes back."""

    steps: frozenset[str]
    since: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the end of a step leads: what opens, which branches lost a join, the round that each loop is in.

    `exhausted` is a loop whose rounds are used up although its test does not hold; `opened` is what comes after it.
    """

    opened: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()
    rounds: Mapping[str, Round] = field(default_factory=dict)
    exhausted: str | None = None


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
            step_id: frozenset({step_id, *(leaf.id for level in levels for leaf in _again(level))})
            for step_id, levels in self.continuations.items()
        }

    @cached_property
    def pivots(self) -> frozenset[str]:
        return frozenset(_pivots(self.steps))

    @cached_property
    def has_loops(self) -> bool:
        return any(isinstance(node, Repeat) for node in _nodes(self.steps))

    @cached_property
    def branches(self) -> dict[str, dict[int, int]]:
        """By step id: its branch of each `parallel` around it; of those in a loop nothing, since rounds are ordered."""
        found: dict[str, dict[int, int]] = {step_id: {} for step_id in self.continuations}
        for node in _outside_loops(self.steps):
            for branch, inside in enumerate(node.inside):
                for step_id in inside:
                    found[step_id][id(node)] = branch
        return found


def when(test: Callable[[S], bool], *then: Step[S], otherwise: Step[S] | None = None) -> When[S]:
    """Steps that are taken only if `test` holds for the state when the flow comes here."""
    source = where_called()
    if not then:
        raise DefinitionError(f"{source}: when(…) has no step to take; name at least one after the test.")
    _check_steps((*then, *(() if otherwise is None else (otherwise,))), source)
    return When(test, then, () if otherwise is None else (otherwise,), source)


def choice(*arms: tuple[Callable[[S], bool], Sequence[Step[S]]], otherwise: Sequence[Step[S]] | None = None) -> When[S]:
    """The steps of the first arm whose test holds for the state when the flow comes here, else those of `otherwise`."""
    source = where_called()
    if not arms:
        raise DefinitionError(f"{source}: choice(…) has no arm; give at least one (test, [steps]).")
    chosen = tuple(otherwise or ())
    _check_steps(chosen, source)
    for test, steps in reversed(arms):
        if not steps:
            raise DefinitionError(f"{source}: an arm of choice(…) has no step to take; name at least one.")
        _check_steps(tuple(steps), source)
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
        _check_steps(steps, source)
        _refuse_pivots(steps, "a branch of parallel(…)", source)
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
    _check_steps(steps, source)
    _refuse_pivots(steps, "repeat_until(…)", source)
    return Repeat(test, steps, times, checked_name(name, "loop", source=source), source)


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


def after(
    root: Flow[Any], step_id: str, state: Any, others: AbstractSet[str] = frozenset(),
    rounds: Mapping[str, Round] | None = None, seq: int = 0,
) -> Moved:  # fmt: skip
    """Where the end of `step_id` leads. `others`: the steps that are open beside it; `seq`: the last number sent.

    When nothing opens and no other step is left, the flow has ended.
    """
    now = dict(rounds or {})
    lost: tuple[Lost, ...] = ()
    exhausted: str | None = None
    levels = _continuation(root, step_id)
    for depth, level in enumerate(levels):
        match level:
            case Parallel():
                behind = [inside for inside in level.inside if not inside.isdisjoint(others)]
                if len(level.branches) - len(behind) < level.wanted:
                    break
                since = max((now[n].seq for n in _loops_around(levels[depth:]) if n in now), default=0)
                lost += tuple(Lost(inside, since) for inside in behind)
                others = frozenset(others).difference(*behind)
                for name in _loops_in(level):
                    now.pop(name, None)
            case Repeat():
                number = now.pop(level.name, _FIRST_ROUND).number
                if level.test(state):
                    continue
                if number == level.times:
                    exhausted = level.name
                elif opened := _open(level.steps, state):
                    return Moved(opened, lost, {**now, level.name: Round(number + 1, seq)}, exhausted)
            case _:
                if opened := _open(level, state):
                    return Moved(opened, lost, now, exhausted)
    return Moved((), lost, now, exhausted)


def ahead(root: Flow[Any], active: Iterable[str]) -> frozenset[str]:
    """The steps that are open or may still be reached, whatever the conditions will say."""
    reached: frozenset[str] = frozenset()
    for step_id in active:
        _continuation(root, step_id)
        reached |= root.reach[step_id]
    return reached


def are_concurrent(root: Flow[Any], one: str, other: str) -> bool:
    """Whether these steps stand in different branches, so that neither was there because of the other."""
    if one == other:
        return False
    ours, theirs = root.branches[one], root.branches[other]
    return any(ours[node] != theirs[node] for node in ours.keys() & theirs.keys())


def pivots(root: Flow[Any]) -> frozenset[str]:
    """The steps marked as pivots."""
    return root.pivots


def leaves(root: Flow[Any]) -> Iterator[AnyStep]:
    """All steps in the order they were written; a step placed twice comes twice."""
    return (leaf for leaf, _ in _places(root.steps, ()))


def inner_savepoints(root: Flow[Any]) -> Iterator[SavepointStep[Any]]:
    """Those that do not stand in the main line."""
    return (node for node in _nodes(root.steps) if isinstance(node, SavepointStep) and node not in root.steps)


def loops(root: Flow[Any]) -> Iterator[Repeat[Any]]:
    """All loops in the order they were written."""
    return (node for node in _nodes(root.steps) if isinstance(node, Repeat))


def may_lose(root: Flow[Any]) -> frozenset[str]:
    """The steps of branches that a join need not wait for: what they do may have to be undone."""
    return frozenset(
        step_id
        for node in _nodes(root.steps)
        if isinstance(node, Parallel) and node.wanted < len(node.branches)
        for inside in node.inside
        for step_id in inside
    )


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
            case Parallel():
                opened = _open_branches(step, state)
            case Repeat():
                opened = _open(step.steps, state)
            case Pivot():
                opened = _open((step.step,), state)
            case _ if isinstance(step, STEPS):
                opened = (step.id,)
            case _:
                raise _unknown_node(step)
        if opened:
            return opened
    return ()


def _open_branches(node: Parallel[Any], state: Any) -> tuple[str, ...]:
    """What all branches open with; nothing when so many of them have nothing to do that the join is met already."""
    opened = [_open(branch, state) for branch in node.branches]
    if sum(not each for each in opened) >= node.wanted:
        return ()
    return tuple(step_id for each in opened for step_id in each)


def _places(steps: tuple[Step[Any], ...], outer: Continuation) -> Iterator[tuple[AnyStep, Continuation]]:
    """Every step inside `steps`, with its continuation."""
    for position, step in enumerate(steps):
        rest = steps[position + 1 :]
        levels = (rest, *outer) if rest else outer
        match step:
            case _ if isinstance(step, STEPS):
                yield step, levels
            case Parallel() | Repeat():
                for inner in _inner(step):
                    yield from _places(inner, (step, *levels))
            case _:
                for inner in _inner(step):
                    yield from _places(inner, levels)


def _inner(step: Step[Any]) -> tuple[tuple[Step[Any], ...], ...]:
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
            raise _unknown_node(step)


def _nodes(steps: tuple[Step[Any], ...]) -> Iterator[Step[Any]]:
    """Everything in `steps`, outermost first."""
    for step in steps:
        yield step
        for inner in _inner(step):
            yield from _nodes(inner)


def _outside_loops(steps: tuple[Step[Any], ...]) -> Iterator[Parallel[Any]]:
    for step in steps:
        if isinstance(step, Parallel):
            yield step
        if not isinstance(step, Repeat):
            for inner in _inner(step):
                yield from _outside_loops(inner)


def _loops_in(node: Step[Any]) -> Iterator[str]:
    return (each.name for each in _nodes((node,)) if isinstance(each, Repeat))


def _loops_around(levels: Continuation) -> Iterator[str]:
    return (level.name for level in levels if isinstance(level, Repeat))


def _again(level: Level) -> Iterator[AnyStep]:
    """The steps that may be taken, or taken again, on this level of a continuation."""
    match level:
        case Parallel():
            return iter(())
        case Repeat():
            return (leaf for leaf, _ in _places(level.steps, ()))
        case _:
            return (leaf for leaf, _ in _places(level, ()))


def _pivots(steps: tuple[Step[Any], ...]) -> Iterator[str]:
    for node in _nodes(steps):
        if isinstance(node, Pivot):
            yield from (leaf.id for leaf, _ in _places((node,), ()))


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
            case _:  # no pivot stands in a branch or in a loop
                found, is_open = found | {leaf.id for leaf, _ in _places((step,), ())}, True
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
        if not isinstance(step, (*STEPS, When, Parallel, Repeat, Pivot)):
            raise DefinitionError(f"{source}: {step!r} is no step; name the steps themselves, not their ids.")


def _refuse_pivots(steps: tuple[Step[S], ...], place: str, source: str) -> None:
    if any(isinstance(node, Pivot) for node in _nodes(steps)):
        raise DefinitionError(f"{source}: {place} has a pivot inside; place it before or after.")


def _unknown_node(step: Step[Any]) -> DefinitionError:
    return DefinitionError(
        f"{type(step).__name__} has no place in a flow; use commands, activities, local steps, waits, sleeps, emits,"
        " when, choice, parallel, repeat_until and pivot."
    )
