"""A saga that nothing may run: its version is loaded nowhere, and it has no place in the version that is.

Rules kept here: its rows are held with that reason, an operator's wish is told so, and no timer fires; whoever folds it
next with a version that fits lifts all that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from saga_worker.saga.changes import SagaChange
from saga_worker.saga.fold.backlog import NO_UPGRADE, changed
from saga_worker.saga.instance import Instance
from saga_worker.saga.rows import InboxRow, Role, RowState

ABOUT: Final = f"{NO_UPGRADE}: "


def strand(instance: Instance, rows: Sequence[InboxRow], why: str, now: datetime) -> SagaChange:
    """Hold what this saga has waiting, and put it on the attention list; nothing else of it changes."""
    listed = [entry for entry in instance.progress.attention if not entry.startswith(ABOUT)]
    listed.append(f"{ABOUT}version {instance.definition_version} is not loaded, {why}".replace("; ", ", "))
    after = instance
    if listed != list(instance.progress.attention):
        progress = replace(instance.progress, attention=tuple(listed))
        after = replace(instance, attention="; ".join(listed), progress=progress)
    change = SagaChange(ref=instance.ref, before=instance, after=after, clear_wake=True)
    for row in rows:
        if row.state is RowState.READY and row.role is Role.OPERATOR:
            change.rows.append(changed(row, RowState.IGNORED, reason=NO_UPGRADE, settled_at=now))
        elif row.state is RowState.READY:
            change.rows.append(changed(row, RowState.HELD, reason=NO_UPGRADE))
    return change
