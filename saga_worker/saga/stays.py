"""Where sagas of an older version stay, although a newer one upgrades it: step by step, before any saga is there.

Takes a definition with its upgrades, goes through the places at which a saga of the old one can stand, and hands one
sentence for each that has no place in the new one to `saga-worker definitions check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from saga_worker.saga import flow
from saga_worker.saga.carry_over import NoPlace, carry_over
from saga_worker.saga.definition import Saga
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Instance, Progress
from saga_worker.saga.messages import wire_types
from saga_worker.saga.own_work import AnyStep
from saga_worker.saga.steps import CommandOf, EmitStep, SavepointStep, SleepStep, WaitStep
from saga_worker.saga.transitions import Status

_NOBODY: Final = UUID(int=0)
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


def stays(saga: Saga[Any]) -> Iterator[str]:
    """One line for each step of an older version that is loaded at which sagas have to go on under that."""
    for upgrade in saga.upgrades.values():
        if (old := upgrade.old) is None:
            continue
        for step in old.steps.values():
            if isinstance(step, EmitStep | SavepointStep):
                continue  # nobody stands there
            try:
                carry_over(saga, upgrade, _standing_at(old, step))
            except NoPlace as why:
                yield (
                    f"{upgrade.source}: saga {saga.name}: what stands at {step.id} stays under version {old.version} as"
                    f" long as it does: {why}."
                )


def _standing_at(old: Saga[Any], step: AnyStep) -> Instance:
    """A saga that has done all that comes before this step, and waits at it."""
    root = old.flow_root
    before = [
        each for each in old.steps.values() if each.id not in root.reach[step.id] and step.id in root.reach[each.id]
    ]
    done = [_record(each, Fate.DONE, seq) for seq, each in enumerate(before, start=1) if _is_answered(each)]
    commands = {record.seq: record for record in done}
    active: dict[str, int | None] = {step.id: None}
    if _is_answered(step):
        seq = len(before) + 1
        active[step.id], commands[seq] = seq, _record(step, Fate.SENT, seq)
    is_past = bool(root.pivots) and not root.pivots & flow.ahead(root, active)
    return Instance(
        saga_id=_NOBODY, ref=_NOBODY, definition=old.name, definition_version=old.version, key="",
        status=Status.RUNNING, revision=1, seq=len(commands), unsettled=0, attention=None, reason=None, state=b"{}",
        progress=Progress(active=active, commands=commands, pivoted=is_past), started_at=_NEVER, updated_at=_NEVER,
    )  # fmt: skip


def _is_answered(step: AnyStep) -> bool:
    return not isinstance(step, WaitStep | SleepStep | EmitStep | SavepointStep)


def _record(step: AnyStep, fate: Fate, seq: int) -> CommandRecord:
    destination, type_ = (step.to, wire_types(step.command_model)[0]) if isinstance(step, CommandOf) else ("", step.id)
    return CommandRecord(
        seq=seq, step=step.id, kind=CommandKind.FORWARD, fate=fate, destination=destination, type=type_, body=None
    )  # fmt: skip
