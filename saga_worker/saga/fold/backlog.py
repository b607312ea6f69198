"""Inbox rows in and out of `fold`: what a row says, and what can be said of a row.

Takes rows as the inbox keeps them, guarantees that what is written of a row loses none of its counters, and hands
`fold` inputs for `decide` and changes for the inbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, assert_never

from saga_worker.saga.inputs import (
    START,
    TAKE_BACK,
    ActivityResult,
    ChildEnded,
    EventArrived,
    Input,
    OperatorCommand,
    ParentAsked,
    ReplyArrived,
)
from saga_worker.saga.routing import parse_child_message_id, seq_of
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.starters import Starter

BEHIND_DEAD: Final = "behind_dead"
PAUSED: Final = "paused"
FAILED: Final = "failed"
HANDLER_ERROR: Final = "handler_error"
WORKER_KILLED: Final = "worker_killed"
NO_UPGRADE: Final = "no_upgrade"
BLOCKING: Final = frozenset({HANDLER_ERROR, WORKER_KILLED})  # only what died while being applied blocks its saga
# Reasons for being held that `fold` judges anew; whoever folds has the definition at hand.
LIFTED_HERE: Final = frozenset({BEHIND_DEAD, PAUSED, FAILED, "definition_absent", NO_UPGRADE})


SAGA_SOURCE: Final = "saga:"  # and the definition: the source of what sagas tell each other
UNAWAITED_SOURCE: Final = "saga"  # of a start whose end nobody waits for


def sequence(row: InboxRow) -> tuple[int, int]:
    """Operators first, then in the order of arrival."""
    return (0 if row.role is Role.OPERATOR else 1, row.id)


def input_of(row: InboxRow) -> Input:
    """What the row carries, for `decide`."""
    match row.role:
        case Role.EVENT:
            starter = Starter(row.reply_to, row.correlation_id or row.message_id) if row.reply_to is not None else None
            return EventArrived(row.type, row.saga_key or "", row.body, row.source, row.trace, starter)
        case Role.REPLY:
            return ReplyArrived(seq_of(row.correlation_id), row.type, row.body, row.trace)
        case Role.ACTIVITY:
            return ActivityResult(seq_of(row.correlation_id), row.type, row.body)
        case Role.OPERATOR:
            return OperatorCommand(row.type, row.body)
        case Role.CHILD if row.type in (START, TAKE_BACK):
            parent = row.source.removeprefix(SAGA_SOURCE) if row.source.startswith(SAGA_SOURCE) else ""
            return ParentAsked(row.type, row.saga_key or "", parent, row.message_id, row.body, row.trace)
        case Role.CHILD:
            ids = parse_child_message_id(row.message_id)
            _, seq, item = ids if ids is not None else (None, 0, None)
            return ChildEnded(seq, item, row.type, row.body)
        case _:
            assert_never(row.role)


def changed(
    row: InboxRow, state: RowState, *, reason: str | None = None, expires_at: datetime | None = None,
    settled_at: datetime | None = None,
) -> RowChange:  # fmt: skip
    """`row` in a new state; its counters stay, what made it wait does not. Only a decision clears a suspect."""
    is_undecided = state in (RowState.READY, RowState.HELD) or reason == BEHIND_DEAD
    return RowChange(
        id=row.id, state=state, reason=reason, attempts=row.attempts, crashes=row.crashes, expires_at=expires_at,
        first_failed_at=row.first_failed_at, settled_at=settled_at, suspect=row.suspect and is_undecided,
        sequence=row.sequence if state is RowState.PARKED else None,
    )  # fmt: skip


def failed(row: InboxRow, now: datetime, *, attempts: int) -> RowChange:
    """The counters of a row that failed now; the caller puts in state, reason and error."""
    return RowChange(
        id=row.id, state=RowState.READY, attempts=attempts, crashes=row.crashes,
        first_failed_at=row.first_failed_at or now, last_failed_at=now,
    )  # fmt: skip


def is_held_here(row: InboxRow) -> bool:
    """Held back by something that `fold` judges: also what was parked behind a dead start, undecided."""
    if row.state is RowState.PARKED:
        return row.reason == BEHIND_DEAD
    return row.state is RowState.HELD and row.reason in LIFTED_HERE


def is_blocked(rows: Iterable[InboxRow]) -> bool:
    """Whether a dead row stops the saga of these rows."""
    return any(is_blocking(row) for row in rows)


def is_blocking(row: InboxRow) -> bool:
    """Dead in a way that holds up what comes after it; operators block nobody."""
    return row.state is RowState.DEAD and row.reason in BLOCKING and row.role is not Role.OPERATOR
