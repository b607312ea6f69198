"""Functions that a process wants to have called when a step was executed or failed, or is taken back.

Takes functions by `register_hooks`; `happened` says, without calling anything, what a committed transaction means for
them. What is registered belongs to the process: register it where the definitions are, so that every worker has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from inspect import iscoroutinefunction
from typing import Any, Final, TypeAlias
from uuid import UUID

from saga_worker.saga.changes import SagaChange
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Instance, Progress
from saga_worker.saga.names import LOCAL_FAILED, NO_ANSWER, RESEND, TIMEOUT
from saga_worker.saga.transitions import Status


@dataclass(frozen=True, slots=True)
class StepContext:
    """A command, an activity, a local step or a sub-saga, as it stands after the commit."""

    saga_id: UUID
    definition: str
    key: str
    step: str
    attempt: int  # how often it was sent, or begun anew, from 1
    error: str | None = None  # of a step that failed: why, as far as the saga says


@dataclass(frozen=True, slots=True)
class CompensationContext:
    """The taking back of one step."""

    saga_id: UUID
    definition: str
    key: str
    step: str
    attempt: int  # how many undos of it were sent so far; 0: it was undone outside
    original_error: str | None  # why the saga compensates


class Hook(Enum):
    """When a function is called."""

    STEP_EXECUTED = "step_executed"
    STEP_FAILED = "step_failed"
    COMPENSATION_TRIGGERED = "compensation_triggered"
    COMPENSATION_COMPLETED = "compensation_completed"


StepHook: TypeAlias = Callable[[StepContext], object]
CompensationHook: TypeAlias = Callable[[CompensationContext], object]
Context: TypeAlias = StepContext | CompensationContext
_HOOKS: Final[list[tuple[Hook, Callable[[Any], object]]]] = []


def register_hooks(
    *,
    step_executed: StepHook | None = None,
    step_failed: StepHook | None = None,
    compensation_triggered: CompensationHook | None = None,
    compensation_completed: CompensationHook | None = None,
) -> None:
    """From now on call these, in this process, after the commit of what they are about; at most once each time.

    They are plain functions and hold up the worker while they run: hand on what takes time. One that raises is logged,
    and the saga goes on. A worker that dies between the commit and the call does not call them: for what must not be
    missed a definition has `lifecycle=True`, or steps of its own. Raises TypeError for an async function.
    """
    given = {
        Hook.STEP_EXECUTED: step_executed,
        Hook.STEP_FAILED: step_failed,
        Hook.COMPENSATION_TRIGGERED: compensation_triggered,
        Hook.COMPENSATION_COMPLETED: compensation_completed,
    }
    for hook, function in given.items():
        if function is not None and iscoroutinefunction(function):
            raise TypeError(f"the hook {hook.value} is an async function; give a plain one that hands its work on")
    _HOOKS.extend((hook, function) for hook, function in given.items() if function is not None)


def clear_hooks() -> None:
    """Forget all that was registered; for tests."""
    _HOOKS.clear()


def any_hooks() -> bool:
    """Whether somebody wants to be called."""
    return bool(_HOOKS)


def calls(change: SagaChange) -> Iterator[tuple[Hook, Callable[[Any], object], Context]]:
    """The functions to be called for this committed transaction, each with what it is told."""
    for hook, context in happened(change):
        for wanted, function in list(_HOOKS):
            if wanted is hook:
                yield hook, function, context


def happened(change: SagaChange) -> Iterator[tuple[Hook, Context]]:
    """What the steps of this saga have come to in one transaction, in the order of their numbers."""
    after = change.after
    if after is None or after is change.before:
        return
    before = change.before if change.before is not None and change.before.saga_id == after.saga_id else None
    known = before.progress if before is not None else Progress()
    for seq, record in sorted(after.progress.commands.items()):
        old = known.commands.get(seq)
        if record is old:
            continue
        if record.kind is CommandKind.FORWARD:
            yield from _of_step(before, after, old, record)
        elif old is None and record.undoes is not None:
            undone = after.progress.commands[record.undoes]
            if not any(c.undoes == undone.seq for c in known.commands.values()) and _is_first(after, record):
                yield Hook.COMPENSATION_TRIGGERED, _compensation(after, undone, 1)
    for record in _silent(before, after):
        yield Hook.STEP_FAILED, _step(after, record, after.reason or "nobody answered")


def _silent(before: Instance | None, after: Instance) -> Iterator[CommandRecord]:
    """Open steps that have just run out of tries without anybody's word; those of activities say so themselves."""
    progress = after.progress
    known = before.progress.attention if before is not None else ()
    new = {entry for entry in progress.attention if entry not in known}
    has_failed = after.status is Status.FAILED and (before is None or before.status is not Status.FAILED)
    for step_id, seq in progress.active.items():
        if seq is None or (record := progress.commands[seq]).fate is not Fate.SENT or record.is_given_up:
            continue
        is_listed = bool({f"{NO_ANSWER}: {step_id}", f"{LOCAL_FAILED}: {step_id}"} & new)
        is_stuck = bool(record.destination) and not {f"{TIMEOUT}:{seq}", f"{RESEND}:{seq}"} & progress.timers.keys()
        if is_listed or (has_failed and is_stuck):
            yield record


def _of_step(
    before: Instance | None, after: Instance, old: CommandRecord | None, record: CommandRecord
) -> Iterator[tuple[Hook, Context]]:
    fate = old.fate if old is not None else Fate.SENT
    if record.fate is Fate.DONE and fate is not Fate.DONE:
        yield Hook.STEP_EXECUTED, _step(after, record)
    elif record.fate in (Fate.REJECTED, Fate.UNKNOWN) and fate is Fate.SENT:
        yield Hook.STEP_FAILED, _step(after, record, after.reason or record.fate.value)
    elif record.is_given_up and not (old is not None and old.is_given_up):
        yield Hook.STEP_FAILED, _step(after, record, after.reason or "no attempt is left")
    if record.undone and not (old is not None and old.undone):
        undos = sum(c.undoes == record.seq for c in after.progress.commands.values())
        yield Hook.COMPENSATION_COMPLETED, _compensation(after, record, undos)


def _is_first(after: Instance, undo: CommandRecord) -> bool:
    return undo.seq == min(c.seq for c in after.progress.commands.values() if c.undoes == undo.undoes)


def _step(saga: Instance, record: CommandRecord, error: str | None = None) -> StepContext:
    return StepContext(saga.saga_id, saga.definition, saga.key, record.step, record.attempts, error)


def _compensation(saga: Instance, record: CommandRecord, attempt: int) -> CompensationContext:
    return CompensationContext(saga.saga_id, saga.definition, saga.key, record.step, attempt, saga.reason)
