"""Early rows: events that came before the saga takes them, and numbered ones before their turn.

Rules kept here: all are offered again after every step that moved the saga, lowest id first, numbered ones in the
order of their numbers; nothing overtakes a row that waits; who runs alone offers none, but puts those whose turn may
have come back in sequence; a period that is over makes a dead letter. A row that was parked in this very transaction
gets only its last word written.
"""

from __future__ import annotations

from msgspec.structs import replace

from saga_worker.saga.decide.event import is_over
from saga_worker.saga.fold.attention import note_gap
from saga_worker.saga.fold.backlog import changed, failed, input_of
from saga_worker.saga.fold.outcomes import hold, settle
from saga_worker.saga.fold.working_copy import WorkingCopy
from saga_worker.saga.inputs import Parked
from saga_worker.saga.instance import Instance
from saga_worker.saga.rows import InboxRow, RowState


def offer_after_step(copy: WorkingCopy, before: Instance | None) -> None:
    """Where the saga has moved, early rows may have their turn; where a line has, the next of it."""
    if not copy.has_early:
        return
    if not copy.has_moved(before):
        if copy.alone:
            put_behind(copy, _next_in_line(copy))
        elif copy.lines:
            _move_lines(copy)
    elif copy.alone:
        put_all_behind(copy)
    elif copy.is_stopped():
        copy.is_offered = False  # an operator's row moved the saga; nothing overtakes those that wait
    else:
        _offer(copy)


def offer_once(copy: WorkingCopy) -> None:
    """A net under the offers that follow a step, and the turn of rows that an earlier page left out."""
    if not (copy.is_offered or copy.alone or copy.is_stopped()):
        _offer(copy)


def put_all_behind(copy: WorkingCopy) -> bool:
    """Whatever may have its turn now: back in sequence. Whether there was any."""
    rows = [*copy.parked, *_next_in_line(copy)]
    copy.parked = []
    put_behind(copy, rows)
    return bool(rows)


def put_behind(copy: WorkingCopy, rows: list[InboxRow]) -> None:
    """Parked rows whose turn may be now, but not in this transaction: in sequence with all others again."""
    for row in rows:
        _forget(copy, row)
        if copy.is_blocked():
            hold(copy, row)
        else:
            copy.change.rows.append(changed(row, RowState.READY, expires_at=row.expires_at))
            copy.change.again = copy.change.again or not copy.rows_wait


def expire(copy: WorkingCopy) -> None:
    """Give up those that nothing took up in time."""
    for row in [*copy.parked, *copy.lines]:
        if row.expires_at is None or row.expires_at > copy.given.now:
            continue
        _forget(copy, row)
        if copy.is_blocked():  # what they wait for may only be dead, and come back: another period
            expires_at = copy.given.now + copy.limits.parking
            change = changed(row, RowState.PARKED, reason=row.reason, expires_at=expires_at)
        else:
            reason = "unknown_saga" if copy.instance is None else "not_expected"
            error = f"Nothing took up this {row.type} before its parking period ended."
            counted = failed(row, copy.given.now, attempts=row.attempts)
            change = replace(counted, state=RowState.DEAD, reason=reason, error=error)
            note_gap(copy, row)
        copy.change.rows.append(change)


def _offer(copy: WorkingCopy) -> None:
    """Every row, lowest id first; from the start again whenever one of them moved the saga."""
    copy.is_offered = True
    if not _move_lines(copy):
        return
    place = 0
    while place < len(copy.parked):
        before = copy.instance
        still_parked = _try(copy, copy.parked[place])
        if still_parked is not None:
            copy.parked[place] = still_parked
            place += 1
            continue
        del copy.parked[place]
        if copy.has_moved(before):
            if not _move_lines(copy):
                return
            place = 0
        elif copy.is_stopped():  # it raised
            behind, copy.parked = copy.parked[place:], copy.parked[:place]
            put_behind(copy, behind)
            return


def _move_lines(copy: WorkingCopy) -> bool:
    """Apply numbered rows as long as the next of some line is there; False when one of them failed."""
    waiting: list[InboxRow] = []  # their number has come, but the saga does not stand where it takes them
    while not copy.is_stopped() and (rows := _next_in_line(copy)):
        for place, row in enumerate(rows):
            before = copy.instance
            still_parked = _try(copy, row)
            if still_parked is not None:
                waiting.append(still_parked)
                continue
            if copy.has_moved(before):
                copy.lines.extend(waiting)
                waiting = []
            if copy.is_stopped():
                waiting += rows[place + 1 :]
                break
    copy.lines.extend(waiting)
    return not copy.is_stopped()


def _next_in_line(copy: WorkingCopy) -> list[InboxRow]:
    """The numbered rows whose turn it is, taken out of their lines; all of them when the saga takes no more."""
    if copy.instance is None:
        return []
    if is_over(copy.instance.status):
        rows = copy.lines.take_all()
        copy.change.again = copy.change.again or bool(rows)  # there may be more than were read
        return rows
    return copy.lines.take_next(copy.instance.progress.sequences)


def _try(copy: WorkingCopy, row: InboxRow) -> InboxRow | None:
    """Decide about an early row: the row if it stays parked, written again only when it waits for something else."""
    decision = copy.decide(input_of(row))
    match decision.outcome:
        case Parked(reason) if reason == row.reason:
            return row
        case Parked(reason):
            _forget(copy, row)
            copy.change.rows.append(changed(row, RowState.PARKED, reason=reason, expires_at=row.expires_at))
            return replace(row, reason=reason)
    _forget(copy, row)
    settle(copy, row, decision)
    return None


def _forget(copy: WorkingCopy, row: InboxRow) -> None:
    """Before another word about a row that may have been parked in this transaction."""
    copy.change.rows = [change for change in copy.change.rows if change.id != row.id]
