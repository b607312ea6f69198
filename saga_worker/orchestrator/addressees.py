"""To which definition a reply belongs: its correlation id names the saga, not the definition.

Takes new rows and the sagas that are known already; fills in the rows. A reply to no saga of ours becomes a dead
letter. Called by whoever stores a consumer's batch, before it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from saga_worker.inbox import NewRow
from saga_worker.saga.instance import Instance
from saga_worker.saga.rows import Role, RowState
from saga_worker.sql.connection import Connection


async def name_consumers(connection: Connection, rows: Sequence[NewRow], known: Mapping[UUID, Instance]) -> None:
    """Ask only for the sagas that are not `known`."""
    replies = [(row, row.ref) for row in rows if row.role is Role.REPLY and row.ref is not None]
    definitions = {ref: known[ref].definition for _, ref in replies if ref in known}
    unknown = {ref for _, ref in replies if ref not in definitions}
    if unknown:
        found = await connection.fetch("definitions_of_refs", unknown)
        definitions |= {each["ref"]: each["definition"] for each in found}
    for row, ref in replies:
        definition = definitions.get(ref)
        if definition is not None:
            row.consumer = definition
        else:
            _refuse(row)


def _refuse(row: NewRow) -> None:
    row.ref, row.state, row.suspect = None, RowState.DEAD, False
    row.reason = "unknown_command"
    row.error = "Its correlation id has the form of our command ids, but no saga of ours sent it."
