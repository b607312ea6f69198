"""What an operator asks of sagas: an operator row each, beside an audit row, in one transaction per batch.

Nothing here changes a saga; a worker applies the row under the saga's lock, before any other input.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

from pydantic_core import to_json

from saga_worker import inbox
from saga_worker.inbox import NewRow
from saga_worker.sql import storable
from saga_worker.sql.connection import Database
from saga_worker.wake_up import tell

BATCH: Final = 500
LOOK_SECONDS: Final = 0.1
APPLIED: Final = "applied"
WAITING: Final = "waiting"
# Why a saga does not take what an operator asks of it.
REFUSALS: Final = {
    "after_pivot": "it is past its pivot, where nothing is taken back; let it go on, or end it as it is with"
    " `saga-worker saga cancel`",
    "compensating": "it is being taken back already",
    "saga_finished": "it has ended",
    "paused": "it is paused; `saga-worker saga resume` ends that",
    "no_compensation": "its definition never takes anything back (compensate=False)",
    "not_repeatable": "what would have to be sent or run again must not be (repeatable=False); see to it, then say"
    " `saga-worker saga mark-undone`, or wait for its answer",
    "not_paused": "it is not paused",
    "not_waiting": "it does not stand at this wait or sleep; `saga-worker saga show` says where it stands",
    "timer_not_armed": "the timer has fired meanwhile, or was cancelled or armed anew; look again",
    "nothing_to_mark": "nothing that this step has done is left to be undone; `saga-worker saga show` lists what each"
    " step has done",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A saga that something is asked of."""

    ref: UUID
    definition: str
    key: str
    attention: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """`command` is one of `saga.decide.operator.COMMANDS`; `arguments` are what it needs besides the reason."""

    command: str
    arguments: Mapping[str, object] = field(default_factory=dict)


async def request(
    database: Database, targets: Sequence[Target], wanted: Request, *, actor: str, why: str | None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[int]:  # fmt: skip
    """Store the requests; the ids of their rows."""
    arguments = {**wanted.arguments, **({"why": storable(why)} if why is not None else {})}
    body = to_json(arguments)
    after = to_json(wanted.arguments).decode() if wanted.arguments else None
    ids: list[int] = []
    for start in range(0, len(targets), BATCH):
        batch = targets[start : start + BATCH]
        async with database.transaction() as connection:
            stored = await inbox.insert(connection, [_row(target, wanted.command, body, actor) for target in batch])
            before = [to_json({"attention": target.attention}).decode() for target in batch]
            names = [f"saga/{target.definition}/{target.key}" for target in batch]
            afters = [after] * len(batch)
            await connection.execute("insert_audit", actor, wanted.command, storable(why), names, before, afters)
        async with database.autocommit() as connection:
            await tell(connection)
        ids += [id_ for _, id_ in stored.new]
        advance(len(batch))
    return ids


async def outcomes(database: Database, ids: Sequence[int], *, wait_seconds: float) -> Counter[str]:
    """What became of the requests, as soon as none is waiting any more, or after `wait_seconds`; words to counts."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while True:
        async with database.autocommit() as connection:
            rows = await connection.fetch("admin_outcomes", ids)
        found = Counter(_word(row["state"], row["reason"]) for row in rows)
        if not found[WAITING] or loop.time() >= deadline:
            return found
        await asyncio.sleep(LOOK_SECONDS)


async def workers_alive(database: Database) -> int:
    async with database.autocommit() as connection:
        return int(await connection.fetchval("admin_workers"))


def _row(target: Target, command: str, body: bytes, actor: str) -> NewRow:
    props = to_json({"actor": actor})
    return inbox.operator_row(
        target.definition, target.ref, target.key, command, message_id=f"{command}:{uuid4()}", props=props, body=body
    )


def _word(state: str, reason: str | None) -> str:
    if state == "done":
        return APPLIED
    if state in ("ignored", "dead"):
        return reason or state
    return WAITING
