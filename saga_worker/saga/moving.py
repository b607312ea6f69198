"""A saga is moved to a newer version: the whole way that is open to it, one version after another.

`course` says how far that is, by position alone, without running any code of an author. `move` goes it: each version is
a decision of its own, with a revision and a journal row, and nothing is sent by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from pydantic_core import from_json

from saga_worker.saga.carry_over import NoPlace, carry_over
from saga_worker.saga.definition import Saga
from saga_worker.saga.draft import Draft
from saga_worker.saga.finishing import finish
from saga_worker.saga.inputs import Applied, Decision, Given
from saga_worker.saga.instance import Instance, Progress
from saga_worker.saga.names import DEADLINE, DEADLINE_PASSED
from saga_worker.saga.transitions import Status
from saga_worker.saga.upcast import upcasted
from saga_worker.saga.upgrade import Upgrade


class Hop(Struct, frozen=True):
    """From one version to the next that takes its sagas. `may_end`: sagas can be left there, it is loaded."""

    saga: Saga[Any]
    upgrade: Upgrade
    may_end: bool


class Course(Struct, frozen=True):
    """How far a saga can be moved now, and what holds it back there."""

    hops: tuple[tuple[Hop, Progress], ...] = ()
    why_not_further: str | None = None

    @property
    def target(self) -> Saga[Any] | None:
        return self.hops[-1][0].saga if self.hops else None


def course(way: Sequence[Hop], instance: Instance) -> Course:
    """The longest part of `way` at the end of which this saga can be left."""
    gone: list[tuple[Hop, Progress]] = []
    reached, why = 0, None
    for hop in way:
        try:
            progress = carry_over(hop.saga, hop.upgrade, instance)
        except NoPlace as no_place:
            why = f"not to version {hop.saga.version}: {no_place}"
            break
        instance = replace(instance, progress=progress, definition_version=hop.saga.version)
        gone.append((hop, progress))
        if hop.may_end:
            reached = len(gone)
    return Course(tuple(gone[:reached]), why)


def move(plan: Course, instance: Instance, given: Given) -> tuple[Decision, ...]:
    """One decision for each version; raises whatever the author's functions raise."""
    decisions = []
    for hop, progress in plan.hops:
        decision = _move(hop, progress, instance, given)
        decisions.append(decision)
        assert decision.instance is not None
        instance = decision.instance
    return tuple(decisions)


def _move(hop: Hop, progress: Progress, instance: Instance, given: Given) -> Decision:
    saga = hop.saga
    draft = Draft(saga, replace(instance, definition_version=saga.version, progress=progress), given)
    if draft.before is not None:  # an entity may still go back to it
        draft.keep(_moved_state(hop, draft.before))
        draft.before = draft.state_bytes
    draft.keep(_moved_state(hop, instance.state))
    draft.move_work()
    _bound(draft)
    return finish(draft, Applied())


def _moved_state(hop: Hop, stored: bytes) -> Any:
    """What the author's upgrade makes of a stored state."""
    upgrade = hop.upgrade
    if upgrade.old is None:
        old_state = from_json(stored)
    else:
        model = upgrade.old.state_model
        old_state = model.__pydantic_validator__.validate_json(upcasted(model, stored), by_name=True, by_alias=False)
    state = upgrade.make(old_state)
    if not isinstance(state, hop.saga.state_model):
        raise TypeError(f"the upgrade returned {type(state).__name__}; return {hop.saga.state_model.__name__}")
    return state


def _bound(draft: Draft) -> None:
    """A deadline that the old version did not have runs from the start of the saga: waits may rely on it."""
    deadline = draft.saga.deadline
    if (
        deadline is not None
        and draft.status in (Status.RUNNING, Status.WAITING)
        and DEADLINE not in draft.timers
        and DEADLINE_PASSED not in draft.attention
    ):
        left = draft.instance.started_at + deadline - draft.given.now
        draft.arm(DEADLINE, max(left, timedelta(0)))
