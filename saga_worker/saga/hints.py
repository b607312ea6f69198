"""What is allowed in a definition, and may be forgotten: for `saga-worker definitions check`.

Takes sagas that can be used (`checks` found nothing), guarantees to refuse none of them, and hands back one sentence
per hint: where, what, remedy. `notes` are about several definitions together, and say what cannot be known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from saga_worker.saga.checks import undo_of
from saga_worker.saga.forms import Parallel, nodes
from saga_worker.saga.handlers import all_handlers, fields_set, handlers_of, savepoints_named
from saga_worker.saga.messages import wire_types
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.retry import Undo
from saga_worker.saga.source import where
from saga_worker.saga.steps import CommandOf, EmitStep, SavepointStep, WaitStep

if TYPE_CHECKING:
    from saga_worker.saga.definition import Saga


def hints(saga: Saga[Any]) -> Iterator[str]:
    """What is allowed, and may be forgotten: undos, for which nobody asks without a pivot; retries that are idle."""
    yield from _idle_retries(saga)
    yield from _rejections_past_the_pivot(saga)
    yield from _fields_of_branches(saga)
    yield from _unknown_savepoints(saga)
    if saga.flow_root.pivots or not saga.compensate:
        return
    for step in saga.steps.values():
        if (
            isinstance(step, CommandOf | ActivityStep | LocalStep)
            and not step.has_undo
            and step.undo_mode is not Undo.NONE
        ):
            yield (
                f"{step.source}: saga {saga.name}: step {step.id} has no undo, so what it did stands when the saga"
                f" compensates; {undo_of(step)}, or undo=Undo.NONE if that is meant."
            )


def _idle_retries(saga: Saga[Any]) -> Iterator[str]:
    for step in saga.steps.values():
        if isinstance(step, CommandOf | ActivityStep):
            for argument in step.repeats.idle_retries:
                what = "undo_repeatable=False" if argument == "undo_retry" else "repeatable=False"
                yield (
                    f"{step.source}: saga {saga.name}: step {step.id} has {argument}=… and {what}: what may have worked"
                    " is not repeated, so only what was refused is; drop one of the two."
                )


def _rejections_past_the_pivot(saga: Saga[Any]) -> Iterator[str]:
    """There is no way back for them: what is not tried again and not handled waits for an operator."""
    root = saga.flow_root
    past = {step_id for pivot in root.pivots for step_id in root.reach[pivot]} - root.pivots
    for step_id in sorted(past):
        step = saga.steps[step_id]
        if isinstance(step, CommandOf | ActivityStep) and step.on_rejected is None and step.retry.attempts == 1:
            handler = "rejected" if isinstance(step, CommandOf) else "failed"
            yield (
                f"{step.source}: saga {saga.name}: step {step_id} stands past the pivot, and when it is rejected only"
                f" an operator is left; give it a retry=…, or go on with @{step_id}.{handler}."
            )


def _unknown_savepoints(saga: Saga[Any]) -> Iterator[str]:
    """A handler that names a savepoint which is not there would raise when it comes to that."""
    savepoints = [step.id for step in saga.steps.values() if isinstance(step, SavepointStep)]
    for handler in all_handlers(saga):
        for name in sorted(savepoints_named(handler) - set(savepoints)):
            there = f"there are: {', '.join(savepoints)}" if savepoints else "it has none"
            yield (
                f"{where(handler)}: saga {saga.name} would be rolled back to the savepoint {name}, which it does not"
                f" have ({there}); declare it with {saga.name}.savepoint({name!r}), or name another."
            )


def _fields_of_branches(saga: Saga[Any]) -> Iterator[str]:
    """The order of their answers would decide what the field is; so it may, when a loser reports its success late."""
    for node in nodes(saga.flow_root.steps):
        if not isinstance(node, Parallel):
            continue
        fields = [_fields_set(saga, inside) for inside in node.inside]
        for one, other in combinations(fields, 2):
            for field in sorted(one.keys() & other.keys()):
                yield (
                    f"{node.source}: saga {saga.name}: the branches of {one[field]} and {other[field]} both set"
                    f" {field}, and whoever is answered last wins; let each branch write fields of its own."
                )


def _fields_set(saga: Saga[Any], steps: frozenset[str]) -> dict[str, str]:
    """The fields that the handlers of these steps set, each with a step that does."""
    return {
        field: step_id
        for step_id in sorted(steps)
        for handler in handlers_of(saga, step_id)
        for field in fields_set(handler)
    }


def notes(sagas: Sequence[Saga[Any]]) -> Iterator[str]:
    """Events that none of these definitions takes: others may, of whom nothing is known here."""
    taken = {wire_type for saga in sagas for wire_type, _ in saga.entries()}
    for saga in sagas:
        unheard = dict.fromkeys(type_ for type_ in _published(saga) if type_ not in taken)
        if unheard:
            yield f"{saga.source}: saga {saga.name} publishes {', '.join(unheard)}, which no definition here takes."


def _published(saga: Saga[Any]) -> Iterator[str]:
    for step in saga.steps.values():
        if isinstance(step, EmitStep):
            yield wire_types(step.event_model)[0]
        elif isinstance(step, WaitStep) and step.reminder is not None:
            yield wire_types(step.reminder.model)[0]
