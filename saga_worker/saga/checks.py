"""What can be known to be wrong with a definition before it runs.

Takes a whole saga, guarantees to look at all of it, and hands back one sentence per problem: where, what, remedy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from saga_worker.saga import upgrade
from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.flow import IDLE, Flow, before_pivots, inner_savepoints, leaves, loops, may_be_undone, may_lose
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.placed import PlacedStep
from saga_worker.saga.retry import Undo
from saga_worker.saga.routing import KeyKind
from saga_worker.saga.second_start import SecondStart
from saga_worker.saga.steps import CommandOf, WaitStep

if TYPE_CHECKING:
    from saga_worker.saga.definition import Entry, Saga


def problems(saga: Saga[Any]) -> Iterator[str]:
    """One line for each problem; nothing: the saga may be used."""
    yield from _starts(saga)
    yield from _second_start(saga)
    yield from _internal(saga)
    yield from _keys(saga)
    yield from _models(saga)
    yield from _ambiguous_events(saga)
    if not saga.flow_root.steps:
        yield f"{saga.source}: saga {saga.name} has no steps in its flow; call {saga.name}.flow(…) with them."
        return
    yield from _placement(saga, saga.flow_root)
    for step in saga.steps.values():
        match step:
            case CommandOf():
                yield from _command(saga, step)
            case ActivityStep():
                yield from _activity(saga, step)
            case WaitStep():
                yield from _wait(saga, step)
            case SubsagaStep() | EachStep():
                yield from _children(saga, step)
            case _:
                pass
    yield from _missing_undos(saga, saga.flow_root)
    if saga.flow_root.pivots and not saga.compensate:
        yield (
            f"{saga.source}: saga {saga.name} has a pivot, but compensate=False: it only goes forward from the"
            " beginning; drop one of the two."
        )
    yield from _strict_undos(saga)
    yield from upgrade.problems(saga)


def _starts(saga: Saga[Any]) -> Iterator[str]:
    if saga.lives_on and not saga.starts:
        yield f"{saga.source}: entity {saga.name} takes no event; declare one with @{saga.name}.on(…)."
    elif not saga.starts and not saga.parents:
        yield f"{saga.source}: saga {saga.name} has no start; declare one with @{saga.name}.starts_on(…)."


def _second_start(saga: Saga[Any]) -> Iterator[str]:
    """A numbered start that waits for the end of a run would hold up the very events that lead there."""
    for wire_type, start in saga.starts.items():
        if saga.second_start is SecondStart.QUEUE and saga.sequences.get(wire_type) is not None:
            yield (
                f"{start.source}: saga {saga.name} queues second starts, and {wire_type} is numbered; leave out its"
                " sequence=…, or choose another second_start."
            )


def _internal(saga: Saga[Any]) -> Iterator[str]:
    """A type is let in or not, whatever it does: nobody can tell before the saga is locked."""
    for wire_type in saga.starts.keys() & (saga.handlers.keys() | saga.arms.keys()) if saga.internal else ():
        yield (
            f"{saga.starts[wire_type].source}: saga {saga.name} is internal, and {wire_type} both starts it and comes"
            " to it later, from outside; use another event for one of the two."
        )


def _keys(saga: Saga[Any]) -> Iterator[str]:
    for _, entry in saga.entries():
        if entry.key_kind is not saga.key_kind:
            yield (
                f"{entry.source}: saga {saga.name} has {saga.key_kind.value} keys, but {entry.model.__name__} gives "
                f"{entry.key_kind.value}; use one kind of key in all its events."
            )


def _models(saga: Saga[Any]) -> Iterator[str]:
    """The route table has one pointer per type, so all uses of a type have to agree."""
    first: dict[str, Entry] = {}
    for wire_type, entry in saga.entries():
        other = first.setdefault(wire_type, entry)
        if (other.model, other.pointer) != (entry.model, entry.pointer):
            yield (
                f"{entry.source}: saga {saga.name} reads the event {wire_type} in another way at {other.source}; "
                "use one class and one key for it."
            )


def _ambiguous_events(saga: Saga[Any]) -> Iterator[str]:
    for wire_type in saga.handlers.keys() & saga.arms.keys():
        arm = saga.arms[wire_type][0]
        yield (
            f"{arm.source}: saga {saga.name}: {wire_type} is an arm of wait {arm.step_id} and handled at any time at "
            f"{saga.handlers[wire_type].source}; keep one of the two."
        )


def _placement(saga: Saga[Any], root: Flow[Any]) -> Iterator[str]:
    placed = list(leaves(root))
    for step_id, count in Counter(step.id for step in placed).items():
        if count > 1:
            yield f"{root.source}: saga {saga.name}: step {step_id} stands {count} times in the flow; place it once."
    for step in placed:
        if saga.steps.get(step.id) is not step:
            yield f"{root.source}: saga {saga.name}: step {step.id} belongs to another saga; declare it on {saga.name}."
    for step_id in saga.steps.keys() - {step.id for step in placed}:
        source = saga.steps[step_id].source
        yield f"{source}: saga {saga.name}: step {step_id} is unreachable; place it in {saga.name}.flow(…) or drop it."

    for step in inner_savepoints(root):
        yield (
            f"{step.source}: saga {saga.name}: savepoint {step.id} stands inside another form; place it in the main"
            f" line of {saga.name}.flow(…)."
        )
    for name, count in Counter(loop.name for loop in loops(root)).items():
        if count > 1:
            yield f"{root.source}: saga {saga.name}: {count} loops are called {name}; give each its own name=…."


def _command(saga: Saga[Any], step: CommandOf[Any, Any]) -> Iterator[str]:
    says_nothing = len(step.replies) == 1 and not any(model.model_fields for model in step.replies.values())
    if step.on_reply is None and not says_nothing:
        yield (
            f"{step.source}: saga {saga.name}: step {step.id} does not handle its reply {' | '.join(step.replies)}; "
            f"declare a handler with @{step.id}.reply."
        )
    both = step.replies.keys() & step.rejections.keys()
    if both:
        yield (
            f"{step.source}: saga {saga.name}: step {step.id} cannot tell reply from rejection by type: "
            f"{', '.join(sorted(both))} is both; give {step.command_model.__name__} different answers."
        )


def _activity(saga: Saga[Any], step: ActivityStep[Any, Any]) -> Iterator[str]:
    if isinstance(step, PlacedStep):
        yield from _placed(saga, step)
    elif step.on_reply is None and step.result_model.model_fields:
        yield (
            f"{step.source}: saga {saga.name}: step {step.id} does not handle its result "
            f"{step.result_model.__name__}; declare a handler with @{step.id}.result."
        )


def _children(saga: Saga[Any], step: SubsagaStep[Any, Any] | EachStep[Any, Any]) -> Iterator[str]:
    place, child = f"{step.source}: saga {saga.name}: step {step.id}", step.child
    if saga.lives_on and step.is_awaited:
        yield f"{place} is a sub-saga of an entity, which lives on; start it by an event, with emit, and wait for one."
        return
    if child.lives_on and step.is_awaited:
        yield f"{place} waits for the end of the entity {child.name}, which has none; send it an event with emit."
        return
    if step.is_awaited and step.timeout is None and saga.deadline is None and child.deadline is None:
        yield (
            f"{place} may last for ever; give it a timeout=…, saga {child.name} a deadline=… or this saga a deadline=…."
        )
    if step.key is None and child.key_kind is not KeyKind.TEXT:
        yield f"{place} starts saga {child.name}, which has {child.key_kind.value} keys; give its key=…."
    if step.has_undo and child.flow_root.pivots and step.id in may_be_undone(saga.flow_root):
        yield (
            f"{place} may have to be taken back, but saga {child.name} has a pivot, past which it goes only forward;"
            f" make this step the pivot, declare it undo=Undo.NONE, or drop the pivot there."
        )


def _placed(saga: Saga[Any], step: PlacedStep[Any, Any, Any]) -> Iterator[str]:
    if step.activity.execute_shape.may_wait and not step.resuming:
        yield (
            f"{step.source}: saga {saga.name}: step {step.id} may wait, and no event is declared that it could wait"
            " for; declare them with .resumes_on(TheEvent, key=…)."
        )
    if (before := step.after) is None:
        return
    if saga.steps.get(before.id) is not before:
        yield (
            f"{step.source}: saga {saga.name}: step {step.id} comes after={before.id}, which belongs to another saga;"
            f" name a step of {saga.name}."
        )
    elif step.id not in saga.flow_root.reach.get(before.id, ()) or step.id == before.id:
        yield (
            f"{step.source}: saga {saga.name}: step {step.id} takes what {before.id} returns, but {before.id} does not"
            " stand before it in the flow; place it there."
        )


def _wait(saga: Saga[Any], step: WaitStep[Any]) -> Iterator[str]:
    if saga.lives_on and step.id == IDLE:
        return  # an entity may rest for ever
    if step.timeout is None and saga.deadline is None:
        yield (
            f"{step.source}: saga {saga.name}: wait {step.id} may last for ever; give it a timeout=… or the saga a "
            "deadline=…."
        )
    if not any(arm.step_id == step.id for arms in saga.arms.values() for arm in arms):
        yield f"{step.source}: saga {saga.name}: wait {step.id} has no arm; declare what ends it with .on(…)."


def _strict_undos(saga: Saga[Any]) -> Iterator[str]:
    """The state is that of a later round when a strict step of an entity is reported after it was given up."""
    for step in saga.steps.values():
        if saga.lives_on and isinstance(step, CommandOf | ActivityStep) and step.undo_mode is Undo.STRICT:
            yield (
                f"{step.source}: entity {saga.name}: step {step.id} has undo=Undo.STRICT, and its late success would"
                " meet the state of a later event; make it Undo.HYBRID or Undo.NONE, or let a saga do this step."
            )


def _missing_undos(saga: Saga[Any], root: Flow[Any]) -> Iterator[str]:
    undone, given_up = before_pivots(root) if saga.compensate else frozenset(), may_lose(root)
    for step in saga.steps.values():
        if (
            isinstance(step, CommandOf | ActivityStep | LocalStep)
            and step.id in undone | given_up
            and not step.has_undo
            and step.undo_mode is not Undo.NONE
        ):
            when = "before the pivot" if step.id in undone else "when its branch loses the join"
            yield (
                f"{step.source}: saga {saga.name}: step {step.id} may have to be undone {when}; {undo_of(step)}, or"
                " undo=Undo.NONE if there is nothing to take back."
            )


def undo_of(step: CommandOf[Any, Any] | ActivityStep[Any, Any] | LocalStep[Any]) -> str:
    """Where its undo is declared."""
    if isinstance(step, PlacedStep):
        return f"give {type(step.activity).__name__} a compensate"
    return f"declare @{step.id}.undo"
