"""The order of steps, and the only walk over it.

Takes the nodes that authors write (`forms`), guarantees that positions are step ids and nothing else, so that a stored
saga survives a restart, and hands the next open steps to `decide`.

A step's *continuation* is what follows it on every level, innermost first: the rest of a sequence, the join of a
branch, the next round of a loop. When the step ends, the first level that opens anything wins, and when none does the
flow has ended. All questions are answered from continuations and from the steps that are open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, Final, Generic, TypeAlias

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.forms import STEPS, Parallel, Pivot, Repeat, When, check_steps, inner, nodes, unknown_node
from saga_worker.saga.instance import Round
from saga_worker.saga.own_work import AnyStep
from saga_worker.saga.source import where_called
from saga_worker.saga.steps import S, SavepointStep, Step

_FIRST_ROUND: Final = Round(1)
# The first two steps of an entity. Their names stand in stored sagas.
HOME: Final = "round"  # the savepoint that what follows from an event is taken back to
IDLE: Final = "idle"  # the wait for the next event


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

    def __init__(self, steps: tuple[Step[S], ...], source: str, *, is_circle: bool = False) -> None:
        self.steps: Final = steps
        self.source: Final = source
        self.is_circle: Final = is_circle  # of an entity: after the last step comes the first

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
        return any(isinstance(node, Repeat) for node in nodes(self.steps))

    @cached_property
    def branches(self) -> dict[str, dict[int, int]]:
        """By step id: its branch of each `parallel` around it; of those in a loop nothing, since rounds are ordered."""
        found: dict[str, dict[int, int]] = {step_id: {} for step_id in self.continuations}
        for node in _outside_loops(self.steps):
            for branch, inside in enumerate(node.inside):
                for step_id in inside:
                    found[step_id][id(node)] = branch
        return found


def flow_of(steps: tuple[Step[S], ...]) -> Flow[S]:
    """The root of a flow."""
    source = where_called()
    check_steps(steps, source)
    return Flow(steps, source)


def circle_of(steps: tuple[Step[S], ...]) -> Flow[S]:
    """The root of a flow that begins again when it has ended."""
    source = where_called()
    check_steps(steps, source)
    return Flow(steps, source, is_circle=True)


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


def ahead(root: Flow[Any], active: Iterable[str], beyond: AbstractSet[str] = frozenset()) -> frozenset[str]:
    """The steps that are open or may still be reached, whatever the conditions will say.

    Of those in `beyond` only what comes after them counts; in a loop that may be the step itself.
    """
    reached: frozenset[str] = frozenset()
    for step_id in active:
        levels = _continuation(root, step_id)
        if root.is_circle:
            reached |= root.continuations.keys()
        elif step_id in beyond:
            reached |= {leaf.id for level in levels for leaf in _again(level)}
        else:
            reached |= root.reach[step_id]
    return reached


def are_concurrent(root: Flow[Any], one: str, other: str) -> bool:
    """Whether these steps stand in different branches, so that neither was there because of the other."""
    if one == other:
        return False
    ours, theirs = root.branches[one], root.branches[other]
    return any(ours[node] != theirs[node] for node in ours.keys() & theirs.keys())


def may_be_open_together(root: Flow[Any], step_ids: Iterable[str]) -> bool:
    """Whether each two of these steps stand in different branches of some `parallel`."""
    found = [node.inside for node in nodes(root.steps) if isinstance(node, Parallel)]
    return all(
        any(one in branch and other not in branch and any(other in rest for rest in inside)
            for inside in found for branch in inside)
        for one, other in combinations(step_ids, 2)
    )  # fmt: skip


def is_in_loop(root: Flow[Any], step_id: str) -> bool:
    return any(isinstance(level, Repeat) for level in _continuation(root, step_id))


def pivots(root: Flow[Any]) -> frozenset[str]:
    """The steps marked as pivots."""
    return root.pivots


def leaves(root: Flow[Any]) -> Iterator[AnyStep]:
    """All steps in the order they were written; a step placed twice comes twice."""
    return (leaf for leaf, _ in _places(root.steps, ()))


def inner_savepoints(root: Flow[Any]) -> Iterator[SavepointStep[Any]]:
    """Those that do not stand in the main line."""
    return (node for node in nodes(root.steps) if isinstance(node, SavepointStep) and node not in root.steps)


def loops(root: Flow[Any]) -> Iterator[Repeat[Any]]:
    """All loops in the order they were written."""
    return (node for node in nodes(root.steps) if isinstance(node, Repeat))


def may_lose(root: Flow[Any]) -> frozenset[str]:
    """The steps of branches that a join need not wait for: what they do may have to be undone."""
    return frozenset(
        step_id
        for node in nodes(root.steps)
        if isinstance(node, Parallel) and node.wanted < len(node.branches)
        for inside in node.inside
        for step_id in inside
    )


def may_be_undone(root: Flow[Any]) -> frozenset[str]:
    """The steps that a saga may take back: those before every pivot, and those of branches that lose a join."""
    first, _ = _unpivoted(root.steps)
    return (first - root.pivots) | may_lose(root)


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
                raise unknown_node(step)
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
                for part in inner(step):
                    yield from _places(part, (step, *levels))
            case _:
                for part in inner(step):
                    yield from _places(part, levels)


def _outside_loops(steps: tuple[Step[Any], ...]) -> Iterator[Parallel[Any]]:
    for step in steps:
        if isinstance(step, Parallel):
            yield step
        if not isinstance(step, Repeat):
            for part in inner(step):
                yield from _outside_loops(part)


def _loops_in(node: Step[Any]) -> Iterator[str]:
    return (each.name for each in nodes((node,)) if isinstance(each, Repeat))


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
    for node in nodes(steps):
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
