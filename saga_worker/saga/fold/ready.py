"""Ready rows, each in its turn.

Rules kept here: older rows first; a row in back-off, a suspect or a dead one stops those behind it, and never an
operator's; a suspect runs alone; what was held becomes ready as it was, before anything younger.
"""

from __future__ import annotations

from saga_worker.saga.fold import early
from saga_worker.saga.fold.backlog import changed, input_of
from saga_worker.saga.fold.outcomes import bury, hold, settle
from saga_worker.saga.fold.working_copy import WorkingCopy
from saga_worker.saga.rows import InboxRow, Role, RowState


def apply(copy: WorkingCopy) -> None:
    """Apply those whose turn comes in this transaction."""
    rows = copy.ready
    if copy.held and not copy.is_blocked():
        _release(copy)
        rows = [row for row in rows if row.role is Role.OPERATOR]
    for row in rows:
        if copy.alone and copy.applied:
            copy.rows_wait = copy.change.again = True
            return
        if not _may_run(copy, row):
            continue
        copy.applied += 1
        if row.suspect and row.crashes >= copy.limits.crashes:
            bury(copy, row)
        else:
            before = copy.instance
            if settle(copy, row, copy.decide(input_of(row))):
                if copy.held and not copy.is_blocked():  # resumed: before anything younger, also before early rows
                    _release(copy)
                early.offer_after_step(copy, before)


def _release(copy: WorkingCopy) -> None:
    """What held these rows is lifted: ready again, in their old order. Younger rows wait for the next round."""
    copy.change.rows += [changed(row, RowState.READY) for row in copy.held]
    copy.held = []
    copy.change.again = True
    copy.rows_wait = True


def _may_run(copy: WorkingCopy, row: InboxRow) -> bool:
    """Whether it is the turn of `row`. One that waits makes those behind it wait, unless it is an operator's."""
    is_operators = row.role is Role.OPERATOR
    if copy.upgrade is not None and copy.change.suspect is not None:
        return False  # the upgrade may be what killed, and whatever runs now would run it
    if not is_operators and copy.is_blocked() and not copy.is_second_start(row):
        hold(copy, row)
        return False
    if not is_operators and copy.rows_wait:
        return False  # behind a row in back-off or a suspect: its `next_at` decides for the whole saga
    is_suspect = row.suspect and not copy.alone
    if is_suspect and copy.change.suspect is None:
        copy.change.suspect = row.id
    may_run = not is_suspect and (row.next_at is None or row.next_at <= copy.given.now)
    copy.rows_wait = copy.rows_wait or not (may_run or is_operators) or (is_suspect and copy.upgrade is not None)
    return may_run
