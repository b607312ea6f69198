"""New rows on the fast path: stored `done` before anybody has decided about them, then corrected.

Most rows are applied at once and never written again. Takes a consumer's batch and what became of it in the inbox;
hands `fold` its rows behind everything older, and makes sure that whatever was not plainly applied is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

from saga_worker import inbox
from saga_worker.inbox import NewRow
from saga_worker.orchestrator.contract import Advanced
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.starters import stored_reply_to
from saga_worker.saga.trace import stored_trace

FreshRows: TypeAlias = dict[UUID, list[InboxRow]]
_NOT_READ: Final = UUID(int=0)  # `fold` has no use for it


def is_fresh(row: NewRow) -> bool:
    """Whether this row may be applied in the transaction that stores it."""
    return row.state is RowState.READY and not row.suspect and row.role in (Role.EVENT, Role.REPLY, Role.ACTIVITY)


def add_to_backlog(
    backlog: inbox.Backlog, rows: Sequence[NewRow], inserted: inbox.Inserted, places: AbstractSet[int]
) -> FreshRows:
    """The rows at `places` as `fold` reads them, those that are new; also in the backlog, behind everything older.

    Where the backlog was cut short they are not added: they are younger than what was not read.
    """
    fresh: FreshRows = defaultdict(list)
    for place in sorted(places):
        row, outcome = rows[place], inserted.outcomes[place]
        if outcome.verdict is inbox.Verdict.NEW and outcome.id is not None and row.ref is not None:
            fresh[row.ref].append(_as_read(row, outcome.id, backlog.now))
    for ref, added in fresh.items():
        if ref not in backlog.truncated:
            backlog.rows.setdefault(ref, []).extend(added)
    return fresh


def correct(advanced: Advanced, fresh: FreshRows) -> None:
    """Leave those alone that are `done` as they were born; write the others as they were judged or left."""
    ids = {row.id for rows in fresh.values() for row in rows}
    judged: set[int] = set()
    for change in advanced.changes:
        judged.update(row.id for row in change.rows)
        change.rows = [row for row in change.rows if row.id not in ids or not _is_plainly_done(row)]
    left = [RowChange(id=id_, state=RowState.READY) for id_ in sorted(ids - judged)]
    if left:
        advanced.left = left


def _as_read(row: NewRow, id_: int, now: datetime) -> InboxRow:
    return InboxRow(
        id=id_, dedup=_NOT_READ, consumer=row.consumer, source=row.source, message_id=row.message_id, type=row.type,
        role=row.role, ref=row.ref, saga_key=row.saga_key, correlation_id=row.correlation_id, state=RowState.READY,
        reason=None, suspect=False, attempts=0, crashes=0, first_failed_at=None, next_at=None, expires_at=None,
        received_at=now, body=row.body, trace=stored_trace(row.props),
        reply_to=stored_reply_to(row.props) if row.role is Role.EVENT else None,
    )  # fmt: skip


def _is_plainly_done(row: RowChange) -> bool:
    return row.state is RowState.DONE and row.reason is None
