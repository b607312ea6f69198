"""Who waits for the end of a saga: those that have asked for an answer in the event that started it, or joined it.

Takes what was stored of an event and the working copy of a saga; adds one reply for each of them when the saga ends. A
definition without a declared result answers nobody, and its rows hold not even a name of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Raw, Struct
from pydantic_core import from_json, to_json

from saga_worker.saga.transitions import Status

if TYPE_CHECKING:
    from saga_worker.saga.draft import Draft

ENDED: Final = "saga_ended"  # the type of the reply
MAX_STARTERS: Final = 100  # of one saga; they stand in its row
_STORED: Final = b'"reply_to":'  # as `props` of an inbox row hold it, and inbox/read_backlog.sql looks for it


class Starter(Struct, frozen=True, array_like=True):
    """The queue that gets the answer, and what the answer is known by there. Stored as an array."""

    reply_to: str
    correlation_id: str


def stored_reply_to(props: bytes) -> str | None:
    """The queue to which a stored message asks for an answer. Nearly free for those that do not."""
    if _STORED not in props:
        return None
    queue = from_json(props).get("reply_to")
    return queue if isinstance(queue, str) and queue else None


def join(draft: Draft, starter: Starter | None) -> bool:
    """Note that this one waits for the end, or answer at once if it has come; False: nobody asks, or too many do."""
    if starter is None or draft.saga.result is None or len(draft.starters) >= MAX_STARTERS:
        return False
    draft.starters = (*draft.starters, starter)
    if draft.status is not None and draft.status.is_final:
        answer(draft, draft.status)
    return True


def keep_result(draft: Draft, status: Status) -> None:
    """What a completed saga says that it has come to, by the function of its definition."""
    maker = draft.saga.result
    if maker is not None and status is Status.COMPLETED:
        draft.near = maker.function
        draft.result = Raw(maker.make(draft.state))


def answer(draft: Draft, status: Status) -> None:
    """Tell all who wait how it has ended."""
    if not draft.starters:
        return
    body = to_json(
        {
            "saga_id": str(draft.instance.saga_id),
            "saga": draft.saga.name,
            "key": draft.instance.key,
            "status": status.label,
            "reason": draft.reason,
            "result": from_json(bytes(draft.result)) if isinstance(draft.result, Raw) else None,
        }
    )
    for starter in draft.starters:
        draft.reply_to(starter.reply_to, starter.correlation_id, ENDED, body)
    draft.starters = ()
