"""All that one locked saga has waiting, applied in order: the decisions of one transaction for one saga.

Takes the saga and its backlog (ready, parked, held and dead rows, due timers); hands out a `SagaChange`. Everything
happens to a `WorkingCopy`, in this order, each by the rules of the module it is named after:

1. `ready` rows have their turn, oldest first. `outcomes` says what becomes of each.
2. `early` rows are offered again after each step that moved the saga, and given up when their period is over.
3. `due_timers` fire, if no row is left that could still win against them.
4. `closing` says what has to be done about the saga later on.

At the end none of the saga's rows is left ready and due unless it can run now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from saga_worker.saga.changes import SagaChange
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import due_timers, early, ready
from saga_worker.saga.fold.backlog import is_blocked
from saga_worker.saga.fold.closing import NOT_NOW, close, due_local
from saga_worker.saga.fold.due_timers import in_hand
from saga_worker.saga.fold.working_copy import Limits, WorkingCopy
from saga_worker.saga.inputs import Applied, Given, LocalDone, LocalFailed, Raised
from saga_worker.saga.instance import Instance
from saga_worker.saga.moving import Course
from saga_worker.saga.rows import InboxRow

__all__ = ["NOT_NOW", "Limits", "LocalRefused", "due_local", "fold", "fold_local", "in_hand", "is_blocked"]


def fold(
    saga: Saga[Any], ref: UUID, instance: Instance | None, rows: Sequence[InboxRow], given: Given, limits: Limits,
    *, alone: bool = False, write_error: str | None = None, fires: bool = True, upgrade: Course | None = None,
    newest: Saga[Any] | None = None,
) -> SagaChange:  # fmt: skip
    """Apply what can be applied. With `alone` the first row or timer only, which may be a suspect. Without `fires`
    no timer: of one that killed the worker nobody would know unless it was announced.

    `newest`: the version by which another run of the key would begin; default: `saga`.

    `write_error` says that what this first row leads to cannot be written: it counts as an error of its handler.
    `upgrade` brings the saga to `saga`, a newer version, before its first input; raising counts like that, too.
    """
    copy = WorkingCopy(
        saga, ref, instance, rows, given, limits, alone=alone, write_error=write_error, upgrade=upgrade, newest=newest
    )  # fmt: skip
    ready.apply(copy)
    if copy.has_early:
        early.offer_once(copy)
        early.expire(copy)
    if fires:
        due_timers.fire(copy)
    return close(copy)


def fold_local(
    saga: Saga[Any], instance: Instance, rows: Sequence[InboxRow], given: Given, limits: Limits,
    done: LocalDone | LocalFailed,
) -> SagaChange:  # fmt: skip
    """Apply what a local step has led to, and nothing else: rows have their turn in the next transaction.

    Raises `LocalRefused` when the step's outcome cannot be applied: its transaction must be rolled back.
    """
    copy = WorkingCopy(saga, instance.ref, instance, rows, given, limits, alone=True)
    decision = copy.decide(done)
    match decision.outcome:
        case Applied():
            message_id = f"local:{instance.ref}:{done.seq}:{done.epoch}"
            copy.record(decision, kind="local", source="local", message_id=message_id)
        case Raised(error):
            raise LocalRefused(error)
        case _:
            raise LocalRefused("the step is not due any more")
    if copy.has_moved(instance):
        early.put_behind(copy, [*copy.parked, *copy.lines])
    copy.change.again = copy.change.again or bool(copy.ready)
    return close(copy)


class LocalRefused(Exception):
    """What a local step did cannot be kept; the text says why."""
