"""What becomes of a row once it was decided about, or could not be.

Rules kept here: a row that the author's code fails on comes again after a back-off, then is a dead letter that blocks
its saga; a wrong one is a dead letter that blocks nobody; an early one parks for a limited time. An operator's row
never blocks.
"""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from saga_worker.saga.fold.attention import stop_timer
from saga_worker.saga.fold.backlog import BEHIND_DEAD, FAILED, HANDLER_ERROR, PAUSED, WORKER_KILLED, changed, failed
from saga_worker.saga.fold.working_copy import WorkingCopy
from saga_worker.saga.inputs import Applied, Decision, Ignored, Parked, Postponed, Raised, Refused
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.second_start import QUEUED
from saga_worker.saga.transitions import Status


def settle(copy: WorkingCopy, row: InboxRow, decision: Decision) -> bool:
    """Write down what became of `row`; True when it was applied, and the saga has gone on."""
    now = copy.given.now
    match decision.outcome:
        case Applied() if copy.is_next_run(decision) and not copy.may_begin_run():
            _put_off(copy, row)
        case Applied(reason):
            copy.change.rows.append(changed(row, RowState.DONE, reason=reason, settled_at=now))
            kind = row.role.name.lower()
            copy.record(decision, kind=kind, source=row.source, message_id=row.message_id, inbox_id=row.id)
            return True
        case Ignored(reason):
            copy.change.rows.append(changed(row, RowState.IGNORED, reason=reason, settled_at=now))
        case Parked(reason, number):
            _park(copy, row, reason, number)
        case Refused(reason, error):
            counted = failed(row, now, attempts=row.attempts + 1)
            copy.change.rows.append(replace(counted, state=RowState.DEAD, reason=reason, error=error))
        case Raised(error):
            _fail(copy, row, error)
        case Postponed():
            raise AssertionError("only a timer is postponed")
        case _:
            assert_never(decision.outcome)
    return False


def bury(copy: WorkingCopy, row: InboxRow) -> None:
    """Workers died of this row, alone with it, as often as they may."""
    error = f"{row.crashes} workers died while they applied this row, alone; the last word has an operator."
    _block(copy, row, failed(row, copy.given.now, attempts=row.attempts), reason=WORKER_KILLED, error=error)
    if row.role is Role.OPERATOR and copy.upgrade is not None:
        stop_timer(copy, row)


def hold(copy: WorkingCopy, row: InboxRow) -> None:
    """Behind a dead row, or in a saga that stands still. Without one (its start died) the row parks without an end."""
    if copy.instance is None:
        copy.change.rows.append(changed(row, RowState.PARKED, reason=BEHIND_DEAD))
    else:
        reason = BEHIND_DEAD
        if copy.instance.stands_still:
            reason = PAUSED if copy.instance.status is Status.PAUSED else FAILED
        copy.change.rows.append(changed(row, RowState.HELD, reason=reason))


def _put_off(copy: WorkingCopy, row: InboxRow) -> None:
    """It begins the next run in the next transaction, before all rows that are younger."""
    if row.state is RowState.PARKED:
        copy.change.rows.append(changed(row, RowState.READY))
    copy.rows_wait = copy.change.again = True


def _park(copy: WorkingCopy, row: InboxRow, reason: str, number: int | None) -> None:
    expires_at = None if reason in QUEUED else row.expires_at or copy.given.now + copy.limits.parking
    parked = replace(row, state=RowState.PARKED, reason=reason, expires_at=expires_at, sequence=number)
    copy.change.rows.append(changed(parked, RowState.PARKED, reason=reason, expires_at=expires_at))
    if number is None:
        copy.parked.append(parked)
    else:
        copy.lines.add(parked)


def _fail(copy: WorkingCopy, row: InboxRow, error: str) -> None:
    """The author's code raised."""
    counted = failed(row, copy.given.now, attempts=row.attempts + 1)
    delay = copy.limits.attempts.delay(counted.attempts, copy.given.jitter)
    if delay is None:
        _block(copy, row, counted, reason=HANDLER_ERROR, error=error)
        return
    copy.change.rows.append(replace(counted, state=RowState.READY, error=error, next_at=copy.given.now + delay))
    copy.rows_wait = copy.rows_wait or row.role is not Role.OPERATOR


def _block(copy: WorkingCopy, row: InboxRow, counted: RowChange, *, reason: str, error: str) -> None:
    copy.change.rows.append(replace(counted, state=RowState.DEAD, reason=reason, error=error))
    copy.is_behind_dead = copy.is_behind_dead or row.role is not Role.OPERATOR
